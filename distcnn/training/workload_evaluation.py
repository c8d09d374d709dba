"""Evaluating a checkpoint of somebody's own module, by what it logs."""

from __future__ import annotations

import pytorch_lightning as pl
from pytorch_lightning.utilities.model_helpers import is_overridden

from distcnn import workload
from distcnn.config import RunConfig
from distcnn.run_directory.checkpoint_index import CheckpointRecord
from distcnn.run_directory.checkpoints import read_checkpoint
from distcnn.run_directory.run import RunDirectory
from distcnn.training.evaluation import Split, run_split
from distcnn.training.process import prepare_process
from distcnn.training.tree import TreeSnapshot
from distcnn.training.workload_trainer import State, build_workload_trainer
from distcnn.user_code import shown_as_theirs
from distcnn.workers import Workers


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
        measured = {
            split: _measure(config, work, State(snapshot.state), split)
            for split in splits
            if split == "val" or _can_be_tested(work)
        }
    return work.module, measured


def _can_be_tested(work: workload.Work) -> bool:
    return is_overridden("test_dataloader", work.data) and is_overridden("test_step", work.module)


def _measure(
    config: RunConfig, work: workload.Work, state: State, split: Split
) -> dict[str, float]:
    alone = config.with_values(workers={"count": 1, "min": None, "max": None})
    trainer = build_workload_trainer(alone, Workers(), state)
    how = {
        "ckpt_path": "newest",
        "weights_only": False,
    }  # Of a file; ours is none, without pickles.
    run_split(trainer, split, work.module, datamodule=work.data, **how)
    return {
        name.removeprefix(f"{split}/"): float(value)
        for name, value in trainer.callback_metrics.items()
        if name.startswith(f"{split}/")
    }
