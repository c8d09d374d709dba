"""A sweep that is killed continues, trains no epoch twice, and its trials are runs like others."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.launches import GONE_SECONDS, assert_gone, end, family
from tests.runs import distcnn, finish, start_as_typed, told, wait_for
from tests.sweeps import leaderboard, ledger, results, saved_steps, trial, tune_command

NUM_TRIALS = 3


def test_a_sweep_of_three_trials_is_killed_and_resumed(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    process = start_as_typed(
        tune_command("tune", folder, "scheduler=none", "num_trials=3", "training.epochs=2")
    )
    wait_for(lambda: len(ledger(folder, "epoch")) >= 1, process)
    processes = family(process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=GONE_SECONDS)
    assert_gone(processes)
    assert not (folder / "results.json").exists()

    assert "Resuming: " in end(start_as_typed(distcnn("resume", folder)))
    assert [row["status"] for row in leaderboard(folder)] == ["completed"] * NUM_TRIALS
    best = results(folder)["best"]
    assert best["trial"] == int(leaderboard(folder)[0]["trial"])
    for number in range(1, NUM_TRIALS + 1):
        run, alone = trial(folder, number), tmp_path / f"alone-{number}"
        assert len(saved_steps(run)) == len(set(saved_steps(run))), "an epoch was trained twice"
        finish(distcnn("train", run / "config.yaml", "--run-dir", alone))
        assert told(run) == told(alone), "a trial has the bits of its config trained alone"
    assert (
        best["test"]["accuracy"] == results(tmp_path / f"alone-{best['trial']}")["test"]["accuracy"]
    ), "the winner is tested"
