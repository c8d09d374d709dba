"""Asynchronous successive halving by Ray Tune's own scheduler, told what the ledger holds."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler

from distcnn.sweep.config import SchedulerConfig
from distcnn.sweep.scheduler import Patient, Scheduler


class Asha:
    """Stops a trial that is not among the best of those that reached a rung before it.

    L. Li et al., "A System for Massively Parallel Hyperparameter Tuning", 2020. Ray Tune's
    scheduler looks at a trial's id alone, so that a stand-in does: it can be told again on resume
    what it was told before, and nothing of it has to be kept.
    """

    def __init__(self, config: SchedulerConfig, num_epochs: int) -> None:
        """Begin with empty rungs."""
        self._scheduler: Any = AsyncHyperBandScheduler(
            time_attr="epoch",
            metric="score",
            mode="min",
            max_t=num_epochs,
            grace_period=min(config.grace_epochs, num_epochs),
            reduction_factor=config.reduction_factor,
            stop_last_trials=False,
        )
        self._trials: dict[int, SimpleNamespace] = {}

    def stops(self, number: int, epoch: int, score: float) -> bool:
        """Whether a trial is to stop after this epoch; less is better."""
        if number not in self._trials:
            self._trials[number] = SimpleNamespace(trial_id=number)
            self._scheduler.on_trial_add(None, self._trials[number])
        result = {"epoch": epoch, "score": score}
        action = self._scheduler.on_trial_result(None, self._trials[number], result)
        return action == TrialScheduler.STOP


def scheduler_of(config: SchedulerConfig, num_epochs: int) -> Scheduler:
    """The scheduler that a sweep asks for; a population is compared by the study itself."""
    return Asha(config, num_epochs) if config.name == "asha" else Patient()
