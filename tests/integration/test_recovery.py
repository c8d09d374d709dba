"""A run that is stopped or killed ends with the bits of one that was left alone."""

from __future__ import annotations

import json
import random
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from distcnn.run_directory.run import RunDirectory
from tests.runs import (
    TIMEOUT_SECONDS,
    assert_same_result,
    distcnn,
    events,
    finish,
    start_and_reach,
    train_command,
)


def test_kill_9_at_a_random_moment(tmp_path: Path, undisturbed: Path) -> None:
    """With a save every third step; `test_kills.py` has all that a kill can fall into."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    run = tmp_path / "run"
    process = start_and_reach(train_command(run), run, num_saves=chance.randrange(1, 8))
    time.sleep(chance.uniform(0, 0.05))
    process.kill()
    process.communicate()
    finish(distcnn("resume", run))
    assert_same_result(run, undisturbed)
    files = {path.name for path in (run / "checkpoints").iterdir()}
    committed = {record.file for record in RunDirectory(run).read_checkpoints()}
    assert {name for name in files if not name.startswith("index-")} == committed


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
def test_kill_9_on_a_gpu(tmp_path: Path) -> None:
    undisturbed, run = tmp_path / "undisturbed", tmp_path / "run"
    finish(train_command(undisturbed, "workers.gpus=1"))
    process = start_and_reach(train_command(run, "workers.gpus=1"), run, num_saves=5)
    process.kill()
    process.communicate()
    finish(distcnn("resume", run))
    assert_same_result(run, undisturbed)


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_says_how_to_go_on(
    tmp_path: Path, undisturbed: Path, number: signal.Signals, expected: int
) -> None:
    run = tmp_path / "run"
    # Saves are the signal's alone, after the first one at step 20.
    command = train_command(run, "training.checkpoint_every_steps=20")
    process = start_and_reach(command, run, num_saves=1)
    process.send_signal(number)
    output, _ = process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == expected, output
    assert f"distcnn resume {run}" in output
    assert json.loads((run / "results.json").read_bytes())["status"] == "stopped"
    finish(distcnn("resume", run))
    assert_same_result(run, undisturbed)


# Runs the command with signals to itself inside a step, where no timing could aim them so well.
SIGNAL_IN_A_STEP = """
import os, signal, sys
from distcnn.module import ImageClassifier
name, at, *numbers = sys.argv[1], int(sys.argv[2]), *map(int, sys.argv[3].split(","))
original, seen = getattr(ImageClassifier, name), [0]
def step(self, *arguments):
    seen[0] += 1
    if seen[0] == at:
        for number in numbers:
            os.kill(os.getpid(), number)
    return original(self, *arguments)
setattr(ImageClassifier, name, step)
from distcnn.cli import main
sys.exit(main(sys.argv[4:]))
"""


def signalled(step: str, at: int, numbers: str, command: list[str]) -> list[str]:
    return [sys.executable, "-c", SIGNAL_IN_A_STEP, step, str(at), numbers, *command[3:]]


@pytest.mark.parametrize(("step", "number"), [("validation_step", "2"), ("test_step", "15")])
def test_a_signal_while_finalizing_comes_too_late(
    tmp_path: Path, undisturbed: Path, step: str, number: str
) -> None:
    """With 500 validation images, each evaluation is one step: the third is `finalize`'s own."""
    run = tmp_path / "run"
    at = 3 if step == "validation_step" else 2
    output = finish(signalled(step, at, number, train_command(run)))
    assert "Run completed" in output
    assert_same_result(run, undisturbed)


def test_a_signal_in_the_last_step_of_an_epoch(tmp_path: Path, undisturbed: Path) -> None:
    run = tmp_path / "run"
    finish(signalled("learn", 50, "15", train_command(run)), expected=143)
    assert RunDirectory(run).read_checkpoints()[-1].epoch == 1
    finish(distcnn("resume", run))
    assert_same_result(run, undisturbed)


def test_a_second_ctrl_c_ends_at_once(tmp_path: Path, undisturbed: Path) -> None:
    run = tmp_path / "run"
    output = finish(signalled("learn", 20, "2,2", train_command(run)), expected=130)
    assert "interrupted" in output
    assert RunDirectory(run).read_checkpoints()[-1].step == 18
    finish(distcnn("resume", run))
    assert_same_result(run, undisturbed)


def test_early_stopping_survives_a_kill(tmp_path: Path) -> None:
    """A learning rate of next to nothing: no epoch is better than the first for long."""
    more = ["optimizer.lr=1e-12", "training.epochs=30", "training.early_stopping=2"]
    undisturbed, run = tmp_path / "undisturbed", tmp_path / "run"
    finish(train_command(undisturbed, *more))
    epochs = json.loads((undisturbed / "results.json").read_bytes())["epochs"]
    assert 3 <= epochs < 30
    process = start_and_reach(train_command(run, *more), run, num_saves=20)
    process.kill()
    process.communicate()
    finish(distcnn("resume", run))
    assert_same_result(run, undisturbed)


def test_the_test_split_is_read_once(undisturbed: Path) -> None:
    kinds = [event["event"] for event in events(undisturbed)]
    assert kinds.count("finalized") == 1
    assert kinds[-1] == "finalized"
