"""Training somebody's own LightningModule on their data, by Lightning's own loop.

What makes it go on exactly: every epoch begins with a seed of its own, and a checkpoint is written
at the end of each epoch. One that was begun when a run was stopped is trained again. What Lightning
does of an epoch once its checkpoint is written, it would not do on going on: `Afterwards`.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Mapping
from contextlib import closing
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint

from distcnn import workload
from distcnn.collector import long_lived_objects_spared
from distcnn.config import RunConfig
from distcnn.training.afterwards import Afterwards
from distcnn.training.books import open_books
from distcnn.training.control import Decision
from distcnn.training.meter import REPORT_EVERY_STEPS, Measured, Meter, TrainingEndedError
from distcnn.training.outcome import Outcome
from distcnn.training.place import Place
from distcnn.training.process import prepare_process
from distcnn.training.snapshot import Counters, weights_sha256
from distcnn.training.tree import TreeSnapshot
from distcnn.training.workload_trainer import State, build_workload_trainer
from distcnn.user_code import UserCodeError, shown_as_theirs


def fit_workload(config: RunConfig, place: Place) -> Outcome:
    """Train from the newest committed checkpoint, or from the start, to the end.

    Args:
        config: resolved, with a workload.
        place: where.

    Raises:
        UserCodeError: their code raised, told with their lines; or does not log what
            checkpoints are chosen by, ...
    """
    assert config.workload is not None
    prepare_process(config)
    with shown_as_theirs(config.workload):
        pl.seed_everything(config.seed, verbose=False)
        work = workload.make(config)
        with closing(_Keeper(config, place)) as keeper:
            if keeper.is_finished:
                return Outcome("completed", keeper.counters)
            trainer = build_workload_trainer(config, place.workers, keeper.state, keeper)
            try:
                with long_lived_objects_spared():
                    trainer.fit(
                        work.module,
                        datamodule=_seeded(work.data, keeper),
                        ckpt_path="newest" if keeper.state.newest else None,
                        weights_only=False,  # Of a file; ours are never one, and hold no pickle.
                    )
            except TrainingEndedError as ended:
                return ended.outcome
            finally:
                place.watcher.end()
            return Outcome("completed", keeper.counters)


def _seeded(data: pl.LightningDataModule, keeper: _Keeper) -> pl.LightningDataModule:
    """The same data, whose training loader is made with the epoch's seed."""

    class Seeded(type(data)):
        def train_dataloader(self) -> Any:
            keeper.seed_epoch()
            return super().train_dataloader()

    Seeded.__qualname__ = type(data).__qualname__  # By which Lightning keeps its state.
    data.__class__ = Seeded
    return data


class _Keeper(Checkpoint):
    """Keeps a workload's counters and state, and has the books written."""

    def __init__(self, config: RunConfig, place: Place) -> None:
        """Begin where the newest committed checkpoint stands, as the worker that reads it tells."""
        self._config, self._place = config, place
        self._books = open_books(place, config)
        content = place.workers.broadcast(self._books.newest_checkpoint())
        restored = TreeSnapshot.decode(content) if content else None
        self.state = State(restored.state if restored else None)
        self.counters = restored.counters if restored else Counters()
        self.meter = Meter(config, place, self._books, self.counters, lambda step: self._lr)
        self._lr = 0.0
        self._afterwards = Afterwards(self.state.newest)
        self._has_begun = False

    @property
    def is_finished(self) -> bool:
        """Whether there is nothing left to train."""
        return self.meter.is_finished or self._afterwards.is_end

    def seed_epoch(self) -> None:
        """Have what is random in an epoch depend on the run's seed, the epoch and the worker."""
        text = f"{self._config.seed} {self.counters.epoch} {self._place.workers.rank}"
        digest = hashlib.sha256(text.encode()).digest()
        pl.seed_everything(int.from_bytes(digest[:4], "little"), verbose=False)
        # By which Lightning has each worker draw the order that they share out: one for all.
        os.environ["PL_GLOBAL_SEED"] = str(self._config.seed)

    def close(self) -> None:
        """End the attempt's writing."""
        self._books.close()

    # Lightning's hooks, in the order in which they are called.

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say what lies ahead.

        Raises:
            UserError: nobody knows how long an epoch is, nothing would be trained, or the state
                cannot be saved.
        """
        if not math.isfinite(trainer.num_training_batches):
            raise UserCodeError(
                f"the training loader of {self._config.workload} has no length; give its dataset"
                " one, so that an epoch has an end"
            )
        if not trainer.optimizers:
            raise UserCodeError(
                f"configure_optimizers of {self._config.workload} returns no optimizer: nothing"
                " would be trained"
            )
        self.meter.steps_per_epoch = int(trainer.num_training_batches)
        self._check_state(trainer)
        self._afterwards.catch_up(trainer, self.counters.epoch)
        self._place.watcher.begin(self._config.training.epochs, self.meter.steps_per_epoch)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock of training."""
        self.seed_epoch()
        if not self._has_begun:
            # Lightning makes an epoch's iterator now, which draws random numbers; but that of an
            # attempt's first epoch it has made before. An epoch has to begin alike in both.
            iter(cast(Iterable[Any], trainer.fit_loop._data_fetcher))  # pyright: ignore[reportPrivateUsage]
            self._has_begun = True
        self.meter.start_clock()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note what the step is made with: schedulers are asked before it is counted."""
        self._lr = float(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """A step boundary."""
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if not isinstance(loss, torch.Tensor):
            raise UserCodeError(f"training_step of {self._config.workload} has to return its loss")
        num_samples = _num_samples(batch) or 1
        self.meter.count_step(loss.detach(), num_samples * self._place.workers.count)
        if self.counters.step == self.meter.steps_per_epoch:
            return  # The end of the epoch is a boundary of its own, once it is validated.
        if self.counters.step % REPORT_EVERY_STEPS == 0:
            self.meter.report_steps()
        # Nothing is saved here, so nothing but the wish to stop is of interest.
        self._leave_if_asked(self._place.control.decide_after_epoch(pl_module.device))

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock of training."""
        self.meter.read_losses()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The boundary at the end of an epoch, after all other callbacks."""
        measured = self._measured(trainer, pl_module.device)
        report = self.meter.end_epoch(measured)
        trainer.save_checkpoint("newest")
        self._save(pl_module, measured.accuracy)
        self._place.watcher.epoch(report)
        if self.meter.is_finished:
            trainer.should_stop = True
        else:
            self._leave_if_asked(self._place.control.decide_after_epoch(pl_module.device))

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Beside Lightning's state, what has to follow once it is gone on from."""
        Afterwards.keep(trainer, checkpoint)

    # What the hooks are made of.

    def _check_state(self, trainer: pl.Trainer) -> None:
        """Make sure now, not when an epoch is trained, that all there is can be saved."""
        newest = self.state.newest
        trainer.save_checkpoint("newest")
        if self._place.workers.is_first:
            assert self.state.newest is not None, "Lightning has just kept it"
            TreeSnapshot(self.counters, self.state.newest).encode({})
        self.state.newest = newest

    def _measured(self, trainer: pl.Trainer, device: torch.device) -> Measured:
        """What the module has logged, averaged over the workers: all decide by the same."""
        logged = trainer.callback_metrics
        missing = [name for name in ("val/loss", "val/accuracy") if name not in logged]
        if missing:
            there = ", ".join(sorted(logged)) or "nothing"
            raise UserCodeError(
                f"{self._config.workload} does not log {' and '.join(missing)} in its validation,"
                f" by which checkpoints are chosen (it logs {there}). Log them there:"
                ' self.log("val/accuracy", ...), whatever more of is better'
            )
        own = torch.stack([logged["val/loss"], logged["val/accuracy"]]).float().to(device)
        loss, accuracy = self._place.workers.gather(own[None]).mean(dim=0).tolist()
        for name, value in (("val/loss", loss), ("val/accuracy", accuracy)):
            if not math.isfinite(value):
                raise self.meter.diverged(f"{name} became {value} at step {self.meter.global_step}")
        return Measured(loss, accuracy)

    def _save(self, module: pl.LightningModule, val_accuracy: float) -> None:
        if self._place.workers.is_first:
            assert self.state.newest is not None, "Lightning has just kept it"
            snapshot = TreeSnapshot(self.counters, self.state.newest)
            digests = {"weights_sha256": weights_sha256(tensors_of(module))}
            self._books.commit(
                snapshot.encode, digests, self.counters.epoch, self.meter.global_step, val_accuracy
            )

    def _leave_if_asked(self, decision: Decision) -> None:
        if decision.action == "stop":
            raise self.meter.stopped(decision.reason, decision.signal_number)


def tensors_of(module: pl.LightningModule) -> dict[str, torch.Tensor]:
    """Its state, without what is no tensor."""
    state = module.state_dict()
    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}


def _num_samples(batch: Any) -> int | None:
    """In a batch of any shape: the length of the first tensor in it; None where there is none."""
    if isinstance(batch, torch.Tensor):
        return len(batch) if batch.ndim else 1
    if isinstance(batch, Mapping):
        members: Iterable[Any] = batch.values()
    elif isinstance(batch, (list, tuple)):
        members = batch
    else:
        return None
    counts = map(_num_samples, members)
    return next((count for count in counts if count is not None), None)
