"""Which trials train on to the end, and which are stopped early."""

from __future__ import annotations

import math
from bisect import insort
from typing import Protocol

from distcnn.sweep.config import SchedulerConfig


class Scheduler(Protocol):
    """Stops trials early; told every epoch of every trial, in the order of the ledger."""

    def stops(self, epoch: int, score: float) -> bool:
        """Whether a trial with this score after this epoch is to stop; less is better."""
        ...


class _Patient:
    """Stops none."""

    def stops(self, epoch: int, score: float) -> bool:
        """No."""
        return False


class _Asha:
    """Stops a trial that is not among the best of those that reached a rung before it.

    L. Li et al., "A System for Massively Parallel Hyperparameter Tuning", 2020. Its verdicts are
    those of Ray Tune's scheduler, which sorts all scores of a rung for each trial that reaches it:
    with 10,000 trials that came to a millisecond each.
    """

    def __init__(self, config: SchedulerConfig, num_epochs: int) -> None:
        """Begin with empty rungs."""
        self._quantile = 1 - 1 / config.reduction_factor
        self._rungs: dict[int, list[float]] = {}
        """The rewards (scores of which more is better) at an epoch, in ascending order."""
        rung = float(config.grace_epochs)
        while rung < num_epochs:
            self._rungs[math.ceil(rung)] = []
            rung *= config.reduction_factor

    def stops(self, epoch: int, score: float) -> bool:
        """Whether a trial with this score after this epoch is to stop; less is better."""
        rewards = self._rungs.get(epoch)
        if rewards is None:
            return False
        is_below = bool(rewards) and -score < _quantile(rewards, self._quantile)
        insort(rewards, -score)
        return is_below


def _quantile(ascending: list[float], share: float) -> float:
    """The value that a share of them is below, interpolated between two of them."""
    position = share * (len(ascending) - 1)
    index = math.floor(position)
    low, high = ascending[index], ascending[min(index + 1, len(ascending) - 1)]
    # Trials without a score have -inf, of which no difference can be taken.
    return low if math.isinf(low) or low == high else low + (position - index) * (high - low)


def scheduler_of(config: SchedulerConfig, num_epochs: int) -> Scheduler:
    """The scheduler that a sweep asks for; a population is compared by the study itself."""
    return _Asha(config, num_epochs) if config.name == "asha" else _Patient()
