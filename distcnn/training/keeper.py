"""The callback that owns all of a run but its arithmetic: state, reports, control."""

from __future__ import annotations

import pytorch_lightning as pl
import torch

from distcnn.data.module import Batch, ImageDataModule, Position
from distcnn.module import ImageClassifier
from distcnn.training.books import open_books
from distcnn.training.control import Decision
from distcnn.training.meter import REPORT_EVERY_STEPS, Measured, Meter
from distcnn.training.place import Place
from distcnn.training.snapshot import (
    Counters,
    Snapshot,
    optimizer_tensors,
    restore_optimizer,
    weights_sha256,
)


class RunKeeper(pl.Callback):
    """Keeps one worker's state at step boundaries, and has the books written.

    The order at a boundary is always the same: count the step, look at the losses, tell the
    metrics, then decide. All workers decide alike: what they decide by is the same on each.
    """

    def __init__(self, place: Place, module: ImageClassifier, data: ImageDataModule) -> None:
        """Begin where the newest committed checkpoint stands, as the worker that reads it tells."""
        self._config = module.config
        self._place = place
        self._module = module
        self._data = data
        self._books = open_books(place, self._config)
        content = place.workers.broadcast(self._books.newest_checkpoint())
        self._restored = None if content is None else Snapshot.decode(content)
        self.counters = self._restored.counters if self._restored else Counters()
        self.meter = Meter(self._config, place, self._books, self.counters, module.learning_rate)
        self.meter.steps_per_epoch = data.order.steps_per_epoch
        data.position = Position(self.counters.epoch, self.counters.step)
        module.on_step_end = self._on_step_end

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
        self.meter.start_clock()

    def _on_step_end(self, batch: Batch, loss: torch.Tensor) -> None:
        """A step boundary."""
        self.meter.count_step(loss, batch.global_size)
        if self.counters.step == self._data.order.steps_per_epoch:
            return  # The end of the epoch is a boundary of its own, once it is validated.
        if self.counters.step % REPORT_EVERY_STEPS == 0:
            self.meter.report_steps()
        decision = self._place.control.decide(self.meter.global_step)
        if decision.action != "continue":
            self.meter.read_losses()
            self._check_weights()
            self._save(val_accuracy=None)
            self._leave_if_asked(decision)
            self.meter.start_clock()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock of training."""
        self.meter.read_losses()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The boundary at the end of an epoch."""
        self._check_weights()
        measured = Measured(self._module.measured["loss"], self._module.measured["accuracy"])
        report = self.meter.end_epoch(measured)
        self._data.position = Position(self.counters.epoch)
        self._save(measured.accuracy)
        # Once it is saved: what a sweep has been told is never lost, nor trained again.
        self._place.watcher.epoch(report)
        if self.meter.is_finished:
            trainer.should_stop = True
        else:
            self._leave_if_asked(self._place.control.decide_after_epoch(pl_module.device))

    # What the hooks are made of.

    def _save(self, val_accuracy: float | None) -> None:
        if not self._place.workers.is_first:
            return
        module, average = self._module, self._module.average
        snapshot = Snapshot(
            counters=self.counters,
            network=module.network.state_dict(),
            optimizer=optimizer_tensors(self._optimizer),
            average={} if average is None else average.state_dict(),
        )
        digests = {"weights_sha256": weights_sha256(module.kept_network.state_dict())}
        if average is not None:
            # In which a difference may be lost in rounding for a while.
            digests["trained_sha256"] = weights_sha256(module.network.state_dict())
        self._books.commit(
            snapshot.encode, digests, self.counters.epoch, self.meter.global_step, val_accuracy
        )

    def _check_weights(self) -> None:
        """Make sure that no checkpoint is committed that could not be trained on.

        Raises:
            TrainingEndedError: a weight is not finite.
        """
        weights = self._module.network.state_dict().values()
        if not all(bool(tensor.isfinite().all()) for tensor in weights):
            what = f"the weights became infinite or NaN by step {self.meter.global_step}"
            raise self.meter.diverged(what)

    def _leave_if_asked(self, decision: Decision) -> None:
        if decision.action == "stop":
            raise self.meter.stopped(decision.reason, decision.signal_number)

    def _restore(self, snapshot: Snapshot) -> None:
        self._module.network.load_state_dict(snapshot.network)
        if self._module.average is not None:
            self._module.average.load_state_dict(snapshot.average)
        restore_optimizer(self._optimizer, snapshot.optimizer)
