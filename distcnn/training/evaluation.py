"""Evaluating a committed checkpoint on the validation split, or the test split."""

from __future__ import annotations

import math
from typing import Any, Literal

import pytorch_lightning as pl

from distcnn.config import RunConfig
from distcnn.data.dataset import Dataset
from distcnn.data.module import ImageDataModule
from distcnn.module import ImageClassifier
from distcnn.run_directory.checkpoint_index import CheckpointRecord
from distcnn.run_directory.checkpoints import read_checkpoint
from distcnn.run_directory.run import RunDirectory
from distcnn.training.chosen import restored
from distcnn.training.process import build_trainer, prepare_process
from distcnn.workers import Workers

Split = Literal["val", "test"]

# Two-sided 95 % of the normal distribution.
_Z_95 = 1.959963984540054


def evaluate(
    config: RunConfig,
    run: RunDirectory,
    record: CheckpointRecord | None,
    dataset: Dataset,
    splits: list[Split],
    workers: Workers,
) -> tuple[ImageClassifier, dict[str, dict[str, Any]]]:
    """A checkpoint's network, and what each split measures of it, by the split's name.

    The workers share the images out; only the first of them needs a `record`, and reads it.
    """
    device = prepare_process(config)
    content = read_checkpoint(run.checkpoints, record) if record is not None else None
    module = restored(config, workers.broadcast(content) or b"", workers)
    data = ImageDataModule(dataset, config, device, workers)
    return module, {split: _measure(module, data, split) for split in splits}


def _measure(module: ImageClassifier, data: ImageDataModule, split: Split) -> dict[str, Any]:
    run_split(build_trainer(module.config), split, module, datamodule=data)
    measured = module.measured
    interval = wilson_interval(measured["accuracy"], measured["num_samples"])
    return {**measured, "accuracy_interval_95": interval}


def run_split(trainer: pl.Trainer, split: Split, module: pl.LightningModule, **how: Any) -> None:
    """Have Lightning evaluate a split.

    Args:
        trainer: by which.
        split: of the data in `how`.
        module: what is evaluated.
        how: further arguments of `Trainer.validate`, which are those of `Trainer.test`.

    Raises:
        KeyboardInterrupt: by a Ctrl-C.
    """
    run = trainer.validate if split == "val" else trainer.test
    try:
        run(module, verbose=False, **how)
    except SystemExit:  # What Lightning makes of a Ctrl-C.
        raise KeyboardInterrupt from None


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """95 % confidence interval of a share seen in `count` samples (Wilson, 1927)."""
    z2 = _Z_95**2
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    spread = math.sqrt(share * (1 - share) / count + z2 / (4 * count**2)) * _Z_95 / (1 + z2 / count)
    return centre - spread, centre + spread
