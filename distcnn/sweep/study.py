"""The state of a sweep, and what comes next. Pure: the same events give the same study.

What is decided is recorded in the ledger, then applied; a resumed sweep applies the ledger again.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Literal

from distcnn.errors import UserError
from distcnn.sweep.file import Sweep
from distcnn.sweep.ledger import Event
from distcnn.sweep.lessons import Lessons
from distcnn.sweep.population import Copy, Member, exchange
from distcnn.sweep.scheduler import scheduler_of
from distcnn.sweep.search import search_of
from distcnn.sweep.trial import Parent, Report, Status, Trial, headline, score_of


@dataclass(frozen=True)
class Task:
    """What one process is to do next."""

    kind: Literal["trial", "winner"]
    trial: Trial


@dataclass(frozen=True)
class Closed:
    """Why no further trial is begun."""

    status: Literal["completed", "failed"]
    reason: str


class Study:
    """All trials, and what comes next. Its callers take turns."""

    def __init__(
        self,
        sweep: Sweep,
        at_a_time: int,
        record: Callable[[Event], None],
        past: Iterable[Event] = (),
    ) -> None:
        """Go on after the events of the past.

        Args:
            sweep: what is searched.
            at_a_time: how many trials run at a time.
            record: makes an event durable, before it counts.
            past: what the ledger holds.
        """
        self.sweep = sweep
        self.trials: dict[int, Trial] = {}
        self.counts: Counter[str] = Counter()
        """Of the trials that are over, by status."""
        self.winner_is_finalized = False
        self.elapsed_seconds = 0.0
        """Up to the last event."""
        self._scheduler = scheduler_of(sweep.config.scheduler, sweep.base.training.epochs)
        self._search = search_of(sweep)
        self._lessons = Lessons(self._search, sweep.config, at_a_time)
        self._record = record
        self._open: dict[int, Trial] = {}
        self._newly_over: list[Trial] = []
        self._best: tuple[float, int] | None = None
        self._generation = 0
        self._closed: Closed | None = None
        self._is_finalizing = False
        self._failures_alike: list[str] = []
        past = list(past)
        for event in past:
            self._apply(event)
        if not past:
            # Kept, since a resumed sweep may find other room, and is to search as it would have.
            self._decide({"event": "began", "at_a_time": at_a_time}, 0.0)
        self._failures_alike.clear()  # Who resumes has mended something, or wants to see it again.

    # What is asked.

    @property
    def closed(self) -> Closed | None:
        """Why no further trial is begun; None while some may be."""
        if self._closed is None and self._has_all_trials and not self._open:
            return Closed("completed", "")
        return self._closed

    @property
    def winner(self) -> Trial | None:
        """The best trial so far: by the metric at its best epoch, the earliest of equals."""
        return None if self._best is None else self.trials[self._best[1]]

    @property
    def open_trials(self) -> list[Trial]:
        """Those that have begun and are not over, in the order of their numbers."""
        return [self._open[number] for number in sorted(self._open)]

    @property
    def num_planned(self) -> int | None:
        """How many trials there will be; None where only time ends it, or members are replaced."""
        return None if self.sweep.config.scheduler.name == "pbt" else self._search.num_trials

    @property
    def ranking(self) -> list[Trial]:
        """All trials, the best one first; those that have failed last."""

        def key(trial: Trial) -> tuple[bool, float, int]:
            return trial.status == "failed", trial.score(self.sweep.config), trial.number

        return sorted(self.trials.values(), key=key)

    @property
    def train_seconds(self) -> float:
        """Time that all trials have trained; what a copy has from its parent counts once."""
        return sum(map(self._own_train_seconds, self.trials.values()))

    def _own_train_seconds(self, trial: Trial) -> float:
        if not trial.reports:
            return 0.0
        before = 0.0
        if trial.parent is not None:
            of_parent = self.trials[trial.parent.number].reports
            before = next(
                (each.train_seconds for each in of_parent if each.epoch == trial.parent.epoch), 0.0
            )
        return trial.reports[-1].train_seconds - before

    def take_newly_over(self) -> list[Trial]:
        """The trials that have ended since the last call."""
        newly_over, self._newly_over = self._newly_over, []
        return newly_over

    def next_task(self) -> Task | None:
        """What to do next, which is then being done; None for nothing at the moment."""
        if self.closed is not None:
            self._end_what_waits()
            task = None if self._is_finalizing else self._finalizing()
            self._is_finalizing = self._is_finalizing or task is not None
            return task
        self._exchange_if_met()
        trial = self._next_waiting() or self._new_trial()
        if trial is None:
            return None
        trial.status = "running"
        return Task("trial", trial)

    def is_over(self) -> bool:
        """Whether nothing is left to do."""
        if self.closed is None or self._is_running:
            return False
        return self.closed.status == "failed" or (not self._open and self._finalizing() is None)

    # What happens.

    def report(self, number: int, report: Report, elapsed_seconds: float) -> str:
        """A trial has finished an epoch; why it is to stop for now, empty if it is to go on."""
        trial = self.trials[number]
        if report.epoch > trial.epoch:
            self._decide({"event": "epoch", "trial": number, **asdict(report)}, elapsed_seconds)
        if trial.verdict or self._barrier is None or trial.epoch < self._barrier:
            return trial.verdict
        return f"waits for the rest of the population after epoch {trial.epoch}"

    def left(
        self, number: int, status: Status, reason: str, cause: str, elapsed_seconds: float
    ) -> None:
        """A trial has left its process, for good or to go on later.

        Args:
            number: of the trial.
            status: `completed`, `stopped` or `failed`.
            reason: for people.
            cause: the same for failures that are alike.
            elapsed_seconds: since the sweep's start.
        """
        trial = self.trials[number]
        if status == "stopped":
            ends_it = self._closed if self._closed and self._closed.status == "completed" else None
            reason = trial.verdict or (ends_it.reason if ends_it else "")
            if not reason:
                trial.status = "waiting"
                return
        event = {"event": "ended", "trial": number, "status": status, "reason": reason}
        self._decide(event | ({"cause": cause} if cause else {}), elapsed_seconds)
        alike, most = self._failures_alike, self.sweep.config.max_failures_alike
        if len(alike) >= most and self._closed is None:
            # Not in the ledger: who resumes has mended the cause.
            self._closed = Closed(
                "failed", f"{most} trials in a row failed alike: {headline(reason)}"
            )

    def lost(self, number: int, reason: str, elapsed_seconds: float) -> None:
        """A trial's process has died: it is begun again from its checkpoint, or has failed."""
        trial = self.trials[number]
        granted = self.sweep.base.recovery.max_failures
        if trial.restarts >= granted:
            why = f"{reason}, once more than recovery.max_failures = {granted} grants"
            self.left(number, "failed", why, "lost", elapsed_seconds)
        else:
            self._decide({"event": "restart", "trial": number, "reason": reason}, elapsed_seconds)

    def out_of_time(self, elapsed_seconds: float) -> None:
        """The time budget is spent: no further trial is begun, and those that run are to stop."""
        self._decide({"event": "out_of_time"}, elapsed_seconds)

    def not_finalized(self) -> None:
        """The process that was to finalize the winner could not."""
        self._is_finalizing = False

    def spoilt(self, number: int, reason: str, elapsed_seconds: float) -> None:
        """The winner's checkpoint is damaged: the next best trial wins."""
        self._is_finalizing = False
        self._decide({"event": "spoilt", "trial": number, "reason": reason}, elapsed_seconds)

    def finalized(self, elapsed_seconds: float) -> None:
        """The winner's results are written."""
        self._decide({"event": "finalized"}, elapsed_seconds)

    # How events change the study.

    def _decide(self, event: Event, elapsed_seconds: float) -> None:
        event["elapsed_seconds"] = round(elapsed_seconds, 3)
        self._record(event)
        self._apply(event)

    def _apply(self, event: Event) -> None:
        self.elapsed_seconds = event["elapsed_seconds"]
        match event["event"]:
            case "began":
                self._lessons = Lessons(self._search, self.sweep.config, event["at_a_time"])
            case "trial":
                self._add(Trial(event["trial"], event["values"]))
            case "epoch":
                self._add_report(event)
            case "ended":
                self._end(event)
            case "restart":
                trial = self.trials[event["trial"]]
                trial.restarts += 1
                trial.status = "waiting"
            case "exchange":
                self._exchange([Copy(**copy) for copy in event["copies"]])
            case "out_of_time":
                self._closed = Closed("completed", "the time budget is spent")
            case "spoilt":
                trial = self.trials[event["trial"]]
                self.counts[trial.status] -= 1
                self._over(trial, "failed", event["reason"])
            case "finalized":
                self.winner_is_finalized = True
            case unknown:
                raise UserError(
                    f"the ledger tells of something that this distcnn does not know: {unknown};"
                    " go on with the version that wrote it"
                )

    def _add(self, trial: Trial) -> None:
        self.trials[trial.number] = self._open[trial.number] = trial

    def _close(self, trial: Trial, status: Status, reason: str) -> None:
        del self._open[trial.number]
        self._over(trial, status, reason)

    def _over(self, trial: Trial, status: Status, reason: str) -> None:
        trial.status, trial.reason = status, reason
        self.counts[status] += 1
        self._newly_over.append(trial)
        if status == "failed" and self.winner is trial:
            # Trained again from its config, it would fail again.
            scored = [
                (each.score(self.sweep.config), each.number)
                for each in self.trials.values()
                if each.status != "failed"
            ]
            self._best = min((pair for pair in scored if pair[0] < math.inf), default=None)

    def _add_report(self, event: Event) -> None:
        trial = self.trials[event["trial"]]
        report = Report(**{name: event[name] for name in Report.__dataclass_fields__})
        trial.reports.append(report)
        score = score_of(report, self.sweep.config)
        if score < math.inf:
            self._best = min(self._best or (score, trial.number), (score, trial.number))
        # By its best epoch so far, as it is compared in the end: one bad epoch is often noise.
        stops = self._scheduler.stops(report.epoch, trial.score(self.sweep.config))
        if stops and report.epoch < self.sweep.base.training.epochs:
            name = self.sweep.config.scheduler.name
            trial.verdict = f"stopped early by {name} after epoch {report.epoch}"

    def _end(self, event: Event) -> None:
        trial = self.trials[event["trial"]]
        self._close(trial, event["status"], event["reason"])
        self._lessons.take(trial)
        if trial.status != "failed":
            self._failures_alike.clear()
            return
        cause = event.get("cause", "")
        if self._failures_alike and self._failures_alike[-1] != cause:
            self._failures_alike.clear()
        self._failures_alike.append(cause)

    # How it is decided what comes next.

    @property
    def _is_running(self) -> bool:
        return any(trial.status == "running" for trial in self._open.values())

    def _end_what_waits(self) -> None:
        """When the time is spent, what would go on later is over."""
        closed = self._closed
        if closed is None or closed.status == "failed":
            return
        for trial in self.open_trials:
            if trial.status == "waiting":
                self.left(trial.number, "stopped", closed.reason, "", self.elapsed_seconds)

    def _finalizing(self) -> Task | None:
        """The task that is left when no trial is; None where there is none, or not yet."""
        assert self.closed is not None
        winner = self.winner
        if self.closed.status == "failed" or winner is None or self.winner_is_finalized:
            return None
        return None if self._open else Task("winner", winner)

    def _next_waiting(self) -> Trial | None:
        for trial in self.open_trials:
            at_barrier = self._barrier is not None and trial.epoch >= self._barrier
            if trial.status == "waiting" and (trial.verdict or not at_barrier):
                return trial
        return None

    @property
    def _has_all_trials(self) -> bool:
        most = self._search.num_trials
        return most is not None and len(self.trials) >= most

    def _new_trial(self) -> Trial | None:
        number = len(self.trials) + 1
        if self._has_all_trials or not self._lessons.suffice_for(number):
            return None
        values = self._search.propose(number, self._lessons.told)
        self._decide({"event": "trial", "trial": number, "values": values}, self.elapsed_seconds)
        return self.trials[number]

    # A population, which meets at barriers.

    @property
    def _barrier(self) -> int | None:
        """The epoch at which the population is compared next; None where there is none."""
        scheduler = self.sweep.config.scheduler
        barrier = scheduler.interval_epochs * (self._generation + 1)
        is_left = scheduler.name == "pbt" and barrier < self.sweep.base.training.epochs
        return barrier if is_left else None

    def _exchange_if_met(self) -> None:
        barrier = self._barrier
        if barrier is None or not self._has_all_trials:
            return
        members = self.open_trials
        if any(trial.status == "running" or trial.epoch < barrier for trial in members):
            return
        copies = exchange(
            [Member(each.number, each.values, self._latest_score(each)) for each in members],
            self.sweep,
            self._generation,
            next_number=len(self.trials) + 1,
            epoch=barrier,
        )
        event = {"event": "exchange", "copies": [asdict(copy) for copy in copies]}
        self._decide(event, self.elapsed_seconds)

    def _latest_score(self, trial: Trial) -> float:
        """Of a copy that has not trained yet there is none, and no barrier lets it come here."""
        return score_of(trial.reports[-1], self.sweep.config)

    def _exchange(self, copies: list[Copy]) -> None:
        self._generation += 1
        for copy in copies:
            if copy.replaced is not None:
                reason = f"replaced by trial {copy.number}, a copy of trial {copy.parent}"
                self._close(self.trials[copy.replaced], "stopped", reason)
            self._add(Trial(copy.number, copy.values, Parent(copy.parent, copy.epoch)))
