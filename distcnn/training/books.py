"""What an attempt writes into its run directory: rows, events, checkpoints, by one worker."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from distcnn.config import RunConfig
from distcnn.run_directory.checkpoints import (
    CheckpointsLostError,
    CheckpointWriter,
    read_checkpoint,
)
from distcnn.run_directory.metrics_log import MetricsLog, Row
from distcnn.training.place import Place
from distcnn.training.trackers import Trackers

Encode: TypeAlias = Callable[[dict[str, str]], bytes]


class Books:
    """What is kept of an attempt: nothing, by the workers that do not write."""

    def newest_checkpoint(self) -> bytes | None:
        """The newest committed checkpoint's content; None before the first."""
        return None

    def kept(self) -> str:
        """Which checkpoint a message may call the last good one."""
        return "see the first worker"

    def event(self, kind: str, **fields: object) -> None:
        """Something happened to the run."""

    def row(self, row: Row) -> None:
        """A row of measures."""

    def commit(
        self,
        encode: Encode,
        digests: dict[str, str],
        epoch: int,
        step: int,
        val_accuracy: float | None,
    ) -> None:
        """Make this the newest checkpoint, once the rows it stands on are durable."""

    def close(self) -> None:
        """End the attempt's writing."""


def open_books(place: Place, config: RunConfig) -> Books:
    """The run directory's for the worker that writes, none for the others."""
    return RunBooks(place, config) if place.workers.is_first else Books()


class RunBooks(Books):
    """Writes the run directory; begins by clearing what is past the newest checkpoint."""

    def __init__(self, place: Place, config: RunConfig) -> None:
        """Take over what earlier attempts left.

        Raises:
            CheckpointsLostError: the run has committed checkpoints, and none of them can be read.
        """
        # 0.2 s to import, and only one worker of all needs it.
        from distcnn.training.tensorboard_log import TensorBoardLog

        self._run, self._fence = place.run, place.fence
        self._checkpoints = _open_checkpoints(place, config.training.keep_checkpoints)
        for problem in self._checkpoints.problems:
            place.watcher.note(f"{problem}. Continuing with the other checkpoints")
            self.event("checkpoint_damaged", what=problem)
        records = self._checkpoints.records
        self._log = MetricsLog(self._run.metrics_path, records[-1].step if records else 0)
        self._tensorboard = TensorBoardLog(self._run.tensorboard, self._log.rows)
        self._trackers = Trackers(place.run, config, place.watcher.note)

    def newest_checkpoint(self) -> bytes | None:
        """The newest committed checkpoint's content; None before the first."""
        records = self._checkpoints.records
        return read_checkpoint(self._run.checkpoints, records[-1]) if records else None

    def kept(self) -> str:
        """Which checkpoint a message may call the last good one."""
        records = self._checkpoints.records
        return f"step {records[-1].step} is kept" if records else "none was saved before"

    def event(self, kind: str, **fields: object) -> None:
        """Add a line to `events.jsonl`."""
        self._run.append_event(kind, attempt=self._fence.attempt, **fields)

    def row(self, row: Row) -> None:
        """Add a row to `metrics.csv` and to TensorBoard's files, and tell the trackers."""
        self._log.append(row)
        self._tensorboard.append(row)
        self._trackers.row(row)

    def commit(
        self,
        encode: Encode,
        digests: dict[str, str],
        epoch: int,
        step: int,
        val_accuracy: float | None,
    ) -> None:
        """Make this the newest checkpoint, once the rows it stands on are durable.

        Args:
            encode: returns its content, with the given metadata in its header.
            digests: of the weights that are evaluated, `weights_sha256`; and of others.
            epoch: how many are finished.
            step: how many have been done since the start of the run.
            val_accuracy: at the end of an epoch; None in the middle of one.
        """
        # In an object store a sync puts the whole file, over whatever is there.
        self._fence.check()
        self._log.sync()
        self._tensorboard.sync()
        self._checkpoints.commit(
            encode,
            epoch=epoch,
            step=step,
            weights_sha256=digests["weights_sha256"],
            val_accuracy=val_accuracy,
        )
        self.event("checkpoint", step=step, **digests)

    def close(self) -> None:
        """End the attempt's writing."""
        self._log.close()
        self._tensorboard.close()
        self._trackers.close()


def _open_checkpoints(place: Place, num_kept: int) -> CheckpointWriter:
    run = place.run
    try:
        return CheckpointWriter(run.checkpoints, place.fence, num_kept, run.last_committed_step)
    except CheckpointsLostError as error:
        raise run.lost_error(error) from None
