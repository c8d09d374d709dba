"""What a person sees while a sweep runs: one live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from distcnn.sweep.space import describe
from distcnn.sweep.study import Study
from distcnn.sweep.trial import Trial
from distcnn.wording import duration

# Without a terminal, how things stand is said this often.
_PLAIN_SECONDS = 30.0


@dataclass(frozen=True)
class Standing:
    """How a sweep stands."""

    counts: Counter[str]
    """Of trials, by status."""
    num_planned: int | None
    metric: str
    best: str
    trials_per_hour: float | None
    seconds_left: float | None
    running: list[tuple[int, int, str, str]] = field(
        default_factory=list[tuple[int, int, str, str]]
    )
    """Number, epoch, latest metric and values of each."""
    num_epochs: int = 0

    @property
    def line(self) -> str:
        """All of it but the running trials, in one line."""
        counts = self.counts
        of = "" if self.num_planned is None else f" of {self.num_planned}"
        parts = [
            f"{counts['running']} running, {counts['completed']} done,"
            f" {counts['stopped']} stopped early, {counts['failed']} failed{of}"
        ]
        if counts["waiting"]:
            parts.append(f"{counts['waiting']} starting")
        if self.trials_per_hour is not None:
            parts.append(f"{self.trials_per_hour:,.0f} trials/h")
        if self.seconds_left is not None:
            parts.append(f"{duration(self.seconds_left)} left")
        return "  ".join(parts)


def standing(
    study: Study, num_waiting: int, trials_per_hour: float | None, seconds_left: float | None
) -> Standing:
    """How a study stands, when so many of its tasks wait for room."""
    running = [trial for trial in study.open_trials if trial.status == "running"]
    winner = study.winner
    return Standing(
        counts=study.counts + Counter(running=len(running) - num_waiting, waiting=num_waiting),
        num_planned=study.num_planned,
        metric=study.sweep.config.metric,
        best="" if winner is None else describe_trial(study, winner),
        trials_per_hour=trials_per_hour,
        seconds_left=seconds_left,
        running=[
            (trial.number, trial.epoch, _latest(study, trial), describe(trial.values))
            for trial in running
        ],
        num_epochs=study.sweep.base.training.epochs,
    )


def _latest(study: Study, trial: Trial) -> str:
    if not trial.reports:
        return ""
    report, metric = trial.reports[-1], study.sweep.config.metric
    return f"{report.val_accuracy if metric == 'val/accuracy' else report.val_loss:.4f}"


def describe_trial(study: Study, trial: Trial) -> str:
    """A trial with its best epoch: `trial 7: val/accuracy 0.9012 at epoch 3 (lr 0.012, ...)`."""
    values = describe(trial.values)
    config = study.sweep.config
    report, metric = trial.best_report(config), config.metric
    if report is None:
        return f"trial {trial.number} ({values})"
    value = report.val_accuracy if metric == "val/accuracy" else report.val_loss
    return f"trial {trial.number}: {metric} {value:.4f} at epoch {report.epoch} ({values})"


class SweepView(Protocol):
    """Whoever is told how a sweep goes."""

    def note(self, message: str) -> None:
        """Something the user should know."""

    def ended(self, line: str) -> None:
        """A trial is over."""

    def show(self, standing: Standing) -> None:
        """How things stand now; called often."""

    def end(self) -> None:
        """The sweep is over, in whatever way."""


def sweep_view() -> SweepView:
    """The one that fits this process's output."""
    if not sys.stderr.isatty():
        return PlainView()
    return TerminalView(Console(stderr=True, highlight=False))


class PlainView:
    """Whole lines, for logs and pipes."""

    def __init__(self) -> None:
        self._said_at = time.monotonic()

    def note(self, message: str) -> None:
        """The message as it is; a sweep goes on when nobody reads it any more."""
        with suppress(BrokenPipeError):
            print(message, file=sys.stderr, flush=True)

    def ended(self, line: str) -> None:
        """A line for each trial."""
        self.note(line)

    def show(self, standing: Standing) -> None:
        """A line every half a minute."""
        now = time.monotonic()
        if now - self._said_at >= _PLAIN_SECONDS:
            self._said_at = now
            self.note(f"{standing.line}  best: {standing.best or 'none yet'}")

    def end(self) -> None:
        """Nothing is left open."""


class TerminalView:
    """One live table; trials that fail, and what else there is to say, scroll up."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._standing: Standing | None = None
        self._live = Live(
            get_renderable=self._render, console=console, transient=True, refresh_per_second=4
        )

    def _render(self) -> Group:
        if self._standing is None:
            return Group()
        standing = self._standing
        table = Table(box=None, pad_edge=False)
        for heading in ("Trial", "Epoch", standing.metric):
            table.add_column(heading, justify="right")
        table.add_column("Values", no_wrap=True, overflow="ellipsis")
        for number, epoch, latest, values in standing.running[: max(3, self._console.height - 8)]:
            table.add_row(str(number), f"{epoch}/{standing.num_epochs}", latest, values)
        best = Text(f"best  {standing.best or 'none yet'}", overflow="ellipsis", no_wrap=True)
        line = Text(standing.line, overflow="ellipsis", no_wrap=True)
        return Group(line, best, table)

    def note(self, message: str) -> None:
        """The message, above the table."""
        self._console.print(message, markup=False, soft_wrap=True)

    def ended(self, line: str) -> None:
        """Leave a line behind."""
        self.note(line)

    def show(self, standing: Standing) -> None:
        """Draw the table anew."""
        self._standing = standing
        self._live.start()

    def end(self) -> None:
        """Take the table away."""
        self._live.stop()
