"""How long a job is expected to take, from runs made by hand and from the project's figures."""

from __future__ import annotations

import json
import os
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from distcnn import config_file
from distcnn.cluster.expectation import Expectation, expect
from distcnn.cluster.job import job_of_run, job_of_sweep
from distcnn.cluster.pace import ARTICLE, parts_of
from distcnn.cluster.spec import ClusterSpec
from distcnn.config import ModelConfig, RunConfig
from distcnn.run_directory.run import RunDirectory
from distcnn.sweep import file as sweep_file

RECORDED = Path(__file__).parents[3] / "benchmarks" / "results_ray.json"
# Before the first step, and after the last one.
AROUND_SECONDS = 9.6 + 1.5
# An epoch's, and validation's by what it costs.
NUM_IMAGES = 55_000 + 0.25 * 5_000

TEN_EPOCHS: dict[str, Any] = {"epochs": 10}
RUN_DIR = Path("/shared/runs/one")
SLURM = ClusterSpec(target="slurm", cpus_per_node=8)


def leave_run(
    folder: Path,
    name: str,
    images_per_second: float,
    *,
    begun: int = 1_000,
    count: int = 1,
    gpu: str | None = None,
    workload: str | None = None,
    changed: dict[str, dict[str, Any]] | None = None,
    **results: Any,
) -> RunDirectory:
    """A run's folder as far as it tells how fast it was."""
    config = RunConfig().with_values(
        training={"precision": "bf16-mixed", "num_shards": 1},
        workers={"count": count, "cpus": 1.0, "gpus": int(gpu is not None)},
    )
    config = config.model_copy(update={"workload": workload})
    for section, values in (changed or {}).items():
        config = config.with_values(**{section: values})
    run = RunDirectory(folder / name)
    run.path.mkdir(parents=True)
    run.write_config(config)
    os.utime(folder / name / "config.yaml", (begun, begun))
    workers = {"count": count, "cpus": 1.0, "gpus": 0, "hosts": ["one"] * count}
    run.write_results(
        {
            "status": "completed",
            "train_seconds": 10.0,
            "images_per_second": images_per_second,
            "precision": config.training.precision,
            "workers": workers,
            "hardware": {"cpu": "Some CPU", "gpu": gpu},
            **results,
        }
    )
    return run


def expected(
    *folders: Path, spec: ClusterSpec = SLURM, training: Any = TEN_EPOCHS, **workers: Any
) -> Expectation:
    config = RunConfig().with_values(training=training, workers=workers)
    return expect(job_of_run(config, spec, RUN_DIR, None), folders)


def seconds_at(images_per_second: float, epochs: int = 10) -> float:
    return AROUND_SECONDS + epochs * NUM_IMAGES / images_per_second


def test_a_run_like_it_tells(tmp_path: Path) -> None:
    run = leave_run(tmp_path, "before", 1_000)
    found = expected(tmp_path)
    assert found.seconds == pytest.approx(seconds_at(1_000))
    assert found.source == f"{run.path} (1 worker of 1 CPU, Some CPU: 1,000 images/s)"


def test_the_newest_tells_and_the_first_folder_that_has_one(tmp_path: Path) -> None:
    leave_run(tmp_path / "a", "z", 1_000, begun=1_000)
    leave_run(tmp_path / "a", "y", 2_000, begun=3_000)
    leave_run(tmp_path / "a", "x", 3_000, begun=2_000)
    leave_run(tmp_path / "b", "w", 4_000, begun=9_000)
    folders = (tmp_path / "none", tmp_path / "a", tmp_path / "b")
    assert expected(*folders).seconds == pytest.approx(seconds_at(2_000))


@pytest.mark.parametrize(
    "other",
    [
        {"status": "stopped"},
        {"train_seconds": 0.5},
        {"workload": "spirals:build"},
        {"changed": {"model": {"channels": [8, 16]}}},
        {"changed": {"training": {"global_batch_size": 256}}},
        {"changed": {"training": {"num_shards": 2}}},
        {"changed": {"workers": {"min": 1, "max": 2}}},
        {"gpu": "NVIDIA A100-SXM4-40GB"},
    ],
    ids=str,
)
def test_a_run_unlike_it_does_not_tell(tmp_path: Path, other: dict[str, Any]) -> None:
    leave_run(tmp_path, "like it", 1_000, begun=1_000)
    leave_run(tmp_path, "unlike it", 2_000, begun=2_000, **other)
    assert expected(tmp_path).seconds == pytest.approx(seconds_at(1_000))


def test_the_precision_has_to_be_the_same_where_it_is_asked_for(tmp_path: Path) -> None:
    leave_run(tmp_path, "before", 1_000)
    full = expected(tmp_path, training={"epochs": 10, "precision": "32-true"})
    assert "Some CPU" not in full.source
    mixed = expected(tmp_path, training={"epochs": 10, "precision": "bf16-mixed"})
    assert "Some CPU" in mixed.source


@pytest.mark.parametrize("damaged", ["results.json", "config.yaml"])
def test_a_damaged_run_does_not_tell(tmp_path: Path, damaged: str) -> None:
    leave_run(tmp_path, "like it", 1_000, begun=1_000)
    run = leave_run(tmp_path, "damaged", 2_000, begun=2_000)
    (tmp_path / run.path.name / damaged).write_text("{")
    assert expected(tmp_path).seconds == pytest.approx(seconds_at(1_000))


def test_more_workers_are_scaled_to(tmp_path: Path) -> None:
    leave_run(tmp_path, "before", 1_000)
    ratio = ARTICLE.images_per_second(4, workers_per_host=4) / ARTICLE.images_per_second(1)
    found = expected(tmp_path, count=4)
    assert found.seconds == pytest.approx(seconds_at(1_000 * ratio))
    assert found.source.endswith(", scaled to 4 workers of 1 CPU")


def test_without_a_run_the_project_s_figures_tell(tmp_path: Path) -> None:
    found = expected(tmp_path, count=2, cpus=2)
    assert found.seconds == pytest.approx(seconds_at(ARTICLE.images_per_second(2, cores=2)))
    assert found.source.startswith("distcnn's own figures (Intel Xeon")
    assert any("bfloat16" in each for each in found.unknown)
    slower = expected(tmp_path, training={"epochs": 10, "precision": "32-true"})
    faster = expected(tmp_path, training={"epochs": 10, "precision": "bf16-mixed"})
    assert slower.seconds is not None and faster.seconds is not None
    assert slower.seconds > 4 * faster.seconds
    assert not any("bfloat16" in each for each in [*slower.unknown, *faster.unknown])


def test_a_network_of_more_work_takes_longer() -> None:
    wide = parts_of(ModelConfig(channels=(32, 64)), "bf16-mixed")
    # As `distcnn describe` counts: 10,693,760 multiply-adds for 2,838,080.
    assert wide.per_image / ARTICLE.per_image == pytest.approx(10_693_760 / 2_838_080)
    assert wide.vector_bytes > 2 * ARTICLE.vector_bytes
    assert parts_of(ModelConfig(), "auto") == ARTICLE


def test_nothing_tells_of_gpus_but_a_run_on_as_many_of_that_kind(tmp_path: Path) -> None:
    spec = SLURM.model_copy(update={"gpus_per_node": 2, "accelerator_type": "A100"})
    unknown = expected(tmp_path, spec=spec, count=2)
    assert unknown.seconds is None
    assert "GPUs" in unknown.source
    leave_run(tmp_path, "two", 90_000, count=2, gpu="NVIDIA A100-SXM4-40GB")
    leave_run(tmp_path, "other", 99_000, begun=2_000, count=2, gpu="NVIDIA H100 80GB HBM3")
    leave_run(tmp_path, "one", 50_000, begun=3_000, gpu="NVIDIA A100-SXM4-40GB")
    assert expected(tmp_path, spec=spec, count=2).seconds == pytest.approx(seconds_at(90_000))


def test_a_sweep_s_trials_are_packed(tmp_path: Path) -> None:
    leave_run(tmp_path, "before", 1_000)
    path = tmp_path / "sweep.yaml"
    path.write_text(
        "base: article\nspace: {optimizer.lr: {grid: [0.1, 0.01, 0.001]}}\nsearch: grid\n"
    )
    sweep = sweep_file.load(str(path), ["training.epochs=2"])
    spec = ClusterSpec(target="slurm", cpus_per_node=2)
    found = expect(job_of_sweep(sweep, spec, RUN_DIR, None), [tmp_path])
    # Two at a time, then the third.
    assert found.seconds == pytest.approx(seconds_at(1_000, epochs=4))


def test_a_sweep_on_gpus_takes_its_budget_at_the_most(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(
        "base: article\nspace: {optimizer.lr: {uniform: [0.1, 0.2]}}\ntime_budget_seconds: 600\n"
    )
    spec = ClusterSpec(target="slurm", gpus_per_node=1)
    found = expect(job_of_sweep(sweep_file.load(str(path)), spec, RUN_DIR, None), [])
    assert found.seconds == pytest.approx(AROUND_SECONDS + 600)
    assert found.source == "its time_budget_seconds"


def test_what_nobody_knows_is_told(tmp_path: Path) -> None:
    leave_run(tmp_path, "before", 1_000)
    assert expected(tmp_path, spec=ClusterSpec(), cpus=1).unknown == ()
    on_two = SLURM.model_copy(update={"nodes": 2})
    told = " / ".join(
        expected(
            tmp_path, spec=on_two, training={"early_stopping": 2}, count=2, placement="spread"
        ).unknown
    )
    for part in ("how fast the nodes are", "network", "early training stops", "waited for"):
        assert part in told


def test_nodes_that_only_the_cluster_knows_are_taken_for_granted_aloud(tmp_path: Path) -> None:
    spec = ClusterSpec(target="ray", nodes=3, cpus_per_node=8)
    assert any("taken to be 3 of 8 CPU" in each for each in expected(tmp_path, spec=spec).unknown)


def test_a_launch_took_as_long_as_is_expected_of_it() -> None:
    """Whole launches of `quick` were timed by `make bench-ray`."""
    runs = json.loads(RECORDED.read_text(encoding="utf-8"))["time_to_90"]["distcnn"]
    config = config_file.load("quick", ["workers.count=2"])
    found = expect(job_of_run(config, ClusterSpec(), None, None), [])
    assert found.seconds == pytest.approx(median(run["seconds"] for run in runs), rel=0.15)
