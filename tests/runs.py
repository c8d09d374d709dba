"""Runs as processes of their own: started, ended and compared to the last bit."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from distcnn.location import Location
from tests.forked import DISTCNN, LIGHT, ForkedCommand

OVERRIDES = [
    "data.source=synthetic",
    "data.num_train=3200",
    "data.num_val=500",
    "data.flip=true",
    "data.shift=1",
    "training.epochs=2",
    "training.global_batch_size=64",
    "training.average_weights=0.9",
    "training.checkpoint_every_steps=3",
    "schedule.name=one-cycle",
    "schedule.warmup_fraction=0.25",
    "workers.cpus=1",
]
# No bar, but an end for what would wait for ever.
TIMEOUT_SECONDS = 300
# What must be the same whatever happened on the way: timings may differ.
TOLD_ONCE = ("step", "epoch", "train/loss", "val/loss", "val/accuracy", "lr")
Command: TypeAlias = subprocess.Popen[str] | ForkedCommand
_started: list[Command] = []


def distcnn(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "distcnn.cli", *map(str, arguments)]


def train_command(run: Location, *more: str) -> list[str]:
    return distcnn("train", "article", *OVERRIDES, *more, "--run-dir", run)


def finish(command: list[str], expected: int = 0) -> str:
    """Run to the end; what it said."""
    process = start(command)
    output, _ = process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == expected, output
    return output


def events(run: Location) -> list[dict[str, object]]:
    path = run / "events.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def saves(run: Location) -> int:
    """Return how many checkpoints have been committed."""
    return sum(event["event"] == "checkpoint" for event in events(run))


def wait_for(condition: Callable[[], bool], process: Command) -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "nothing happened in time"
        time.sleep(0.01)


def start(command: list[str]) -> Command:
    """Start a command, forked from a process that has imported torch: see `tests.forked`.

    So is a program of `python -c`, which may change distcnn before it runs it.
    """
    if command[:2] == [sys.executable, "-c"]:
        process = ForkedCommand(command[2], command[3:])
    elif command[:3] == distcnn() and command[3] not in LIGHT:
        process = ForkedCommand(DISTCNN, command[3:])
    else:
        return start_as_typed(command)
    _started.append(process)
    return process


def start_as_typed(command: list[str]) -> subprocess.Popen[str]:
    """Start a command as a user does: Python begins anew, and imports all that it needs."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    _started.append(process)
    return process


def end_those_started() -> None:
    """Kill the processes that a test has started and, since it failed, has not seen end."""
    while _started:
        process = _started.pop()
        if process.returncode is None:
            process.kill()
            process.communicate(timeout=TIMEOUT_SECONDS)


def start_and_reach(command: list[str], run: Location, num_saves: int) -> Command:
    """Start a process and wait until it has committed so many more checkpoints."""
    before = saves(run)
    process = start(command)
    wait_for(lambda: saves(run) >= before + num_saves, process)
    return process


def told(run: Location) -> list[tuple[str, ...]]:
    """The part of `metrics.csv` that a result consists of."""
    header, *rows = (run / "metrics.csv").read_text(encoding="utf-8").splitlines()
    columns = [header.split(",").index(name) for name in TOLD_ONCE]
    return [tuple(row.split(",")[column] for column in columns) for row in rows]


def assert_same_result(run: Location, undisturbed: Path) -> None:
    results, expected = (
        json.loads((path / "results.json").read_bytes()) for path in (run, undisturbed)
    )
    for part in ("status", "epochs", "weights_sha256", "chosen", "val", "test", "data"):
        assert results[part] == expected[part], part
    assert told(run) == told(undisturbed)
    assert (run / "weights.safetensors").read_bytes() == (
        undisturbed / "weights.safetensors"
    ).read_bytes()


def assert_identical(run: Location, undisturbed: Path) -> None:
    """The same result, and all along the way: `compare` sees it too."""
    assert_same_result(run, undisturbed)
    assert "Identical: " in finish(distcnn("compare", run, undisturbed))
