"""A trial of a sweep: what it was given, and what it has told of its epochs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from distcnn.sweep.config import SweepConfig
from distcnn.sweep.space import Values

Status = Literal["waiting", "running", "completed", "stopped", "failed"]


@dataclass(frozen=True)
class Report:
    """One epoch of a trial."""

    epoch: int
    """From 1."""
    val_loss: float
    val_accuracy: float
    train_seconds: float
    """Of the trial, up to here."""


@dataclass(frozen=True)
class Parent:
    """Where a copy in a population goes on from."""

    number: int
    epoch: int


@dataclass
class Trial:
    """One of the run configs that are tried."""

    number: int
    """From 1."""
    values: Values
    parent: Parent | None = None
    reports: list[Report] = field(default_factory=list[Report])
    status: Status = "waiting"
    reason: str = ""
    verdict: str = ""
    """Why it is to stop early, once that is decided."""
    restarts: int = 0

    @property
    def epoch(self) -> int:
        """The last one that is known, of those before it was copied too."""
        if self.reports:
            return self.reports[-1].epoch
        return self.parent.epoch if self.parent else 0

    def best_report(self, config: SweepConfig) -> Report | None:
        """The epoch at which the sweep's metric was best; the first of equals."""
        return min(self.reports, key=lambda report: score_of(report, config), default=None)

    def score(self, config: SweepConfig) -> float:
        """The score of its best epoch so far; infinite where it has none."""
        return min((score_of(report, config) for report in self.reports), default=math.inf)

    @property
    def is_over(self) -> bool:
        """Whether it has ended for good."""
        return self.status in ("completed", "stopped", "failed")

    @property
    def headline(self) -> str:
        """The reason in a few words."""
        return headline(self.reason)


def headline(reason: str) -> str:
    """The first clause of a reason; what else it says belongs to the trial's own results."""
    return reason.partition("\n")[0].partition("; ")[0]


def score_of(report: Report, config: SweepConfig) -> float:
    """An epoch's metric as a number of which less is better; infinite where it is none."""
    value = report.val_accuracy if config.metric == "val/accuracy" else report.val_loss
    if not math.isfinite(value):
        return math.inf
    return -value if config.is_maximized else value
