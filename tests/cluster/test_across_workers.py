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


# One and two are compared by the commands of docs/reproducible.md, two and three by other tests.
def test_four_workers_have_the_result_of_one(alone: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    finish(launch_command(run, *ACROSS, "workers.count=4"))
    assert_identical(run, alone)


def test_workers_are_killed_and_others_in_another_number_go_on(alone: Path, tmp_path: Path) -> None:
    """Three, of which one is killed; two, whose driver is; one, killed too; then four."""
    run, chance = tmp_path / "run", random.Random(0)
    process = start(launch_command(run, *ACROSS, "workers.count=3"))
    pids = wait_for_training(run, process, attempt=1, num_saves=chance.randint(1, 6))
    os.kill(chance.choice(pids), signal.SIGKILL)
    wait_for_training(run, process, attempt=2, num_saves=chance.randint(1, 6))
    kill_9(process)
    for attempt, count in ((3, 2), (4, 1)):
        process = start(launch_command(run, *ACROSS, f"workers.count={count}"))
        wait_for_training(run, process, attempt=attempt, num_saves=chance.randint(1, 6))
        kill_9(process)
    finish(launch_command(run, *ACROSS, "workers.count=4"))
    assert [len(attempt["workers"]) for attempt in attempts(run)] == [3, 3, 2, 1, 4]
    assert_identical(run, alone)


def test_trials_of_two_workers_and_of_one_are_the_same(tmp_path: Path) -> None:
    for count in (1, 2):
        more = ["training.epochs=1", "num_trials=2", f"workers.count={count}"]
        more += ["training.reproducible=across-workers", "workers.cpus=0.5"]
        finish(tune_command("tune", tmp_path / f"{count}", *more))
    for number in (1, 2):
        one, two = (trial(tmp_path / f"{count}", number) for count in (1, 2))
        assert "Identical: " in finish(distcnn("compare", one, two))
