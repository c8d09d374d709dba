"""Sweeps as processes of their own, and what they leave behind."""

from __future__ import annotations

import csv
import json
from io import StringIO
from pathlib import Path
from typing import Any

from distcnn.location import Location
from tests.runs import distcnn, events

SMALL = [
    "data.source=synthetic",
    "data.num_train=1280",
    "data.num_val=500",
    "training.precision=32-true",
]
# What depends on the clock, or on who came first.
_TIMES = ("train_seconds",)


def tune_command(sweep: Path | str, folder: Location, *more: str) -> list[str]:
    return distcnn("tune", sweep, *SMALL, *more, "--run-dir", folder)


def ledger(folder: Location, kind: str) -> list[dict[str, Any]]:
    path = folder / "ledger.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    parsed = [json.loads(line) for line in lines if line.endswith("}")]
    return [event for event in parsed if event["event"] == kind]


def leaderboard(folder: Location) -> list[dict[str, str]]:
    text = (folder / "leaderboard.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(StringIO(text)))
    return [{name: row[name] for name in row if name not in _TIMES} for row in rows]


def trial(folder: Any, number: int) -> Any:
    return folder / "trials" / f"{number:04d}"


def saved_steps(run: Path) -> list[object]:
    """Return the step of each checkpoint that was committed, in order."""
    return [event["step"] for event in events(run) if event["event"] == "checkpoint"]


def results(folder: Location) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_bytes())
