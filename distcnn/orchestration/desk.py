"""The driver's side of a sweep: hands out tasks, takes reports, watches the time. Thread-safe."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

from distcnn.config import RunConfig
from distcnn.config_file import ConfigError
from distcnn.errors import UserError
from distcnn.sweep.copying import copy_checkpoint
from distcnn.sweep.directory import SweepDirectory
from distcnn.sweep.study import Report, Study, Task, Trial
from distcnn.sweep.view import Standing, SweepView, describe_trial, standing

T = TypeVar("T")


class Desk:
    """What trials' processes call, and Ray Tune's searcher asks.

    Whatever goes wrong here (a full disk, a lost lease) ends the sweep: `error` tells the driver.
    """

    def __init__(self, study: Study, directory: SweepDirectory, view: SweepView) -> None:
        """Begin, or go on, now."""
        self.error: Exception | None = None
        self.wish = ""
        """Why the trials that run should save and stop, if they should."""
        self._study, self._directory, self._view = study, directory, view
        self._lock = threading.RLock()
        self._began = time.monotonic()
        self._elapsed_before = study.elapsed_seconds
        self._tasks: dict[int, Task] = {}
        self._heard: set[int] = set()
        self._counts = Counter(t.status for t in study.trials.values() if t.is_over)
        self._num_over_before = sum(self._counts.values())
        self._winner_failures = 0

    # What the driver asks.

    def next_task(self) -> Task | None:
        """What to start; None for nothing now."""

        def next_task() -> Task | None:
            if self.wish and self._study.closed is None:
                return None
            while True:
                for trial in self._study.open_trials:
                    self._give_its_parents(trial)
                task = self._study.next_task()
                if task is None or self._is_valid(task.trial):
                    break
            if task is not None:
                self._tasks[task.trial.number] = task
                self._heard.discard(task.trial.number)
            return task

        return self._safely(next_task)

    def is_over(self) -> bool:
        """Whether no task will follow."""
        with self._lock:
            interrupted = bool(self.wish) and self._study.closed is None
            return self.error is not None or interrupted or self._study.is_over()

    def process_ended(self, number: int, reason: str) -> None:
        """The process that had a trial's task is done with it, or has died."""

        def process_ended() -> None:
            task = self._tasks.pop(number)
            if number in self._heard:
                return
            self._view.note(f"trial {number}: {reason}")
            if task.kind == "winner":
                self._winner_failed(reason)
                return
            self._study.lost(number, reason, self._elapsed())
            self._count(number)

        self._safely(process_ended)

    def interrupt(self, reason: str) -> None:
        """A signal: what runs is saved, and goes on when the sweep does."""
        with self._lock:
            self.wish = reason
        self._view.note(f"{reason}: saving, then stopping")

    def counts(self) -> dict[str, int]:
        """How many trials have ended in which way."""
        with self._lock:
            return dict(self._counts)

    def tick(self) -> None:
        """Look at the time, and show how things stand."""

        def tick() -> None:
            budget = self._study.sweep.config.time_budget_seconds
            if self._study.closed is None and budget is not None and self._elapsed() >= budget:
                self._study.out_of_time(self._elapsed())
                self._counts = Counter(t.status for t in self._study.trials.values() if t.is_over)
            closed = self._study.closed
            if closed is not None and closed.reason and not self.wish:
                self.wish = closed.reason
                self._view.note(f"{closed.reason}: no further trial is begun")
            self._view.show(self.standing())

        self._safely(tick)

    def standing(self) -> Standing:
        """How things stand."""
        with self._lock:
            num_over = sum(self._counts.values())
            here = num_over - self._num_over_before
            hours = (time.monotonic() - self._began) / 3600
            rate = here / hours if here else None
            planned = self._study.num_planned
            left = None
            if planned is not None and rate:
                left = 3600 * max(0, planned - num_over) / rate
            budget = self._study.sweep.config.time_budget_seconds
            if budget is not None:
                left = min(left or budget, max(0.0, budget - self._elapsed()))
            return standing(self._study, self._counts, rate, left)

    # What trials' processes call.

    def calls(self) -> dict[str, Callable[..., Any]]:
        """By name."""
        return {
            "task": self.task,
            "report": self.report,
            "left": self.left,
            "beat": self.beat,
            "note": self.note,
        }

    def task(self, number: int) -> dict[str, Any]:
        """What a trial's process has to know of its task."""
        with self._lock:
            task = self._tasks[number]
            trial = task.trial
            return {
                "trial": number,
                "purpose": task.kind,
                "config": self.config_of(trial).to_plain(),
                "epoch": trial.epoch,
                "verdict": trial.verdict,
            }

    def report(self, number: int, report: dict[str, Any]) -> str:
        """A trial has finished an epoch; why it is to stop, empty if it is to go on."""
        reason = self._safely(lambda: self._study.report(number, Report(**report), self._elapsed()))
        return self.wish if reason is None else reason

    def left(self, number: int, status: Any, reason: str, cause: str) -> None:
        """A process has done with a task."""

        def left() -> None:
            self._heard.add(number)
            if self._tasks[number].kind == "winner":
                if status == "failed":
                    self._winner_failed(reason)
                else:
                    self._study.finalized(self._elapsed())
                return
            self._study.left(number, status, reason, cause, self._elapsed())
            self._count(number)

        self._safely(left)

    def beat(self, number: int) -> str:
        """A sign of life; why the trial is to save and stop, if it is."""
        return self.wish

    def note(self, number: int, message: str) -> None:
        """Something the user should know."""
        self._view.note(f"trial {number}: {message}")

    # What these are made of.

    def config_of(self, trial: Trial) -> RunConfig:
        """A trial's run config."""
        sweep = self._study.sweep
        config = sweep.run_config(trial.values)
        return config.model_copy(update={"name": f"{sweep.config.name}-{trial.number:04d}"})

    def _safely(self, action: Callable[[], T]) -> T | None:
        with self._lock:
            if self.error is not None:
                return None
            try:
                return action()
            except Exception as error:  # noqa: BLE001 - raised by the driver
                self.error = error
                self.wish = self.wish or "the sweep's driver has failed"
                return None

    def _elapsed(self) -> float:
        return self._elapsed_before + time.monotonic() - self._began

    def _is_valid(self, trial: Trial) -> bool:
        """Whether a trial's values go together; if not, it has failed."""
        try:
            self._study.sweep.run_config(trial.values)
        except ConfigError as error:
            self._study.left(trial.number, "failed", str(error), "refused", self._elapsed())
            self._count(trial.number)
            return False
        return True

    def _give_its_parents(self, trial: Trial) -> None:
        """Let a copy begin with its parent's checkpoint, before the parent goes on."""
        if trial.parent is not None and not trial.reports:
            source = self._directory.trial(trial.parent.number)
            copy_checkpoint(source, self._directory.trial(trial.number), trial.parent.epoch)

    def _winner_failed(self, reason: str) -> None:
        self._winner_failures += 1
        if self._winner_failures > self._study.sweep.base.recovery.max_failures:
            raise UserError(
                f"the winner cannot be finalized: {reason}\nMend that, then:"
                f" distcnn resume {self._directory.path}"
            )
        self._study.not_finalized()

    def _count(self, number: int) -> None:
        trial = self._study.trials[number]
        if trial.is_over:
            self._counts[trial.status] += 1
            reason = f": {trial.headline}" if trial.reason else ""
            self._view.ended(f"{trial.status}  {describe_trial(self._study, trial)}{reason}")
