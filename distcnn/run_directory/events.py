"""What `events.jsonl` tells of a run's attempts: restarts, and the time they cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

Event = Mapping[str, Any]


@dataclass(frozen=True)
class Restarts:
    """How often the workers of a run were started again, and what was lost by it."""

    failures: int = 0
    preemptions: int = 0
    seconds_lost: float = 0.0
    """From the last checkpoint (or first step) before each restart to the first step after it:
    noticing, starting again, and the steps that had to be repeated."""


def count_restarts(events: Iterable[Event]) -> Restarts:
    """Add up a run's restarts; what lies between two commands of a user is not counted.

    An attempt that no restart has announced is a user's: whatever came before it, a restart that
    was torn off too, is over.
    """
    failures = preemptions = 0
    seconds_lost = 0.0
    attempt = 0
    safe_since: datetime | None = None
    lost_since: datetime | None = None
    for event in events:
        kind, time = event["event"], datetime.fromisoformat(event["time"])
        if event["attempt"] < attempt:
            continue  # Of a worker that did not know yet that it had been replaced.
        if event["attempt"] > attempt:
            attempt = event["attempt"]
            if kind != "restart":
                safe_since = lost_since = None
        if kind == "restart":
            failures += event["cause"] == "failure"
            preemptions += event["cause"] == "preemption"
            lost_since = lost_since or safe_since or time
        elif kind == "first_step" and lost_since is not None:
            seconds_lost += (time - lost_since).total_seconds()
            lost_since = None
        if kind in ("checkpoint", "first_step"):
            safe_since = time
    return Restarts(failures, preemptions, round(seconds_lost, 3))
