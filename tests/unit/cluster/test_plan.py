"""What is told of a job before it is sent."""

from __future__ import annotations

import random
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from distcnn.cluster.expectation import Expectation
from distcnn.cluster.job import job_of_run, job_of_sweep
from distcnn.cluster.parcel import Parcel
from distcnn.cluster.plan import render_plan
from distcnn.cluster.prices import PriceTable
from distcnn.cluster.spec import ClusterSpec
from distcnn.config import RunConfig
from distcnn.sweep import file as sweep_file

PRICES = PriceTable(
    currency="EUR",
    as_of=date(2026, 11, 1),
    source="the bill of October",
    cpu=0.05,
    memory_gib=0.0125,
    gpus={"A100": 3.0},
    spot_factor=0.5,
)
PARCEL = Parcel({"job.json": b"{}", "config.yaml": b"name: article\n"})
EXPECTED = Expectation(1800, "a run", ("how long the nodes are waited for",))
RUN_DIR = Path("/shared/runs/one")


def plan(
    expectation: Expectation = EXPECTED,
    parcel: Parcel = PARCEL,
    workers: dict[str, Any] | None = None,
    **fields: Any,
) -> str:
    spec = ClusterSpec.model_validate({"target": "slurm", "cpus_per_node": 4, **fields})
    config = RunConfig().with_values(workers=workers or {"count": 4})
    return render_plan(job_of_run(config, spec, RUN_DIR, None), parcel, expectation, PRICES)


GOLDEN = """\
job         one
trains      a run: 3 epochs on 55,000 images, batches of 128
target      slurm, partition gpu
machines    3 x 8 CPU, 16 GiB, 2 GPU (A100), 1 of them spare, spot: they can be taken away
workers     4 workers of 1 CPU and 1 GPU, room for 4
travels     0.0 MiB in 2 files; no data
kept in     /shared/runs/one
expected    about 30 min 00 s
            from a run
not known   how long the nodes are waited for
time limit  4h, the last 1m of it to save and end
cost        about 4.95, at most 39.60 EUR, for the whole time limit
            as much again for each time it is taken up again, 3 at most
            if it were rented for this; a cluster's own machines are paid for either way
            by the bill of October (2026-11-01)
at the end  the allocation ends with it, and at the time limit
"""


def test_a_plan_tells_all_that_is_worth_knowing() -> None:
    told = plan(
        nodes=2,
        cpus_per_node=8,
        memory_gib_per_node=16.0,
        gpus_per_node=2,
        accelerator_type="A100",
        spot=True,
        slurm={"partition": "gpu", "spare_nodes": 1},
    )
    assert told == GOLDEN


def lines_of(told: str, label: str) -> list[str]:
    """What stands beside a label, and below."""
    lines = told.splitlines()
    [first] = [number for number, line in enumerate(lines) if line.startswith(label)]
    width = len("time limit  ")
    found = [lines[first][width:]]
    for line in lines[first + 1 :]:
        if not line.startswith(" "):
            break
        found.append(line.strip())
    return found


def test_what_does_not_fit_comes_with_what_would() -> None:
    told = plan(workers={"count": 4, "cpus": 2})
    assert lines_of(told, "workers") == [
        "4 workers of 2 CPU DO NOT FIT, room for 2",
        "would fit: workers.count=2, or workers.cpus=1, or more or larger machines",
    ]


def test_elastic_workers_are_asked_for_at_the_least() -> None:
    told = plan(workers={"min": 2, "max": 8})
    assert lines_of(told, "workers") == ["2 workers of 1 CPU at the least, room for 4"]


@pytest.mark.parametrize(("seconds", "is_enough"), [(3540, True), (3541, False)])
def test_a_time_limit_that_is_too_short_comes_with_one_that_is_not(
    seconds: float, is_enough: bool
) -> None:
    told = lines_of(plan(Expectation(seconds, "a run"), max_seconds=3600), "time limit")
    assert told[0] == "1h, the last 1m of it to save and end"
    assert ["TOO SHORT" in line and "--max-time 2h" in line for line in told[1:]] == (
        [] if is_enough else [True]
    )


def test_cost_is_bounded_by_the_limit_even_where_the_time_is_not_known() -> None:
    told = plan(Expectation(None, "no run on such GPUs"), max_retries=0)
    assert lines_of(told, "expected") == ["not known, no run on such GPUs"]
    # Four hours of four CPUs and 4 GiB.
    assert lines_of(told, "cost")[:2] == [
        "at most 1.00 EUR, for the whole time limit",
        "if it were rented for this; a cluster's own machines are paid for either way",
    ]


def test_a_cost_is_never_shown_as_nothing() -> None:
    assert lines_of(plan(Expectation(1, "a run")), "cost")[0].startswith("about 0.01, ")


def test_this_machine_costs_nothing_more() -> None:
    told = plan(target="local")
    assert lines_of(told, "cost") == ["nothing more than this machine costs anyway"]
    assert "no machine is left on" in told


def test_a_price_that_is_not_known_is_no_number() -> None:
    told = plan(gpus_per_node=4, accelerator_type="B300")
    [line] = lines_of(told, "cost")
    assert line.startswith("not known, no price of B300")


def test_large_files_are_named() -> None:
    content = bytes(range(256)) * 4096 * 12
    noise = random.Random(0).randbytes(11 * 2**20)
    told = lines_of(plan(parcel=Parcel({"a.bin": noise, "b.txt": content})), "travels")
    assert told[1:] == ["12.0 MiB of them b.txt", "11.0 MiB of them a.bin"]
    assert len(lines_of(plan(), "travels")) == 1


def test_a_sweep_tells_its_trials(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(
        "base: article\nspace: {optimizer.lr: {grid: [0.1, 0.01, 0.001]}}\nsearch: grid\n"
    )
    spec = ClusterSpec(target="slurm", nodes=2, cpus_per_node=1)
    job = job_of_sweep(sweep_file.load(str(path)), spec, RUN_DIR, None)
    told = render_plan(job, PARCEL, EXPECTED, PRICES)
    assert lines_of(told, "trains") == [
        "a sweep: 3 trials, 2 at a time, each up to 5 epochs on 55,000 images"
    ]
    assert lines_of(told, "workers") == ["1 worker of 1 CPU for each trial, room for 2"]


def test_of_a_cluster_that_runs_its_machines_are_not_made_up() -> None:
    told = plan(target="ray", workers={"count": 40})
    assert lines_of(told, "machines") == ["those of the cluster"]
    assert "DO NOT FIT" not in told
    [line] = lines_of(told, "cost")
    assert line.startswith("not known, the cluster is paid for either way")
