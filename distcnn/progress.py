"""What a person sees while a run trains: a live view on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from distcnn.wording import duration

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
    """Of all workers."""
    seconds_left: float
    """Of training, in the whole run."""
    train_seconds: float
    num_workers: int = 1


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


@dataclass(frozen=True)
class WorkersReport:
    """How the workers of a launched run are."""

    alive: int
    count: int
    restarts: int


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


class LaunchWatcher(Watcher, Protocol):
    """Whoever is told how a launched run goes, which has workers."""

    def workers(self, report: WorkersReport) -> None:
        """Workers came up, or went."""


def watcher() -> LaunchWatcher:
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
        self._workers_line = ""

    def begin(self, num_epochs: int, steps_per_epoch: int) -> None:
        """Remember the plan."""
        # After a restart, the clock of training stands again where the checkpoint was made.
        self._last_line_at = 0.0
        self._num_epochs, self._steps_per_epoch = num_epochs, steps_per_epoch

    def step(self, report: StepReport) -> None:
        """A line every few seconds."""
        if report.train_seconds - self._last_line_at < _PLAIN_SECONDS:
            return
        self._last_line_at = report.train_seconds
        self.note(
            f"epoch {report.epoch}/{self._num_epochs}"
            f"  step {report.step}/{self._steps_per_epoch}  train/loss {report.train_loss:.4f}"
            f"  {_speed_text(report)}  {duration(report.seconds_left)} left"
        )

    def epoch(self, report: EpochReport) -> None:
        """A line for each epoch."""
        self._last_line_at = report.train_seconds
        self.note(_epoch_text(report, self._num_epochs))

    def note(self, message: str) -> None:
        """The message as it is; a run goes on when nobody reads it any more."""
        with suppress(BrokenPipeError):
            print(message, file=sys.stderr, flush=True)

    def workers(self, report: WorkersReport) -> None:
        """A line when they have all come up, and when one has gone."""
        line = _workers_text(report)
        if line != self._workers_line and report.alive > 0:
            self._workers_line = line
            self.note(line)

    def end(self) -> None:
        """Nothing is left open."""


class TerminalWatcher:
    """Two live lines, a bar for the current epoch and how it goes; finished epochs scroll up."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}/{task.fields[num_epochs]}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
        )
        self._task = self._bar.add_task("", total=None, epoch=1, num_epochs="?", left="starting")
        # In the order in which they are shown.
        self._texts = {"step": "", "epoch": "", "workers": ""}
        # Drawing takes time from training: no more often than an eye needs.
        self._live = Live(
            get_renderable=self._render, console=console, transient=True, refresh_per_second=4
        )

    def _render(self) -> Group:
        status = "  ".join(text for text in self._texts.values() if text)
        return Group(self._bar, Text(status, overflow="ellipsis", no_wrap=True))

    def begin(self, num_epochs: int, steps_per_epoch: int) -> None:
        """Show the bar."""
        self._bar.update(self._task, total=steps_per_epoch, num_epochs=num_epochs, left="")
        self._live.start()

    def step(self, report: StepReport) -> None:
        """Move the bar."""
        left = f"{duration(report.seconds_left)} left"
        self._bar.update(self._task, completed=report.step, epoch=report.epoch, left=left)
        self._texts["step"] = f"train/loss {report.train_loss:.4f}  {_speed_text(report)}"

    def epoch(self, report: EpochReport) -> None:
        """Leave a line behind."""
        num_epochs = self._bar.tasks[0].fields["num_epochs"]
        self._texts["epoch"] = f"val/accuracy {report.val_accuracy:.4f}"
        self._console.print(_epoch_text(report, num_epochs), markup=False)

    def note(self, message: str) -> None:
        """The message, above the live lines."""
        self._console.print(message, markup=False, soft_wrap=True)

    def workers(self, report: WorkersReport) -> None:
        """Show them, from before the first step."""
        self._texts["workers"] = _workers_text(report)
        self._live.start()

    def end(self) -> None:
        """Take the live lines away."""
        self._live.stop()


def _speed_text(report: StepReport) -> str:
    speed, count = report.images_per_second, report.num_workers
    each = f" ({count} x {speed / count:,.0f})" if count > 1 else ""
    return f"{speed:,.0f} images/s{each}"


def _workers_text(report: WorkersReport) -> str:
    return f"workers {report.alive}/{report.count}  restarts {report.restarts}"


def _epoch_text(report: EpochReport, num_epochs: int) -> str:
    best = "  (best)" if report.is_best else ""
    return (
        f"epoch {report.epoch}/{num_epochs}  train/loss {report.train_loss:.4f}"
        f"  val/loss {report.val_loss:.4f}  val/accuracy {report.val_accuracy:.4f}"
        f"  {duration(report.train_seconds)}{best}"
    )
