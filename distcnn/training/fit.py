"""`fit`: the one training path, for a local run, a worker and a trial alike."""

from __future__ import annotations

import errno
from collections.abc import Generator
from contextlib import closing, contextmanager

from distcnn.config import RunConfig
from distcnn.data.module import ImageDataModule
from distcnn.errors import UserError
from distcnn.module import ImageClassifier
from distcnn.training.keeper import Outcome, RunKeeper, TrainingEndedError
from distcnn.training.place import Place
from distcnn.training.process import build_trainer, prepare_process

_STORAGE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO}


def fit(config: RunConfig, place: Place) -> Outcome:
    """Train from the newest committed checkpoint, or from the start, to the end.

    Args:
        config: resolved: nothing in it is left to be decided.
        place: where, and with which data.

    Returns:
        How it ended. A stop on request and a loss that is not finite are outcomes, not errors.

    Raises:
        UserError: the run directory cannot be written (any more), or the lease was lost.
    """
    device = prepare_process(config)
    data = ImageDataModule(place.dataset, config, device)
    module = ImageClassifier(config, config.training.epochs * data.order.steps_per_epoch)
    with _storage_errors_explained(place), closing(RunKeeper(place, module, data)) as keeper:
        if keeper.is_finished:
            return Outcome("completed", keeper.counters)
        epochs_left = config.training.epochs - keeper.counters.epoch
        trainer = build_trainer(config, keeper, epochs_left)
        try:
            with place.control.listening():
                trainer.fit(module, datamodule=data)
        except TrainingEndedError as ended:
            return ended.outcome
        finally:
            place.watcher.end()
        return Outcome("completed", keeper.counters)


@contextmanager
def _storage_errors_explained(place: Place) -> Generator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _STORAGE_ERRORS:
            raise
        raise UserError(
            f"cannot write to the run directory {place.run.path}: {error.strerror};"
            " what was committed is safe. Mend that (free some space, say), then:"
            f" distcnn resume {place.run.path}"
        ) from error
