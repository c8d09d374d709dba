"""Lightning's Trainer for somebody's own module: its workers have met, its state is no file."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.plugins.io import CheckpointIO
from pytorch_lightning.strategies import DDPStrategy

from distcnn.config import RunConfig
from distcnn.training.process import OurSignalHandlers
from distcnn.workers import Workers


def build_workload_trainer(
    config: RunConfig, workers: Workers, state: State, keeper: pl.Callback | None = None
) -> pl.Trainer:
    """Lightning's own, in one of the workers' processes."""
    assert config.training.precision != "auto", "decided before training"
    return pl.Trainer(
        accelerator="gpu" if config.workers.gpus else "cpu",
        devices=1,
        num_nodes=workers.count,
        strategy=DDPStrategy() if workers.count > 1 else "auto",
        plugins=[_Met(workers), state],
        precision=config.training.precision,
        max_epochs=config.training.epochs,
        callbacks=[OurSignalHandlers(), *([keeper] if keeper else [])],
        # Each epoch's loader is made after the epoch has been given its seed.
        reload_dataloaders_every_n_epochs=1,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=keeper is not None,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


class _Met(LightningEnvironment):
    """Workers that have met already, each with a device of its own, as Lightning counts nodes."""

    def __init__(self, workers: Workers) -> None:
        super().__init__()
        self._workers = workers
        self.set_world_size(workers.count)
        self.set_global_rank(workers.rank)

    @property
    def creates_processes_externally(self) -> bool:
        return True

    def node_rank(self) -> int:
        return self._workers.rank

    def local_rank(self) -> int:
        return 0


class State(CheckpointIO):
    """Where Lightning puts its state, and finds it again: no file.

    Attributes:
        newest: its state; None before the first.
    """

    def __init__(self, newest: dict[str, Any] | None) -> None:
        self.newest = newest

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: object, storage_options: object = None
    ) -> None:
        """Keep it."""
        self.newest = checkpoint

    def load_checkpoint(
        self, path: object, map_location: object = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Give it back."""
        assert self.newest is not None, "asked for where there is one"
        return self.newest

    def remove_checkpoint(self, path: object) -> None:
        """There is no file."""
