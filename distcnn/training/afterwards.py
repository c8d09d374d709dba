"""What follows the checkpoint of a workload's epoch, and has to follow on going on from it."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities.types import LRSchedulerConfig


class Afterwards:
    """What follows an epoch's checkpoint, by what is kept in it.

    Lightning asks the plateau schedulers after it, and leaves when a callback wanted that.
    """

    _NAME = "distcnn"

    def __init__(self, newest: dict[str, Any] | None) -> None:
        self._kept: dict[str, Any] = (newest or {}).get(self._NAME, {})

    @property
    def is_end(self) -> bool:
        """Whether a callback, `EarlyStopping` say, had asked to train no further."""
        return self._kept.get("should_stop", False)

    @classmethod
    def keep(cls, trainer: pl.Trainer, checkpoint: dict[str, Any]) -> None:
        """Into an epoch's checkpoint."""
        monitored = {config.monitor for config in _plateau_schedulers(trainer)}
        measured = trainer.callback_metrics
        checkpoint[cls._NAME] = {
            "should_stop": trainer.should_stop,
            "measured": {name: value for name, value in measured.items() if name in monitored},
        }

    def catch_up(self, trainer: pl.Trainer, num_epochs: int) -> None:
        """Ask the plateau schedulers that would have been asked after so many epochs."""
        for config in _plateau_schedulers(trainer):
            value = self._kept.get("measured", {}).get(config.monitor)
            if value is not None and num_epochs % config.frequency == 0:
                trainer.lightning_module.lr_scheduler_step(config.scheduler, value)


def _plateau_schedulers(trainer: pl.Trainer) -> list[LRSchedulerConfig]:
    """Those that are asked at the end of an epoch."""
    return [
        config
        for config in trainer.lr_scheduler_configs
        if config.reduce_on_plateau and config.interval == "epoch"
    ]
