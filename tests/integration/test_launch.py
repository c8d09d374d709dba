"""A launch on this machine: the bits of `train`, on a Ray of its own that leaves nothing behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.integration.launches import (
    LAUNCHED,
    assert_gone,
    attempts,
    end,
    family,
    launch_command,
)
from tests.integration.runs import OVERRIDES, assert_same_result, distcnn, finish, start, wait_for


def test_one_worker_gives_the_bits_of_a_local_run(tmp_path: Path, undisturbed: Path) -> None:
    run = tmp_path / "run"
    finish(distcnn("launch", "article", *OVERRIDES, "workers.count=1", "--run-dir", run))
    assert_same_result(run, undisturbed)
    assert {path.name for path in run.iterdir()} == {path.name for path in undisturbed.iterdir()}
    results = json.loads((run / "results.json").read_bytes())
    assert results["workers"]["count"] == 1
    assert results["restarts"] == {"failures": 0, "preemptions": 0, "seconds_lost": 0.0}


def test_sigterm_while_ray_starts_ends_in_order(tmp_path: Path) -> None:
    """For a while then the signal is Ray's, which would exit with 15."""
    process = start(launch_command(tmp_path / "run"))
    wait_for(lambda: any(each.name() == "gcs_server" for each in family(process)), process)
    everybody = family(process)
    process.terminate()
    end(process, expected=143)
    assert_gone(everybody)


def test_a_launch_by_a_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`launch/cluster.py`, as it is in the repository."""
    monkeypatch.chdir(tmp_path)
    script = Path(__file__).parents[2] / "launch" / "cluster.py"
    command = [*distcnn()[:1], str(script), "article", *LAUNCHED, "workers.count=2"]
    output = finish([*command, "workers.cpus=1", "training.epochs=1"])
    assert "Run completed" in output
    [run] = (tmp_path / "runs").iterdir()
    assert [worker["rank"] for worker in attempts(run)[0]["workers"]] == [0, 1]


def test_a_dry_run_says_what_ray_would_be_asked_for(tmp_path: Path) -> None:
    output = finish(launch_command(tmp_path / "run", "--dry-run"))
    config, asked = yaml.safe_load_all(output)
    assert config["workers"]["count"] == asked["ray"]["workers"] == 3
    assert asked["ray"]["resources_per_worker"]["CPU"] == 0.6
    assert not (tmp_path / "run").exists()


def test_another_config_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    short = ["training.epochs=1", "workers.count=1", "workers.cpus=1"]
    finish(launch_command(run, *short))
    output = finish(launch_command(run, *short, "optimizer.lr=0.5", "seed=3"), expected=1)
    assert "another config (other: seed, optimizer.lr)" in output
    output = finish(launch_command(run, *short, "recovery.max_failures=9"))
    assert "finished" in output


def test_more_workers_than_the_machine_has_room_for(tmp_path: Path) -> None:
    output = finish(launch_command(tmp_path / "run", "workers.cpus=64"), expected=1)
    assert "asked: 3 workers of 64 CPU" in output
    assert "would fit: workers.cpus=" in output
    assert "Traceback" not in output
