"""`fit`: the one training path, for a local run, a worker and a trial alike."""

from __future__ import annotations

from contextlib import closing

import torch

from distcnn.collector import long_lived_objects_spared
from distcnn.config import RunConfig
from distcnn.data.module import ImageDataModule
from distcnn.errors import UserError
from distcnn.module import ImageClassifier
from distcnn.training.keeper import RunKeeper
from distcnn.training.meter import TrainingEndedError
from distcnn.training.outcome import Outcome
from distcnn.training.place import Place
from distcnn.training.process import build_trainer, prepare_process
from distcnn.training.snapshot import Counters


class OutOfMemoryError(UserError):
    """A batch did not fit into memory.

    Attributes:
        counters: how far this worker had come.
        step: the same in steps since the start of the run.
    """

    def __init__(self, message: str, counters: Counters, step: int) -> None:
        super().__init__(message)
        self.counters = counters
        self.step = step


def fit(config: RunConfig, place: Place) -> Outcome:
    """Train from the newest committed checkpoint, or from the start, to the end.

    Args:
        config: resolved: nothing in it is left to be decided.
        place: where, and with which data.

    Returns:
        How it ended. A stop on request and a loss that is not finite are outcomes, not errors:
        all workers see them at the same step.

    Raises:
        OutOfMemoryError: a batch does not fit into the memory of this worker.
        LeaseLostError: a later attempt has taken the run over.
        OSError: the run directory cannot be written (any more).
    """
    if config.workload is not None:
        from distcnn.training.workload_fit import fit_workload

        return fit_workload(config, place)
    device = prepare_process(config)
    data = ImageDataModule(place.dataset, config, device, place.workers)
    num_steps = config.training.epochs * data.order.steps_per_epoch
    module = ImageClassifier(config, num_steps, place.workers)
    with closing(RunKeeper(place, module, data)) as keeper:
        if keeper.meter.is_finished:
            return Outcome("completed", keeper.counters)
        epochs_left = config.training.epochs - keeper.counters.epoch
        trainer = build_trainer(config, keeper, epochs_left)
        try:
            with long_lived_objects_spared():
                trainer.fit(module, datamodule=data)
        except TrainingEndedError as ended:
            return ended.outcome
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            remedy = _out_of_memory_remedy(config)
            raise OutOfMemoryError(remedy, keeper.counters, keeper.meter.global_step) from error
        finally:
            place.watcher.end()
        return Outcome("completed", keeper.counters)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch could not get memory; on a CPU only its words tell."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _out_of_memory_remedy(config: RunConfig) -> str:
    training = config.training
    return (
        f"out of memory for a batch of {training.global_batch_size} images in"
        f" {training.shards} shard(s). Start a new run with"
        f" training.num_shards={2 * training.shards} or more: a batch takes the memory of one"
        " of its shards; or lower training.global_batch_size"
    )
