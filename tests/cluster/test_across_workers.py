"""A run that is reproducible across workers goes on with more or fewer, to the same bits."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

from tests.integration.launches import (
    ACROSS,
    attempts,
    kill_9,
    launch_command,
    wait_for_training,
)
from tests.integration.runs import assert_same_result, distcnn, finish, start, train_command


def test_workers_are_killed_and_others_in_another_number_go_on(tmp_path: Path) -> None:
    """Three, of which one is killed; two, whose driver is; one, killed too; then four."""
    alone, run, chance = tmp_path / "alone", tmp_path / "run", random.Random(0)
    finish(train_command(alone, *ACROSS))
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
    assert_same_result(run, alone)
    assert "Identical: " in finish(distcnn("compare", run, alone))
