"""What a job trains, and how its workers lie on its nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distcnn.cluster.job import Job, job_of_run, job_of_sweep
from distcnn.cluster.spec import ClusterSpec
from distcnn.cluster.workload import workload_of
from distcnn.config import RunConfig
from distcnn.sweep import file as sweep_file


def spec(**fields: Any) -> ClusterSpec:
    return ClusterSpec.model_validate({"target": "slurm", "cpus_per_node": 4, **fields})


def job(on: ClusterSpec, **workers: Any) -> Job:
    return job_of_run(RunConfig().with_values(workers=workers), on, Path("/shared/runs/one"), None)


def test_a_run_is_read_as_it_was_written() -> None:
    config = RunConfig().with_values(
        model={"channels": [8]}, optimizer={"lr": 1e-5}, workers={"cpus": 1.0, "gpus": 0}
    )
    workload = workload_of(job_of_run(config, spec(), Path("/shared/runs/one"), None))
    assert workload.config == config.with_values(storage={"directory": "/shared/runs"})
    assert workload.sweep is None


def test_a_sweep_is_read_with_what_its_trials_vary() -> None:
    sweep = sweep_file.load("tune", ["training.epochs=2"])
    workload = workload_of(job_of_sweep(sweep, spec(nodes=2), Path("/shared/runs/s"), None))
    assert workload.sweep is not None
    assert workload.sweep.config.identity == sweep.config.identity
    assert workload.config.training.epochs == 2
    assert workload.at_a_time == 8


@pytest.mark.parametrize(
    ("on", "asked", "cpus", "gpus"),
    [
        (spec(), {"count": 2}, 1.0, 0),
        (spec(), {"count": 2, "cpus": 2.5}, 2.5, 0),
        (spec(nodes=2, gpus_per_node=1), {"count": 2}, 1.0, 1),
        (spec(nodes=2, gpus_per_node=1), {"count": 3}, 1.0, 0),
        (spec(nodes=2, gpus_per_node=1), {"count": 2, "gpus": 0}, 1.0, 0),
        (spec(target="local"), {"count": 2}, 2.0, 0),
    ],
)
def test_what_is_left_open_is_decided_as_on_the_cluster(
    on: ClusterSpec, asked: dict[str, Any], cpus: float, gpus: int
) -> None:
    workers = workload_of(job(on, **asked)).config.workers
    assert (workers.cpus, workers.gpus) == (cpus, gpus)


@pytest.mark.parametrize(
    ("workers", "num_workers", "workers_per_node"),
    [
        ({"count": 3}, 3, 3),
        ({"count": 6}, 6, 4),
        ({"count": 6, "placement": "spread"}, 6, 3),
        ({"count": 2, "cpus": 3}, 2, 1),
        ({"min": 1, "max": 20}, 8, 4),
        ({"min": 9, "max": 20}, 9, 4),  # They do not fit; what is asked is what counts.
    ],
)
def test_workers_lie_as_they_are_placed(
    workers: dict[str, Any], num_workers: int, workers_per_node: int
) -> None:
    workload = workload_of(job(spec(nodes=2), **workers))
    assert (workload.num_workers, workload.workers_per_node) == (num_workers, workers_per_node)


def test_labels_are_known_to_the_cluster_alone() -> None:
    assert workload_of(job(spec(), label_selector={"zone": "a"})).room == 4
