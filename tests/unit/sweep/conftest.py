"""Sweeps for these tests, and processes that run them by a formula."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from distcnn.config_file import plain_to_yaml
from distcnn.sweep import file
from distcnn.sweep.file import Sweep
from distcnn.sweep.study import Study
from distcnn.sweep.trial import Report, Trial

MakeSweep = Callable[..., Sweep]

PLAIN: dict[str, Any] = {
    "base": "local",
    "space": {
        "optimizer.lr": {"loguniform": [1e-3, 1e-1]},
        "model.channels": {"choice": [[8, 16], [16, 32]]},
    },
    "num_trials": 6,
}
LR_ALONE = {"optimizer.lr": {"loguniform": [1e-3, 1e-1]}}


@pytest.fixture
def make_sweep(tmp_path: Path) -> MakeSweep:
    """Loads a sweep that has the given fields; `epochs` is the base's."""

    def make(epochs: int = 3, **fields: Any) -> Sweep:
        path = tmp_path / "sweep.yaml"
        path.write_text(plain_to_yaml(PLAIN | fields))
        return file.load(str(path), [f"training.epochs={epochs}"])

    return make


class KilledError(BaseException):
    """The driver is gone."""


def accuracy(trial: Trial, epoch: int) -> float:
    """The formula: best at a learning rate of 0.01, and growing."""
    return 1 - abs(math.log10(trial.values["optimizer.lr"]) + 2) / 3 - 0.3 / (epoch + 1)


@dataclass
class World:
    """Everything that a kill of the driver leaves: a ledger, and what trials have committed."""

    sweep: Sweep
    at_a_time: int = 2
    ledger: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    committed: dict[int, int] = field(default_factory=dict[int, int])
    trained: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    """Each epoch of each trial, as often as it was trained."""
    kill_at: int | None = None
    """The event before which, or right after which, the driver dies."""
    dies_after: bool = False
    has_failures: bool = False
    """Whether every fourth trial fails in its second epoch."""

    def study(self) -> Study:
        past = [dict(event) for event in self.ledger]
        return Study(self.sweep, self.at_a_time, self.record, past)

    def record(self, event: dict[str, Any]) -> None:
        is_last = self.kill_at is not None and len(self.ledger) >= self.kill_at
        if is_last and not self.dies_after:
            raise KilledError
        self.ledger.append(dict(event))
        if is_last:
            raise KilledError

    def run(self, source: random.Random) -> Study:
        """Drive a study to its end; which process is the next to get on is left to chance."""
        study = self.study()
        running: dict[int, bool] = {}
        while not study.is_over():
            while len(running) < self.at_a_time:
                task = study.next_task()
                if task is None:
                    break
                if task.kind == "winner":
                    study.finalized(0.0)
                    continue
                trial = task.trial
                if trial.parent is not None:
                    self.committed.setdefault(trial.number, trial.parent.epoch)
                running[trial.number] = True
            if running:
                number = source.choice(sorted(running))
                if not self.step(study, study.trials[number]):
                    del running[number]
        return study

    def step(self, study: Study, trial: Trial) -> bool:
        """Train one epoch, or tell of one that was committed before; whether it goes on."""
        done, number = self.committed.get(trial.number, 0), trial.number
        reason = trial.verdict
        num_epochs = self.sweep.base.training.epochs
        if self.has_failures and number % 4 == 3 and trial.epoch == done == 1 and not reason:
            study.left(number, "failed", "train/loss became nan", "nan", 0.0)
            return False
        if not reason and trial.epoch == done < num_epochs:
            done += 1
            self.committed[number] = done
            self.trained.append((number, done))
        if not reason and trial.epoch < done:
            epoch = trial.epoch + 1
            value = accuracy(trial, epoch)
            reason = study.report(number, Report(epoch, 1 - value, value, float(epoch)), 0.0)
        if trial.epoch >= num_epochs:
            study.left(number, "completed", "", "", 0.0)
        elif reason:
            study.left(number, "stopped", reason, "", 0.0)
        else:
            return True
        return False


def outcome(study: Study) -> list[tuple[Any, ...]]:
    """What must not depend on what happened on the way."""
    return [
        (trial.number, trial.values, trial.status, trial.parent, trial.reports)
        for trial in study.ranking
    ]
