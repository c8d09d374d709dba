"""Nodes that come and go, without a cluster: what is known of them, and what is waited for."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from distcnn.cluster.request import Node
from distcnn.config import RunConfig
from distcnn.errors import UserError
from distcnn.orchestration import elastic, inspection
from distcnn.orchestration.elastic import Roster
from distcnn.orchestration.inspection import Inspection, Standard
from distcnn.progress import PlainWatcher
from distcnn.training.provenance import Ground

CONFIG = RunConfig().with_values(workers={"min": 2, "max": 6, "cpus": 1, "gpus": 0})
GROUND = Ground("synthetic", "0" * 64, {})


def node(name: str) -> Node:
    return Node(name, f"host-{name}", {"CPU": 2}, {})


class World:
    """A clock, the nodes that there are, and what they answer."""

    def __init__(self) -> None:
        self.now = 0.0
        self.alive: list[Node] = []
        self.verdicts: dict[str, str] = {}
        """What is wrong with the nodes that answer: nothing, where it is empty."""
        self.cancelled: list[str] = []
        self.can_write = True

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    # What Ray does.

    def wait(self, answers: list[str], timeout: float) -> tuple[list[str], list[str]]:
        del timeout
        return [answer for answer in answers if answer in self.verdicts], []

    def cancel(self, answer: str, *, force: bool) -> None:
        assert force
        self.cancelled.append(answer)

    # What `Look` does.

    def __call__(self, config: RunConfig, storage: Path) -> World:
        if not self.can_write:
            raise UserError(f"the driver cannot write to {storage}")
        return self

    def at(self, node: Node, where: Any, resources: dict[str, float]) -> str:
        assert resources == {"CPU": 1}
        return node.id

    def facts(self, node: Node, answer: str) -> str:
        return self.verdicts[answer]

    def close(self) -> None: ...


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    for module in (elastic, inspection):
        monkeypatch.setattr(module, "time", world)
        monkeypatch.setattr(module, "alive_nodes", lambda: world.alive)
    monkeypatch.setattr(inspection, "ray", world)
    monkeypatch.setattr(inspection, "Look", world)
    # Ray's take the ids that Ray gives.
    monkeypatch.setattr(inspection, "NodeAffinitySchedulingStrategy", lambda node_id, soft: node_id)
    monkeypatch.setattr(
        elastic, "PlacementGroupSchedulingStrategy", lambda places, placement_group_bundle_index: 0
    )
    monkeypatch.setattr(inspection, "why_unfit", lambda config, facts, ground, storage: facts)
    monkeypatch.setattr(elastic, "free_nodes", lambda: world.alive)
    monkeypatch.setattr(elastic, "draining_nodes", set)
    return world


@pytest.fixture
def told() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def nodes(world: World, told: list[tuple[str, str]], tmp_path: Path) -> Inspection:
    standard = Standard(CONFIG, GROUND, tmp_path)
    return Inspection(standard, ["a"], lambda host, why: told.append((host, why)))


@pytest.fixture
def roster(nodes: Inspection) -> Roster:
    return Roster(CONFIG, nodes, PlainWatcher())


def test_a_node_is_fit_once_it_has_answered_that_it_is(world: World, nodes: Inspection) -> None:
    nodes.ask(node("a"))
    assert nodes.asked == set()  # It is known.
    nodes.ask(node("b"))
    nodes.take_answers()
    assert (nodes.asked, nodes.fit) == ({"b"}, {"a"})
    world.verdicts["b"] = ""
    nodes.take_answers()
    assert (nodes.asked, nodes.fit) == (set(), {"a", "b"})


def test_an_unfit_node_is_told_once_and_looked_at_again_after_a_while(
    world: World, nodes: Inspection, told: list[tuple[str, str]]
) -> None:
    world.alive = [node("a"), node("b")]
    world.verdicts["b"] = "it has other data"
    for _ in range(3):
        nodes.ask(node("b"))
        nodes.take_answers()
        nodes.ask(node("b"))
        assert (nodes.asked, nodes.unfit) == (set(), {"b"})
        world.now += 61
        assert nodes.unfit == set()
    assert told == [("host-b", "it has other data")]
    world.verdicts["b"] = ""
    nodes.ask(node("b"))
    nodes.take_answers()
    assert nodes.fit == {"a", "b"}


def test_a_node_that_does_not_answer_is_given_up(
    world: World, nodes: Inspection, told: list[tuple[str, str]]
) -> None:
    world.alive = [node("b")]
    nodes.ask(node("b"))
    world.now += 59
    nodes.take_answers()
    assert nodes.asked == {"b"}
    world.now += 2
    nodes.take_answers()
    assert (nodes.asked, nodes.unfit, world.cancelled) == (set(), {"b"}, ["b"])
    assert told == [("host-b", "no answer within 60 s")]


def test_of_a_node_that_is_gone_nothing_is_told(
    world: World, nodes: Inspection, told: list[tuple[str, str]]
) -> None:
    world.verdicts["b"] = "no answer (the node has died)"
    nodes.ask(node("b"))
    nodes.take_answers()
    assert (nodes.unfit, told) == ({"b"}, [])


def test_a_loss_is_a_node_that_gives_no_sign_of_life(world: World, roster: Roster) -> None:
    world.alive = [node("a"), node("b")]
    world.verdicts = {"a": "", "b": ""}
    assert not roster.look_for_losses({"a"})
    del world.verdicts["b"]
    assert roster.look_for_losses({"a", "b"})
    assert world.now < 10


def test_which_nodes_had_workers_is_not_known_where_not_all_had_begun(
    world: World, roster: Roster
) -> None:
    world.alive = [node("a")]
    assert roster.look_for_losses(set())


def looks_until_it_wants_to_grow(world: World, roster: Roster, limit: float = 200.0) -> float:
    """In seconds."""
    began = world.now
    while not roster.wants_more_than(2):
        world.now += 0.25
        assert world.now < began + limit
    return world.now - began


def test_room_counts_when_it_is_seen_twice_on_a_node_that_is_fit(
    world: World, roster: Roster
) -> None:
    world.alive = [node("b")]
    assert not any(roster.wants_more_than(2) for _ in range(9))
    world.now += 3
    assert not roster.wants_more_than(2)  # It has not answered.
    world.verdicts["b"] = ""
    world.now += 3
    assert not roster.wants_more_than(2)  # Seen once.
    world.now += 3
    assert roster.wants_more_than(2)
    assert not roster.wants_more_than(6)  # There are as many as there may be.


def reservations(
    monkeypatch: pytest.MonkeyPatch, world: World, places: dict[int, str]
) -> list[frozenset[str]]:
    """Have places be free at once, unless they are on nodes left out; what was left out."""
    left_out: list[frozenset[str]] = []

    @contextmanager
    def reserved(
        request: Any, limit: float, check: Callable[[], None], *_: Any, **more: Any
    ) -> Generator[None]:
        left_out.append(request.without)
        while request.without & set(places.values()):
            check()
            world.now += 0.5
            assert more["waited_seconds"] + world.now < limit, "nobody has looked again"
        yield

    monkeypatch.setattr(elastic, "reserved", reserved)
    monkeypatch.setattr(
        elastic, "placement_group_table", lambda places_: {"bundles_to_node_id": places}
    )
    return left_out


def test_what_is_waited_for_is_asked_for_anew_when_a_node_has_answered(
    world: World, roster: Roster, nodes: Inspection, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.alive = [node("b")]
    left_out = reservations(monkeypatch, world, {0: "b", 1: "b"})
    nodes.ask(node("b"))

    def check() -> None:
        if world.now > 5:
            world.verdicts["b"] = ""

    config = roster.wait_for_room(600, check)
    assert left_out == [{"b"}, set()]
    assert config.workers.label_selector == {"ray.io/node-id": "in(b)"}
    assert (config.workers.is_elastic, config.workers.count) == (False, 4)


def test_growing_that_comes_to_nothing_is_tried_less_and_less_often(
    world: World, roster: Roster, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.alive = [node("a")]
    reservations(monkeypatch, world, {0: "a", 1: "a"})
    pauses: list[float] = []
    for _ in range(6):
        monkeypatch.setattr(elastic, "free_nodes", list)  # Others have taken it.
        assert roster.wait_for_room(600, lambda: None).workers.count == 2
        monkeypatch.setattr(elastic, "free_nodes", lambda: world.alive)
        pauses.append(looks_until_it_wants_to_grow(world, roster))
    assert pauses == [6, 9, 15, 27, 27, 27]
    assert roster.wait_for_room(600, lambda: None).workers.count == 4
    assert looks_until_it_wants_to_grow(world, roster) == 6


def test_storage_that_the_driver_cannot_reach_does_not_end_those_that_train(
    world: World, roster: Roster
) -> None:
    world.alive, world.can_write = [node("b")], False
    assert not roster.wants_more_than(2)
    world.verdicts["b"], world.can_write = "", True
    assert looks_until_it_wants_to_grow(world, roster) <= 9
