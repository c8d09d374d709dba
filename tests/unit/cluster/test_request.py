"""What fits where, and what is said when nothing does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from distcnn.cluster.request import (
    Node,
    Request,
    capacity,
    describe,
    matches,
    render,
    shortfall,
)
from distcnn.config import RunConfig, WorkersConfig


def node(host: str = "one", labels: dict[str, str] | None = None, **resources: float) -> Node:
    return Node(id=host, host=host, resources=resources, labels={} if labels is None else labels)


def request(**values: object) -> Request:
    return Request.of(WorkersConfig.model_validate({"cpus": 1, "gpus": 0, **values}))


def test_a_request_is_what_the_config_asks_for() -> None:
    asked = request(
        count=4,
        cpus=2.5,
        gpus=1,
        placement="spread",
        accelerator_type="A100",
        label_selector={"zone": "a"},
    )
    assert asked == Request(
        count=4,
        resources={"CPU": 2.5, "GPU": 1, "accelerator_type:A100": 0.001},
        strategy="SPREAD",
        labels={"zone": "a"},
    )
    assert str(asked) == "4 workers of 2.5 CPU and 1 GPU (A100) on nodes with zone=a"


def test_an_elastic_run_asks_for_what_it_needs_to_go_on() -> None:
    elastic = request(min=2, max=8)
    assert elastic.count == 2
    assert "would fit: workers.min=1" in (shortfall(elastic, [node(CPU=1)]) or "")


def test_nodes_that_are_left_out_have_no_room_and_are_not_selected() -> None:
    asked = replace(request(count=2, label_selector={"zone": "a"}), without=frozenset("yx"))
    assert asked.selector == {"zone": "a", "ray.io/node-id": "!in(x,y)"}
    nodes = [node(host=name, labels={"zone": "a"}, CPU=2) for name in ("w", "x")]
    assert capacity(asked, nodes) == 2
    assert str(asked) == "2 workers of 1 CPU on nodes with zone=a"


def test_without_gpus_none_are_asked_for() -> None:
    assert request(count=1).resources == {"CPU": 1}
    assert str(request(count=1)) == "1 worker of 1 CPU"


@pytest.mark.parametrize(
    ("cpus", "room"),
    [
        (1, 2),
        (2, 1),
        (2.01, 0),
        (0.66, 3),
        (0.67, 2),
        (2 / 3, 3),
        (0.4, 5),
        (0.1, 20),
        (0.01, 200),
    ],
)
def test_fractions_of_two_cpus(cpus: float, room: int) -> None:
    assert capacity(request(cpus=cpus), [node(CPU=2)]) == room


def test_nodes_do_not_lend_to_each_other() -> None:
    nodes = [node(CPU=3), node(CPU=3), node(CPU=1)]
    assert capacity(request(cpus=2), nodes) == 2
    assert capacity(request(cpus=1), nodes) == 7
    assert capacity(request(cpus=1), []) == 0


def test_every_resource_has_to_be_there() -> None:
    nodes = [
        node("plain", CPU=8),
        node("a", CPU=8, GPU=2, **{"accelerator_type:A100": 1}),
        node("h", CPU=1, GPU=4, **{"accelerator_type:H100": 1}),
    ]
    assert capacity(request(gpus=1), nodes) == 3
    assert capacity(request(gpus=1, accelerator_type="A100"), nodes) == 2
    assert capacity(request(gpus=1, accelerator_type="V100"), nodes) == 0


@pytest.mark.parametrize(
    ("selector", "matching"),
    [
        ("a", {"a"}),
        ("!a", {"b", "c", None}),
        ("in(a, b)", {"a", "b"}),
        ("in(a,b)", {"a", "b"}),
        ("in(a)", {"a"}),
        ("!in(a, b)", {"c", None}),
    ],
)
def test_selectors_are_those_of_ray(selector: str, matching: set[str | None]) -> None:
    labels = ["a", "b", "c", None]
    assert {label for label in labels if matches(selector, label)} == matching


def test_only_nodes_with_the_labels_count() -> None:
    asked = request(label_selector={"zone": "a", "spot": "!true"})
    nodes = [
        node(CPU=1, labels={"zone": "a"}),
        node(CPU=2, labels={"zone": "a", "spot": "true"}),
        node(CPU=4, labels={"zone": "b"}),
        node(CPU=8),
    ]
    assert capacity(asked, nodes) == 1


def test_what_fits_lacks_nothing() -> None:
    assert shortfall(request(count=3, cpus=0.66), [node(CPU=2)]) is None


def lines_of(asked: Request, nodes: Sequence[Node]) -> list[str]:
    text = shortfall(asked, nodes)
    assert text is not None
    return text.splitlines()


def test_fewer_workers_or_smaller_ones_are_proposed() -> None:
    assert lines_of(request(count=4, cpus=2), [node("one", CPU=4), node("two", CPU=3)]) == [
        "the cluster can never run this:",
        "  asked: 4 workers of 2 CPU",
        "  there: one: 4 CPU",
        "  there: two: 3 CPU",
        "  would fit: workers.count=3, or workers.cpus=1.5",
    ]


def test_where_no_worker_fits_a_smaller_one_is_proposed() -> None:
    assert lines_of(request(count=3, cpus=8), [node(CPU=2)])[-1] == (
        "  would fit: workers.cpus=0.66"
    )


def test_where_there_are_too_few_gpus_fewer_workers_are_proposed() -> None:
    assert lines_of(request(count=4, gpus=1), [node(CPU=8, GPU=2)])[-1] == (
        "  would fit: workers.count=2"
    )


def test_a_gpu_that_is_nowhere_is_named() -> None:
    assert lines_of(request(count=2, gpus=1), [node(CPU=8)])[-1] == (
        "  would fit: no node has GPU: change what is asked for in workers"
    )


def test_an_accelerator_that_is_nowhere_is_named() -> None:
    there = node("h", CPU=8, GPU=1, **{"accelerator_type:H100": 1})
    assert lines_of(request(gpus=1, accelerator_type="A100"), [there]) == [
        "the cluster can never run this:",
        "  asked: 1 worker of 1 CPU and 1 GPU (A100)",
        "  there: h: 8 CPU and 1 GPU (H100)",
        "  would fit: no node has accelerator_type:A100: change what is asked for in workers",
    ]


def test_labels_that_no_node_has_are_shown_beside_those_there_are() -> None:
    there = node("h", CPU=8, labels={"zone": "b", "ray.io/node-id": "f00"})
    assert lines_of(request(label_selector={"zone": "a"}), [there]) == [
        "the cluster can never run this:",
        "  asked: 1 worker of 1 CPU on nodes with zone=a",
        "  there: h: 8 CPU (zone=b)",
        "  would fit: no node is like that: change workers.cpus, workers.label_selector or the"
        " cluster",
    ]


def test_an_empty_cluster_is_no_riddle() -> None:
    assert "would fit: no node is like that" in lines_of(request(), [])[-1]


CPUS = st.integers(1, 1600).map(lambda hundredths: hundredths / 100)


@given(
    count=st.integers(1, 12),
    cpus=CPUS,
    # Ray counts in ten-thousandths.
    sizes=st.lists(st.integers(0, 80_000).map(lambda units: units / 10_000), max_size=4),
)
def test_the_cpus_that_are_proposed_fit_and_are_the_most_that_do(
    count: int, cpus: float, sizes: list[float]
) -> None:
    asked = request(count=count, cpus=cpus)
    nodes = [node(CPU=size) for size in sizes]

    def fits(hundredths: int) -> bool:
        # In whole ten-thousandths, in which nothing is rounded.
        return sum(round(10_000 * size) // (100 * hundredths) for size in sizes) >= count

    text = shortfall(asked, nodes)
    assert (text is None) == fits(round(100 * cpus))
    if text is not None:
        fitting = [hundredths for hundredths in range(1, round(100 * cpus)) if fits(hundredths)]
        _, said, proposed = text.partition("workers.cpus=")
        assert bool(said) == bool(fitting)
        if fitting:
            assert float(proposed) == max(fitting) / 100
            assert capacity(request(count=count, cpus=float(proposed)), nodes) >= count


@given(count=st.integers(1, 12), cpus=CPUS, sizes=st.lists(st.integers(0, 8), max_size=4))
def test_the_count_that_is_proposed_fits_and_one_more_does_not(
    count: int, cpus: float, sizes: list[int]
) -> None:
    nodes = [node(CPU=size) for size in sizes]
    text = shortfall(request(count=count, cpus=cpus), nodes)
    if text is not None and "workers.count=" in text:
        proposed = int(text.partition("workers.count=")[2].partition(",")[0])
        assert shortfall(request(count=proposed, cpus=cpus), nodes) is None
        assert shortfall(request(count=proposed + 1, cpus=cpus), nodes) is not None


def test_ray_s_inner_resources_are_nobody_s_business() -> None:
    inner = {"CPU": 2.0, "memory": 1e9, "node:127.0.0.1": 1.0, "node:__internal_head__": 1.0}
    assert describe(inner) == "2 CPU"


GOLDEN = """\
ray:
  address: 'none: a Ray of its own on this machine'
  workers: 2
  resources_per_worker:
    CPU: 0.5
    GPU: 1 where there is one for each
  placement_strategy: SPREAD
  accelerator_type: null
  label_selector:
    zone: in(a, b)
"""


def test_rendered_is_the_config_and_what_ray_is_asked_for() -> None:
    config = RunConfig().with_values(
        workers={
            "count": 2,
            "cpus": 0.5,
            "placement": "spread",
            "label_selector": {"zone": "in(a, b)"},
        }
    )
    first, second = render(config, None).split("---\n")
    assert RunConfig.from_plain(yaml.safe_load(first)) == config
    assert second == GOLDEN


@pytest.mark.parametrize(
    ("address", "cpu"), [(None, "an equal share of the cores"), ("10.0.0.1:6379", 1.0)]
)
def test_rendered_defaults_say_where_they_will_come_from(address: str | None, cpu: object) -> None:
    [_, asked] = yaml.safe_load_all(render(RunConfig(), address))
    assert asked["ray"]["resources_per_worker"]["CPU"] == cpu
    assert (address or "none") in asked["ray"]["address"]
