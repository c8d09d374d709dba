"""The driver's side of a sweep: hands out tasks, takes reports, watches the time. Thread-safe."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from distcnn.config import RunConfig
from distcnn.config_file import ConfigError
from distcnn.errors import UserError
from distcnn.files import DamagedFileError
from distcnn.run_directory.checkpoint_index import CheckpointDamagedError
from distcnn.sweep.copying import copy_checkpoint
from distcnn.sweep.directory import SweepDirectory
from distcnn.sweep.study import Study, Task
from distcnn.sweep.trial import Report, Trial
from distcnn.sweep.view import Standing, SweepView, describe_trial, standing
from distcnn.wording import duration

T = TypeVar("T")

# For a task to get its process, before it is said aloud that it waits.
_SAY_AFTER_SECONDS = 30.0
# For a process to start, which is not seen apart from the wait for room.
_START_SECONDS = 60.0
# For a process that gives signs of life, to give the next one.
_SILENT_SECONDS = 60.0
# Longer than the driver ever is between two looks, unless it was stopped itself.
_LOOK_SECONDS = 10.0


@dataclass
class _Handed:
    """A task that somebody has."""

    task: Task
    since: float
    has_process: bool = False
    is_done: bool = False
    beat_at: float | None = None
    """When its process last gave a sign of life; None while it does not train."""


class Desk:
    """What trials' processes call, and Ray Tune's searcher asks.

    A task has a number of its own, by which its process is known: what a process says that was
    taken for dead, and is not, counts for nothing. Whatever goes wrong here (a full disk, a lost
    lease) ends the sweep: `error` tells the driver.
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
        self._ids = itertools.count(1)
        self._handed: dict[int, _Handed] = {}
        self._copied: set[int] = set()
        self._winner_failures = 0
        self._said_waiting = False
        self._is_interrupted = False
        self._looked_at = self._began
        self._num_over_before = study.counts.total()
        study.take_newly_over()

    # What the driver asks.

    def next_task(self) -> tuple[int, int] | None:
        """The number of the task to start, and of its trial; None for nothing now."""

        def next_task() -> tuple[int, int] | None:
            if self._is_interrupted and self._study.closed is None:
                return None
            task = self._decided_next()
            while task is not None and not self._can_begin(task.trial):
                task = self._decided_next()
            if task is None:
                return None
            number = next(self._ids)
            self._handed[number] = _Handed(task, time.monotonic())
            return number, task.trial.number

        return self._safely(next_task)

    def is_over(self) -> bool:
        """Whether no task will follow."""
        with self._lock:
            interrupted = self._is_interrupted and self._study.closed is None
            return self.error is not None or interrupted or self._study.is_over()

    def process_ended(self, number: int, reason: str) -> None:
        """The process that had a task is done with it, or has died."""

        def process_ended() -> None:
            handed = self._handed.pop(number)
            if handed.is_done:
                return
            self._view.note(f"trial {handed.task.trial.number}: {reason}")
            self._lose(handed.task, reason)

        self._safely(process_ended)

    def interrupt(self, reason: str) -> None:
        """A signal: what runs is saved, and goes on when the sweep does."""
        with self._lock:
            self._is_interrupted = True
            self.wish = self.wish or reason
            is_last = any(each.task.kind == "winner" for each in self._handed.values())
        doing = "finalizing the winner" if is_last else "saving"
        self._view.note(f"{reason}: {doing}, then stopping; once more to leave at once")

    def is_stopping(self) -> bool:
        """Whether something that should come to its end has not yet.

        A winner is only finalized, which is soon done once it has a process.
        """
        with self._lock:
            if not self.wish:
                return False
            is_ending = self._is_interrupted or self.error is not None
            return any(
                not each.is_done
                and (each.task.kind == "trial" or (is_ending and not each.has_process))
                for each in self._handed.values()
            )

    def give_up_stopping(self) -> bool:
        """Where time is spent, end the trials that would not stop; whether something is left to do.

        Their processes are gone by now.
        """

        def give_up_stopping() -> bool:
            if self._is_interrupted or self._study.closed is None:
                return False
            for number, handed in list(self._handed.items()):
                del self._handed[number]
                if handed.task.kind == "trial" and not handed.is_done:
                    trial = handed.task.trial.number
                    self._study.left(trial, "stopped", "", "", self._elapsed())
            return not self._study.is_over()

        return self._safely(give_up_stopping) or False

    def silent_tasks(self) -> list[int]:
        """The tasks whose processes have long given no sign of life."""
        with self._lock:
            now = time.monotonic()
            was_away = now - self._looked_at > _LOOK_SECONDS
            self._looked_at = now
            silent: list[int] = []
            for number, handed in self._handed.items():
                if handed.beat_at is None or handed.is_done:
                    continue
                if was_away:  # Nobody could be heard.
                    handed.beat_at = now
                elif now - handed.beat_at > _SILENT_SECONDS:
                    handed.beat_at = None  # It is ended once.
                    silent.append(number)
                    self._view.note(
                        f"trial {handed.task.trial.number}: no sign of life of its process for"
                        f" {duration(_SILENT_SECONDS)}: ending it"
                    )
        return silent

    def waits_for_processes(self) -> bool:
        """Whether all that is handed out waits for room."""
        with self._lock:
            handed = self._handed.values()
            return bool(handed) and not any(each.has_process for each in handed)

    def tick(self) -> None:
        """Look at the time, and show how things stand."""

        def tick() -> None:
            budget = self._study.sweep.config.time_budget_seconds
            if self._study.closed is None and budget is not None and self._elapsed() >= budget:
                self._study.out_of_time(self._elapsed())
            closed = self._study.closed
            if closed is not None and closed.reason and not self.wish:
                self.wish = closed.reason
                self._view.note(f"{closed.reason}: no further trial is begun")
            self._look_at_waiting()
            self._view.show(self.standing())

        self._safely(tick)

    def standing(self) -> Standing:
        """How things stand."""
        with self._lock:
            num_over = self._study.counts.total()
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
            waiting = sum(not each.has_process for each in self._handed.values())
            return standing(self._study, waiting, rate, left)

    def config_of(self, trial: Trial) -> RunConfig:
        """A trial's run config."""
        sweep = self._study.sweep
        config = sweep.run_config(trial.values)
        return config.model_copy(update={"name": f"{sweep.config.name}-{trial.number:04d}"})

    # What trials' processes call, with the number of their task.

    def calls(self) -> dict[str, Callable[..., Any]]:
        """By name."""
        return {
            "task": self.task,
            "report": self.report,
            "left": self.left,
            "beat": self.beat,
            "note": self.note,
        }

    def task(self, number: int) -> dict[str, Any] | None:
        """What a process has to know of its task; None if it is no longer to be done."""

        def task() -> dict[str, Any] | None:
            handed = self._handed.get(number)
            if handed is None:
                return None
            handed.has_process = True
            trial = handed.task.trial
            return {
                "trial": trial.number,
                "purpose": handed.task.kind,
                "config": self.config_of(trial).to_plain(),
                "epoch": trial.epoch,
                "verdict": trial.verdict,
                "val_accuracy": max((each.val_accuracy for each in trial.reports), default=0.0),
            }

        return self._safely(task)

    def report(self, number: int, report: dict[str, Any]) -> str:
        """A trial has finished an epoch; why it is to stop, empty if it is to go on."""

        def tell() -> str:
            handed = self._handed.get(number)
            if handed is None:
                return "another process has taken this trial over"
            trial = handed.task.trial.number
            return self._study.report(trial, Report(**report), self._elapsed())

        answer = self._safely(tell)
        return self.wish if answer is None else answer

    def left(self, number: int, status: str, reason: str, cause: str) -> None:
        """A process has done with a task.

        Args:
            number: of the task.
            status: `completed`, `stopped` or `failed`; `lost`, if it is to be done again;
                `damaged`, if it is the winner, without a whole checkpoint; `broken`, if the sweep
                cannot go on.
            reason: for people.
            cause: the same for failures that are alike.
        """

        def left() -> None:
            handed = self._handed.get(number)
            if handed is None:
                return
            handed.is_done = True
            task = handed.task
            if status == "broken":
                raise UserError(self._and_then(reason))
            if status == "damaged":
                self._study.spoilt(task.trial.number, reason, self._elapsed())
            elif status == "lost" or (task.kind == "winner" and status != "completed"):
                self._view.note(f"trial {task.trial.number}: {reason}")
                self._lose(task, reason)
            elif task.kind == "winner":
                self._study.finalized(self._elapsed())
            elif status in ("completed", "stopped", "failed"):
                self._study.left(task.trial.number, status, reason, cause, self._elapsed())

        self._safely(left)

    def beat(self, number: int) -> str:
        """A sign of life; why the trial is to save and stop, if it is."""
        with self._lock:
            handed = self._handed.get(number)
            if handed is None or handed.task.kind != "trial":
                return ""
            handed.beat_at = time.monotonic()
            return self.wish

    def note(self, number: int, message: str) -> None:
        """Something the user should know."""
        with self._lock:
            handed = self._handed.get(number)
            if handed is not None:
                self._view.note(f"trial {handed.task.trial.number}: {message}")

    # What these are made of.

    def _safely(self, action: Callable[[], T]) -> T | None:
        with self._lock:
            if self.error is not None:
                return None
            try:
                result = action()
                for trial in self._study.take_newly_over():
                    reason = f": {trial.headline}" if trial.reason else ""
                    line = f"{trial.status}  {describe_trial(self._study, trial)}{reason}"
                    self._view.ended(line)
            except Exception as error:  # noqa: BLE001 - raised by the driver
                self.error = error
                self.wish = self.wish or "the sweep cannot go on"
                return None
            return result

    def _elapsed(self) -> float:
        return self._elapsed_before + time.monotonic() - self._began

    def _decided_next(self) -> Task | None:
        task = self._study.next_task()
        # An exchange may just have been: before a parent goes on.
        for trial in self._study.open_trials:
            self._give_its_parents(trial)
        return task

    def _can_begin(self, trial: Trial) -> bool:
        """Whether a trial's values go together; if not, or if its parent was damaged, it failed."""
        if trial.status == "failed":
            return False
        try:
            self._study.sweep.run_config(trial.values)
        except ConfigError as error:
            self._study.left(trial.number, "failed", str(error), "refused", self._elapsed())
            return False
        return True

    def _give_its_parents(self, trial: Trial) -> None:
        """Let a copy begin with its parent's checkpoint, before the parent goes on.

        Where that is not whole, the copy has failed.
        """
        if trial.parent is None or trial.number in self._copied or trial.reports:
            return
        source = self._directory.trial(trial.parent.number)
        try:
            copy_checkpoint(source, self._directory.trial(trial.number), trial.parent.epoch)
        except (CheckpointDamagedError, DamagedFileError) as damage:
            self._study.left(trial.number, "failed", str(damage), "damaged", self._elapsed())
        self._copied.add(trial.number)

    def _lose(self, task: Task, reason: str) -> None:
        if task.kind == "trial":
            self._study.lost(task.trial.number, reason, self._elapsed())
            return
        self._winner_failures += 1
        if self._winner_failures > self._study.sweep.base.recovery.max_failures:
            raise UserError(self._and_then(f"the winner cannot be finalized: {reason}"))
        self._study.not_finalized()

    def _look_at_waiting(self) -> None:
        """Say that all wait for room; end the sweep when that takes too long.

        Raises:
            UserError: it did.
        """
        if not self.waits_for_processes():
            self._said_waiting = False
            return
        waited = time.monotonic() - min(each.since for each in self._handed.values())
        patience = self._study.sweep.base.recovery.wait_for_workers_seconds
        if waited > patience + _START_SECONDS:
            raise UserError(
                self._and_then(
                    f"no room became free for a trial within {duration(patience)}"
                    " (recovery.wait_for_workers_seconds)"
                )
            )
        if waited > _SAY_AFTER_SECONDS and not self._said_waiting:
            self._said_waiting = True
            self._view.note(
                f"Waiting for room for a trial, up to {duration(patience)}: others hold it, or its"
                " process is slow to start"
            )

    def _and_then(self, what: str) -> str:
        return f"{what}\nMend that, then go on with: distcnn resume {self._directory.path}"
