"""Weights & Biases: a run of ours is a run there, of the account that WANDB_API_KEY names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import wandb

from distcnn.config import RunConfig
from distcnn.run_directory.metrics_log import Row
from distcnn.run_directory.run import RunDirectory
from distcnn.training.trackers import flat, measures_of, own_mark


class WandbTracker:
    """One run, which has an id of ours there, and is gone on with."""

    def __init__(self, run: RunDirectory, config: RunConfig) -> None:
        # It would ask on the terminal, in the middle of a training.
        is_online = os.environ.get("WANDB_MODE", "online") == "online"
        if is_online and not wandb.login(prompt=False):
            raise RuntimeError("no key: set WANDB_API_KEY, or type wandb login")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "distcnn"),
            id=own_mark(run.path / "wandb.json"),
            resume="allow",
            name=run.path.name,
            config=flat(config.to_plain()),
            dir=run.path if isinstance(run.path, Path) else None,
            # Its own notes would stand among ours, and our output is no part of a result.
            settings=wandb.Settings(silent=True, console="off"),
        )

    def row(self, row: Row) -> None:
        """As metrics of that step."""
        step = int(row["step"] or 0)
        if step >= self._run.starting_step:  # Else it is there already, told before a kill.
            measures = {n: v for n, v in row.items() if n != "step" and v is not None}
            self._run.log(measures, step=step)

    def end(self, results: dict[str, Any]) -> None:
        """As the run's summary."""
        self._run.summary.update({**measures_of(results), "status": results["status"]})

    def close(self) -> None:
        """Send what is left."""
        self._run.finish()


TRACKER = WandbTracker
