"""Counting steps, and telling of them: losses, rows of measures, reports, the clock of training."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from distcnn import config_file
from distcnn.config import RunConfig
from distcnn.progress import EpochReport, StepReport
from distcnn.run_directory.metrics_log import Row
from distcnn.training.books import Books
from distcnn.training.outcome import Outcome
from distcnn.training.place import Place
from distcnn.training.snapshot import Counters

# Steps between two reports: the losses stay on their device until then, so that a GPU need not be
# waited for at each step. A loss that is not finite is noticed then, or at a save.
REPORT_EVERY_STEPS = 50


class TrainingEndedError(Exception):
    """Leaves Lightning's loops in the middle of an epoch."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.reason)
        self.outcome = outcome


@dataclass(frozen=True)
class Measured:
    """An epoch's evaluation on the validation split."""

    loss: float
    accuracy: float


class Meter:
    """One worker's counters, and what is told of them to the books and to the watcher."""

    def __init__(
        self,
        config: RunConfig,
        place: Place,
        books: Books,
        counters: Counters,
        learning_rate: Callable[[int], float],
    ) -> None:
        """Go on counting.

        Args:
            config: the run's.
            place: where it is trained.
            books: told of every row.
            counters: how far it has come; they are counted on.
            learning_rate: of a step, counted from the start of the run.
        """
        self.counters = counters
        self.steps_per_epoch = 0
        self._config, self._place, self._books = config, place, books
        self._learning_rate = learning_rate
        self._unread_losses: list[torch.Tensor] = []
        self._clock_started = 0.0
        self._is_first_step = True
        self._row_written_at = counters.train_seconds, counters.num_images

    @property
    def is_finished(self) -> bool:
        """Whether there is nothing left to train."""
        counters, training = self.counters, self._config.training
        patience = training.early_stopping
        waited = counters.epoch - counters.best_epoch
        return counters.epoch >= training.epochs or (patience is not None and waited >= patience)

    @property
    def global_step(self) -> int:
        """Steps done since the start of the run."""
        return self.counters.epoch * self.steps_per_epoch + self.counters.step

    @property
    def num_steps(self) -> int:
        """Of the whole run."""
        return self._config.training.epochs * self.steps_per_epoch

    def start_clock(self) -> None:
        """Training goes on."""
        self._clock_started = time.perf_counter()

    def count_step(self, loss: torch.Tensor, num_images: int) -> None:
        """A step has been done, over so many images of all workers."""
        self._unread_losses.append(loss)
        if self._is_first_step:
            self._record_first_step()
        self.counters.step += 1
        self.counters.num_images += num_images

    def _record_first_step(self) -> None:
        """Note how long the user waited for this attempt to get going."""
        self._is_first_step = False
        self._unread_losses[0].item()  # Waits for the device.
        # The wait may have begun on another host, by another clock.
        seconds = max(0.0, time.time() - self._place.waiting_since)
        self._books.event("first_step", seconds_waited=round(seconds, 2))

    def read_losses(self) -> None:
        """Fetch the losses from their device and stop the clock: this waits for the device.

        Raises:
            TrainingEndedError: one of them is not finite.
        """
        losses = torch.stack(self._unread_losses).tolist() if self._unread_losses else []
        first_step = self.global_step - len(losses) + 1
        self._unread_losses.clear()
        self.counters.train_seconds += time.perf_counter() - self._clock_started
        for step, loss in enumerate(losses, start=first_step):
            if not math.isfinite(loss):
                raise self.diverged(f"train/loss became {loss} at step {step}")
            self.counters.interval_losses.append(loss)
            self.counters.epoch_loss_sum += loss

    def report_steps(self) -> None:
        """Tell of the steps since the last report."""
        self.read_losses()
        losses = self.counters.interval_losses
        mean_loss = sum(losses) / len(losses)
        images_per_second = self._write_row(mean_loss, None)
        images_per_step = self.counters.num_images / self.global_step
        num_images_left = images_per_step * (self.num_steps - self.global_step)
        self._place.watcher.step(
            StepReport(
                epoch=self.counters.epoch + 1,
                step=self.counters.step,
                train_loss=mean_loss,
                images_per_second=images_per_second,
                seconds_left=num_images_left / images_per_second,
                train_seconds=self.counters.train_seconds,
                num_workers=self._place.workers.count,
            )
        )
        self.start_clock()

    def end_epoch(self, measured: Measured) -> EpochReport:
        """The epoch is validated: write its row, and begin to count the next one."""
        counters = self.counters
        is_best = measured.accuracy > counters.best_accuracy
        mean_loss = counters.epoch_loss_sum / counters.step
        self._write_row(mean_loss, measured)
        report = EpochReport(
            epoch=counters.epoch + 1,
            train_loss=mean_loss,
            val_loss=measured.loss,
            val_accuracy=measured.accuracy,
            is_best=is_best,
            train_seconds=counters.train_seconds,
        )
        counters.epoch, counters.step, counters.epoch_loss_sum = counters.epoch + 1, 0, 0.0
        if is_best:
            counters.best_epoch, counters.best_accuracy = counters.epoch, measured.accuracy
        return report

    def _write_row(self, train_loss: float, measured: Measured | None) -> float:
        """Add a row on the steps since the last one; their images per second."""
        counters = self.counters
        seconds_before, images_before = self._row_written_at
        images_per_second = (counters.num_images - images_before) / max(
            counters.train_seconds - seconds_before, 1e-9
        )
        row: Row = {
            "step": self.global_step,
            "epoch": counters.epoch + 1,
            "train/loss": train_loss,
            "val/loss": measured.loss if measured else None,
            "val/accuracy": measured.accuracy if measured else None,
            "lr": self._learning_rate(self.global_step - 1),
            "images_per_second": round(images_per_second, 1),
            "train_seconds": round(counters.train_seconds, 3),
        }
        self._books.row(row)
        counters.interval_losses.clear()
        self._row_written_at = counters.train_seconds, counters.num_images
        return images_per_second

    def diverged(self, what: str) -> TrainingEndedError:
        """The end of a training that has lost its numbers, with what to do about it."""
        lower = self._config.optimizer.lr / 2
        again = config_file.command(self._config, self._place.run.config_path)
        reason = (
            f"{what} of {self.num_steps}; the last good checkpoint: {self._books.kept()}."
            f" It would happen again: start a new run with a lower learning rate, say"
            f" {again} optimizer.lr={lower:g}"
        )
        return TrainingEndedError(Outcome("failed", self.counters, reason))

    def stopped(self, reason: str, signal_number: int | None) -> TrainingEndedError:
        """The end of a training that was asked to stop."""
        return TrainingEndedError(Outcome("stopped", self.counters, reason, signal_number))
