"""Evaluating a checkpoint of somebody's own module, by what it logs."""

from __future__ import annotations

from typing import Literal

import pytorch_lightning as pl
from pytorch_lightning.utilities.model_helpers import is_overridden

from distcnn import workload
from distcnn.config import RunConfig
from distcnn.run_directory.checkpoints import CheckpointRecord, read_checkpoint
from distcnn.run_directory.run import RunDirectory
from distcnn.training.process import prepare_process
from distcnn.training.tree import TreeSnapshot
from distcnn.training.user_code import shown_as_theirs
from distcnn.training.workload_fit import build_workload_trainer
from distcnn.workers import Workers

Split = Literal["val", "test"]


def evaluate_workload(
    config: RunConfig, run: RunDirectory, record: CheckpointRecord, splits: list[Split]
) -> tuple[pl.LightningModule, dict[str, dict[str, float]]]:
    """A checkpoint's module, and what it logs of each split that it has, by one worker alone."""
    assert config.workload is not None
    prepare_process(config)
    with shown_as_theirs(config.workload):
        pl.seed_everything(config.seed, verbose=False)
        work = workload.make(config)
        snapshot = TreeSnapshot.decode(read_checkpoint(run.checkpoints, record))
        work.module.load_state_dict(snapshot.state["state_dict"])
        measured = {
            split: _measure(config, work, split)
            for split in splits
            if split == "val" or is_overridden("test_dataloader", work.data)
        }
    return work.module, measured


def _measure(config: RunConfig, work: workload.Work, split: Split) -> dict[str, float]:
    trainer = build_workload_trainer(config.with_values(workers={"count": 1}), Workers())
    run_split = trainer.validate if split == "val" else trainer.test
    run_split(work.module, datamodule=work.data, verbose=False)
    return {
        name.removeprefix(f"{split}/"): float(value)
        for name, value in trainer.callback_metrics.items()
        if name.startswith(f"{split}/")
    }
