"""What a person sees while a run trains: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

# Without a terminal, a line at least this often; with one, the bar moves by itself.
_PLAIN_SECONDS = 10.0


@dataclass(frozen=True)
class StepReport:
    """How training goes, every so many steps."""

    epoch: int
    """The current one, from 1."""
    step: int
    """Steps done in it."""
    train_loss: float
    """Mean since the last report."""
    images_per_second: float
    seconds_left: float
    """Of training, in the whole run."""
    train_seconds: float


@dataclass(frozen=True)
class EpochReport:
    """How an epoch ended."""

    epoch: int
    """From 1."""
    train_loss: float
    val_loss: float
    val_accuracy: float
    is_best: bool
    train_seconds: float


class Watcher(Protocol):
    """Whoever is told how a run goes."""

    def begin(self, num_epochs: int, steps_per_epoch: int) -> None:
        """Training starts, or goes on."""

    def step(self, report: StepReport) -> None:
        """Some steps are done."""

    def epoch(self, report: EpochReport) -> None:
        """An epoch is done and validated."""

    def note(self, message: str) -> None:
        """Something the user should know."""

    def end(self) -> None:
        """Training is over, in whatever way."""


def watcher() -> Watcher:
    """The one that fits this process's output."""
    if not sys.stderr.isatty():
        return PlainWatcher()
    return TerminalWatcher(Console(stderr=True, highlight=False))


class PlainWatcher:
    """Whole lines, for logs and pipes."""

    def __init__(self) -> None:
        self._num_epochs = 0
        self._steps_per_epoch = 0
        self._last_line_at = 0.0

    def begin(self, num_epochs: int, steps_per_epoch: int) -> None:
        """Remember the plan."""
        self._num_epochs, self._steps_per_epoch = num_epochs, steps_per_epoch

    def step(self, report: StepReport) -> None:
        """A line every few seconds."""
        if report.train_seconds - self._last_line_at < _PLAIN_SECONDS:
            return
        self._last_line_at = report.train_seconds
        self.note(
            f"epoch {report.epoch}/{self._num_epochs}"
            f"  step {report.step}/{self._steps_per_epoch}  {_step_text(report)}"
        )

    def epoch(self, report: EpochReport) -> None:
        """A line for each epoch."""
        self._last_line_at = report.train_seconds
        self.note(_epoch_text(report, self._num_epochs))

    def note(self, message: str) -> None:
        """The message as it is."""
        print(message, file=sys.stderr, flush=True)

    def end(self) -> None:
        """Nothing is left open."""


class TerminalWatcher:
    """A bar for the current epoch; finished epochs scroll up above it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}/{task.fields[num_epochs]}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
            console=self._console,
            transient=True,
            # Drawing takes time from training: no more often than an eye needs.
            refresh_per_second=4,
        )
        self._task: TaskID | None = None

    def begin(self, num_epochs: int, steps_per_epoch: int) -> None:
        """Show the bar."""
        self._task = self._bar.add_task(
            "", total=steps_per_epoch, epoch=1, num_epochs=num_epochs, text="starting"
        )
        self._bar.start()

    def step(self, report: StepReport) -> None:
        """Move the bar."""
        if self._task is not None:
            self._bar.update(
                self._task, completed=report.step, epoch=report.epoch, text=_step_text(report)
            )

    def epoch(self, report: EpochReport) -> None:
        """Leave a line behind."""
        num_epochs = self._bar.tasks[0].fields["num_epochs"]
        self._console.print(_epoch_text(report, num_epochs), markup=False)

    def note(self, message: str) -> None:
        """The message, above the bar."""
        self._console.print(message, markup=False)

    def end(self) -> None:
        """Take the bar away."""
        self._bar.stop()


def _step_text(report: StepReport) -> str:
    return (
        f"train/loss {report.train_loss:.4f}  {report.images_per_second:,.0f} images/s"
        f"  {duration(report.seconds_left)} left"
    )


def _epoch_text(report: EpochReport, num_epochs: int) -> str:
    best = "  (best)" if report.is_best else ""
    return (
        f"epoch {report.epoch}/{num_epochs}  train/loss {report.train_loss:.4f}"
        f"  val/loss {report.val_loss:.4f}  val/accuracy {report.val_accuracy:.4f}"
        f"  {duration(report.train_seconds)}{best}"
    )


def duration(seconds: float) -> str:
    """Seconds as people say them: `42 s`, `3 min 07 s`, `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
