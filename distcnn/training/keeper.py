"""The callback that owns all of a run but its arithmetic: state, saving, reports, control."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any, Literal

import psutil
import pytorch_lightning as pl
import torch

from distcnn.data.module import Batch, ImageDataModule, Position
from distcnn.module import ImageClassifier
from distcnn.progress import EpochReport, StepReport
from distcnn.run_directory.checkpoints import CheckpointWriter, read_checkpoint
from distcnn.run_directory.metrics_log import MetricsLog, Row
from distcnn.training.control import Decision
from distcnn.training.place import Place
from distcnn.training.snapshot import (
    Counters,
    Snapshot,
    optimizer_tensors,
    restore_optimizer,
    weights_sha256,
)
from distcnn.training.tensorboard_log import TensorBoardLog

# Steps between two reports: the losses stay on their device until then, so that a GPU need not be
# waited for at each step. A loss that is not finite is noticed then, or at a save.
REPORT_EVERY_STEPS = 50


@dataclass(frozen=True)
class Outcome:
    """How training ended: a final, typed answer, for a machine to act on."""

    status: Literal["completed", "stopped", "failed"]
    counters: Counters
    reason: str = ""
    signal_number: int | None = None


class TrainingEndedError(Exception):
    """Leaves Lightning's loops in the middle of an epoch."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.reason)
        self.outcome = outcome


class RunKeeper(pl.Callback):
    """Keeps one attempt's books at step boundaries.

    The order at a boundary is always the same: count the step, look at the losses, tell the
    metrics, then decide. A checkpoint is committed only once the rows it stands on are durable.
    """

    def __init__(self, place: Place, module: ImageClassifier, data: ImageDataModule) -> None:
        """Read the newest committed checkpoint, if there is one, and clear what is past it."""
        self._config = module.config
        self._place = place
        self._module = module
        self._data = data
        self._checkpoints = CheckpointWriter(
            place.run.checkpoints, place.lease, self._config.training.keep_checkpoints
        )
        self._restored = self._newest_snapshot()
        self.counters = self._restored.counters if self._restored else Counters()
        data.position = Position(self.counters.epoch, self.counters.step)
        module.on_step_end = self._on_step_end
        self._log = MetricsLog(place.run.metrics_path, last_step=self._global_step)
        self._tensorboard = TensorBoardLog(place.run.tensorboard, self._log.rows)
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

    def close(self) -> None:
        """End the attempt's writing."""
        self._log.close()
        self._tensorboard.close()

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
        self.counters.num_images += len(batch)
        if self.counters.step == self._data.order.steps_per_epoch:
            return  # The end of the epoch is a boundary of its own, once it is validated.
        if self.counters.step % REPORT_EVERY_STEPS == 0:
            self._report_steps()
        decision = self._place.control.decide(self._global_step)
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
        self._report_epoch(measured, is_best)
        counters.epoch, counters.step, counters.epoch_loss_sum = counters.epoch + 1, 0, 0.0
        if is_best:
            counters.best_epoch, counters.best_accuracy = counters.epoch, accuracy
        self._data.position = Position(counters.epoch)
        self._save(val_accuracy=accuracy)
        if self.is_finished:
            trainer.should_stop = True
        else:
            self._leave_if_asked(self._place.control.decide(self._global_step))

    # What the hooks are made of.

    @property
    def _global_step(self) -> int:
        return self.counters.epoch * self._data.order.steps_per_epoch + self.counters.step

    def _record_first_step(self) -> None:
        """Note how long the user waited for this attempt to get going."""
        self._is_first_step = False
        self._unread_losses[0].item()  # Waits for the device.
        seconds = time.time() - psutil.Process().create_time()
        self._place.run.append_event(
            "first_step",
            attempt=self._place.lease.attempt,
            seconds_since_process_start=round(seconds, 2),
        )

    def _read_losses(self) -> None:
        """Fetch the losses from their device and stop the clock: this waits for the device.

        Raises:
            TrainingEndedError: one of them is not finite.
        """
        losses = torch.stack(self._unread_losses).tolist() if self._unread_losses else []
        first_step = self._global_step - len(losses) + 1
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
        num_images_left = order.global_batch_size * (self._module.num_steps - self._global_step)
        self._place.watcher.step(
            StepReport(
                epoch=self.counters.epoch + 1,
                step=self.counters.step,
                train_loss=mean_loss,
                images_per_second=images_per_second,
                seconds_left=num_images_left / images_per_second,
                train_seconds=self.counters.train_seconds,
            )
        )
        self._start_clock()

    def _report_epoch(self, measured: dict[str, Any], is_best: bool) -> None:
        mean_loss = self.counters.epoch_loss_sum / self.counters.step
        self._write_row(mean_loss, measured)
        self._place.watcher.epoch(
            EpochReport(
                epoch=self.counters.epoch + 1,
                train_loss=mean_loss,
                val_loss=measured["loss"],
                val_accuracy=measured["accuracy"],
                is_best=is_best,
                train_seconds=self.counters.train_seconds,
            )
        )

    def _write_row(self, train_loss: float, measured: dict[str, Any] | None) -> float:
        """Add a row on the steps since the last one; their images per second."""
        counters = self.counters
        seconds_before, images_before = self._row_written_at
        images_per_second = (counters.num_images - images_before) / max(
            counters.train_seconds - seconds_before, 1e-9
        )
        row: Row = {
            "step": self._global_step,
            "epoch": counters.epoch + 1,
            "train/loss": train_loss,
            "val/loss": measured["loss"] if measured else None,
            "val/accuracy": measured["accuracy"] if measured else None,
            "lr": self._module.learning_rate(self._global_step - 1),
            "images_per_second": round(images_per_second, 1),
            "train_seconds": round(counters.train_seconds, 3),
        }
        self._log.append(row)
        self._tensorboard.append(row)
        counters.interval_losses.clear()
        self._row_written_at = counters.train_seconds, counters.num_images
        return images_per_second

    def _save(self, val_accuracy: float | None) -> None:
        average = self._module.average
        snapshot = Snapshot(
            counters=self.counters,
            network=self._module.network.state_dict(),
            optimizer=optimizer_tensors(self._optimizer),
            average={} if average is None else average.state_dict(),
        )
        # What stands in an object store is put anew at each sync: over ours alone.
        self._place.lease.check()
        self._log.sync()
        self._tensorboard.sync()
        record = self._checkpoints.commit(
            snapshot.encode(),
            epoch=self.counters.epoch,
            step=self._global_step,
            weights_sha256=weights_sha256(self._module.kept_network.state_dict()),
            val_accuracy=val_accuracy,
        )
        self._place.run.append_event("checkpoint", step=record.step, attempt=record.attempt)

    def _check_weights(self) -> None:
        """Make sure that no checkpoint is committed that could not be trained on.

        Raises:
            TrainingEndedError: a weight is not finite.
        """
        weights = self._module.network.state_dict().values()
        if not all(bool(tensor.isfinite().all()) for tensor in weights):
            raise self._diverged(f"the weights became infinite or NaN by step {self._global_step}")

    def _leave_if_asked(self, decision: Decision) -> None:
        if decision.action == "stop":
            raise TrainingEndedError(
                Outcome("stopped", self.counters, decision.reason, decision.signal_number)
            )

    def _diverged(self, what: str) -> TrainingEndedError:
        records = self._checkpoints.records
        kept = f"step {records[-1].step} is kept" if records else "none was saved before"
        lower = self._config.optimizer.lr / 2
        reason = (
            f"{what} of {self._module.num_steps}; the last good checkpoint: {kept}."
            f" It would happen again: start a new run with a lower learning rate, say distcnn train"
            f" {self._place.run.config_path} optimizer.lr={lower:g}"
        )
        return TrainingEndedError(Outcome("failed", self.counters, reason))

    def _newest_snapshot(self) -> Snapshot | None:
        for damage in self._checkpoints.damages:
            self._place.watcher.note(f"{damage}; going on without it")
            self._place.run.append_event("checkpoint_damaged", what=str(damage))
        if not self._checkpoints.records:
            return None
        newest = self._checkpoints.records[-1]
        return Snapshot.decode(read_checkpoint(self._place.run.checkpoints, newest))

    def _restore(self, snapshot: Snapshot) -> None:
        self._module.network.load_state_dict(snapshot.network)
        if self._module.average is not None:
            self._module.average.load_state_dict(snapshot.average)
        restore_optimizer(self._optimizer, snapshot.optimizer)
