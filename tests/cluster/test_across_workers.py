"""What is reproducible across workers, with more of them and fewer: from end to end, and hurt."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

from tests.launches import (
    ACROSS,
    attempts,
    kill_9,
    launch_command,
    wait_for_training,
)
from tests.runs import assert_identical, distcnn, finish, start
from tests.sweeps import trial, tune_command


# One and two are compared by tests/smoke.
def test_four_workers_have_the_result_of_one(alone: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    finish(launch_command(run, *ACROSS, "workers.count=4"))
    assert_identical(run, alone)


def test_workers_are_killed_and_others_in_another_number_go_on(alone: Path, tmp_path: Path) -> None:
    """Three, of which one is killed and then the driver; one, killed too; then four."""
    run, chance = tmp_path / "run", random.Random(0)
    process = start(launch_command(run, *ACROSS, "workers.count=3"))
    pids = wait_for_training(run, process, attempt=1, num_saves=chance.randint(1, 6))
    os.kill(chance.choice(pids), signal.SIGKILL)
    wait_for_training(run, process, attempt=2, num_saves=chance.randint(1, 6))
    kill_9(process)
    process = start(launch_command(run, *ACROSS, "workers.count=1"))
    wait_for_training(run, process, attempt=3, num_saves=chance.randint(1, 6))
    kill_9(process)
    finish(launch_command(run, *ACROSS, "workers.count=4"))
    assert [len(attempt["workers"]) for attempt in attempts(run)] == [3, 3, 1, 4]
    assert_identical(run, alone)


def test_a_trial_of_two_workers_has_the_bits_of_its_config_trained_by_one(tmp_path: Path) -> None:
    sweep, alone = tmp_path / "sweep", tmp_path / "alone"
    more = ["training.epochs=1", "num_trials=2", "workers.count=2", "workers.cpus=0.5"]
    finish(tune_command("tune", sweep, *more, "training.reproducible=across-workers"))
    config = trial(sweep, 2) / "config.yaml"
    finish(distcnn("train", config, "workers.count=1", "--run-dir", alone))
    assert "Identical: " in finish(distcnn("compare", trial(sweep, 2), alone))
