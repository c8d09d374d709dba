"""The callback that owns all of a run but its arithmetic: state, reports, control."""

from __future__ import annotations

import math
import time
from typing import Any

import pytorch_lightning as pl
import torch

from distcnn.data.module import Batch, ImageDataModule, Position
from distcnn.module import ImageClassifier
from distcnn.progress import EpochReport, StepReport
from distcnn.run_directory.metrics_log import Row
from distcnn.training.books import open_books
from distcnn.training.control import Decision
from distcnn.training.outcome import Outcome
from distcnn.training.place import Place
from distcnn.training.snapshot import Counters, Snapshot, restore_optimizer

# Steps between two reports: the losses stay on their device until then, so that a GPU need not be
# waited for at each step. A loss that is not finite is noticed then, or at a save.
REPORT_EVERY_STEPS = 50


class TrainingEndedError(Exception):
    """Leaves Lightning's loops in the middle of an epoch."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.reason)
        self.outcome = outcome


class RunKeeper(pl.Callback):
    """Keeps one worker's counters at step boundaries, and has the books written.

    The order at a boundary is always the same: count the step, look at the losses, tell the
    metrics, then decide. All workers decide alike: what they decide by is the same on each.
    """

    def __init__(self, place: Place, module: ImageClassifier, data: ImageDataModule) -> None:
        """Begin where the newest committed checkpoint stands, as the worker that reads it tells."""
        self._config = module.config
        self._place = place
        self._module = module
        self._data = data
        self._books = open_books(place, self._config.training.keep_checkpoints)
        content = place.workers.broadcast(self._books.newest_checkpoint())
        self._restored = None if content is None else Snapshot.decode(content)
        self.counters = self._restored.counters if self._restored else Counters()
        data.position = Position(self.counters.epoch, self.counters.step)
        module.on_step_end = self._on_step_end
        self._unread_losses: list[torch.Tensor] = []
        self._clock_started = 0.0
        self._is_first_step = True
        self._row_written_at = self.counters.train_seconds, self.counters.num_images

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
        return self.counters.epoch * self._data.order.steps_per_epoch + self.counters.step

    def close(self) -> None:
        """End the attempt's writing."""
        self._books.close()

    # Lightning's hooks and the module's, in the order in which they are called.

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the checkpoint's tensors where they belong: the optimizer exists only now."""
        [self._optimizer] = trainer.optimizers
        if self._restored is not None:
            self._restore(self._restored)
            self._restored = None
        self._place.watcher.begin(self._config.training.epochs, self._data.order.steps_per_epoch)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock of training."""
        self._start_clock()

    def _on_step_end(self, batch: Batch, loss: torch.Tensor) -> None:
        """A step boundary."""
        self._unread_losses.append(loss)
        if self._is_first_step:
            self._record_first_step()
        self.counters.step += 1
        self.counters.num_images += batch.global_size
        if self.counters.step == self._data.order.steps_per_epoch:
            return  # The end of the epoch is a boundary of its own, once it is validated.
        if self.counters.step % REPORT_EVERY_STEPS == 0:
            self._report_steps()
        decision = self._place.control.decide(self.global_step)
        if decision.action != "continue":
            self._read_losses()
            self._check_weights()
            self._save(val_accuracy=None)
            self._leave_if_asked(decision)
            self._start_clock()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock of training."""
        self._read_losses()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The boundary at the end of an epoch."""
        self._check_weights()
        counters, measured = self.counters, self._module.measured
        accuracy: float = measured["accuracy"]
        is_best = accuracy > counters.best_accuracy
        report = self._write_epoch(measured, is_best)
        counters.epoch, counters.step, counters.epoch_loss_sum = counters.epoch + 1, 0, 0.0
        if is_best:
            counters.best_epoch, counters.best_accuracy = counters.epoch, accuracy
        self._data.position = Position(counters.epoch)
        self._save(val_accuracy=accuracy)
        # Once it is saved: what a sweep has been told is never lost, nor trained again.
        self._place.watcher.epoch(report)
        if self.is_finished:
            trainer.should_stop = True
        else:
            self._leave_if_asked(self._place.control.decide_after_epoch(pl_module.device))

    # What the hooks are made of.

    def _record_first_step(self) -> None:
        """Note how long the user waited for this attempt to get going."""
        self._is_first_step = False
        self._unread_losses[0].item()  # Waits for the device.
        # The wait may have begun on another host, by another clock.
        seconds = max(0.0, time.time() - self._place.waiting_since)
        self._books.event("first_step", seconds_waited=round(seconds, 2))

    def _read_losses(self) -> None:
        """Fetch the losses from their device and stop the clock: this waits for the device.

        Raises:
            TrainingEndedError: one of them is not finite.
        """
        losses = torch.stack(self._unread_losses).tolist() if self._unread_losses else []
        first_step = self.global_step - len(losses) + 1
        self._unread_losses.clear()
        self._stop_clock()
        for step, loss in enumerate(losses, start=first_step):
            if not math.isfinite(loss):
                raise self._diverged(f"train/loss became {loss} at step {step}")
            self.counters.interval_losses.append(loss)
            self.counters.epoch_loss_sum += loss

    def _start_clock(self) -> None:
        self._clock_started = time.perf_counter()

    def _stop_clock(self) -> None:
        self.counters.train_seconds += time.perf_counter() - self._clock_started

    def _report_steps(self) -> None:
        self._read_losses()
        losses = self.counters.interval_losses
        mean_loss = sum(losses) / len(losses)
        images_per_second = self._write_row(mean_loss, None)
        order = self._data.order
        num_images_left = order.global_batch_size * (self._module.num_steps - self.global_step)
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
        self._start_clock()

    def _write_epoch(self, measured: dict[str, Any], is_best: bool) -> EpochReport:
        mean_loss = self.counters.epoch_loss_sum / self.counters.step
        self._write_row(mean_loss, measured)
        return EpochReport(
            epoch=self.counters.epoch + 1,
            train_loss=mean_loss,
            val_loss=measured["loss"],
            val_accuracy=measured["accuracy"],
            is_best=is_best,
            train_seconds=self.counters.train_seconds,
        )

    def _write_row(self, train_loss: float, measured: dict[str, Any] | None) -> float:
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
            "val/loss": measured["loss"] if measured else None,
            "val/accuracy": measured["accuracy"] if measured else None,
            "lr": self._module.learning_rate(self.global_step - 1),
            "images_per_second": round(images_per_second, 1),
            "train_seconds": round(counters.train_seconds, 3),
        }
        self._books.row(row)
        counters.interval_losses.clear()
        self._row_written_at = counters.train_seconds, counters.num_images
        return images_per_second

    def _save(self, val_accuracy: float | None) -> None:
        self._books.save(
            self._module, self._optimizer, self.counters, self.global_step, val_accuracy
        )

    def _check_weights(self) -> None:
        """Make sure that no checkpoint is committed that could not be trained on.

        Raises:
            TrainingEndedError: a weight is not finite.
        """
        weights = self._module.network.state_dict().values()
        if not all(bool(tensor.isfinite().all()) for tensor in weights):
            raise self._diverged(f"the weights became infinite or NaN by step {self.global_step}")

    def _leave_if_asked(self, decision: Decision) -> None:
        if decision.action == "stop":
            raise TrainingEndedError(
                Outcome("stopped", self.counters, decision.reason, decision.signal_number)
            )

    def _diverged(self, what: str) -> TrainingEndedError:
        lower = self._config.optimizer.lr / 2
        reason = (
            f"{what} of {self._module.num_steps}; the last good checkpoint: {self._books.kept()}."
            f" It would happen again: start a new run with a lower learning rate, say distcnn train"
            f" {self._place.run.config_path} optimizer.lr={lower:g}"
        )
        return TrainingEndedError(Outcome("failed", self.counters, reason))

    def _restore(self, snapshot: Snapshot) -> None:
        self._module.network.load_state_dict(snapshot.network)
        if self._module.average is not None:
            self._module.average.load_state_dict(snapshot.average)
        restore_optimizer(self._optimizer, snapshot.optimizer)
