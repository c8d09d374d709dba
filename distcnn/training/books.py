"""What an attempt writes into its run directory: rows, events, checkpoints, by one worker."""

from __future__ import annotations

import torch

from distcnn.module import ImageClassifier
from distcnn.run_directory.checkpoints import CheckpointWriter, read_checkpoint
from distcnn.run_directory.metrics_log import MetricsLog, Row
from distcnn.training.place import Place
from distcnn.training.snapshot import Counters, Snapshot, optimizer_tensors, weights_sha256


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

    def save(
        self,
        module: ImageClassifier,
        optimizer: torch.optim.Optimizer,
        counters: Counters,
        step: int,
        val_accuracy: float | None,
    ) -> None:
        """Make this state the newest checkpoint, once the rows it stands on are durable."""

    def close(self) -> None:
        """End the attempt's writing."""


def open_books(place: Place, num_kept: int) -> Books:
    """The run directory's for the worker that writes, none for the others."""
    return RunBooks(place, num_kept) if place.workers.is_first else Books()


class RunBooks(Books):
    """Writes the run directory; begins by clearing what is past the newest checkpoint."""

    def __init__(self, place: Place, num_kept: int) -> None:
        # 0.2 s to import, and only one worker of all needs it.
        from distcnn.training.tensorboard_log import TensorBoardLog

        self._run, self._fence = place.run, place.fence
        self._checkpoints = CheckpointWriter(place.run.checkpoints, place.fence, num_kept)
        for damage in self._checkpoints.damages:
            place.watcher.note(f"{damage}; going on without it")
            self.event("checkpoint_damaged", what=str(damage))
        records = self._checkpoints.records
        self._log = MetricsLog(self._run.metrics_path, records[-1].step if records else 0)
        self._tensorboard = TensorBoardLog(self._run.tensorboard, self._log.rows)

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
        """Add a row to `metrics.csv` and to TensorBoard's files."""
        self._log.append(row)
        self._tensorboard.append(row)

    def save(
        self,
        module: ImageClassifier,
        optimizer: torch.optim.Optimizer,
        counters: Counters,
        step: int,
        val_accuracy: float | None,
    ) -> None:
        """Make this state the newest checkpoint, once the rows it stands on are durable."""
        average = module.average
        snapshot = Snapshot(
            counters=counters,
            network=module.network.state_dict(),
            optimizer=optimizer_tensors(optimizer),
            average={} if average is None else average.state_dict(),
        )
        # In an object store a sync puts the whole file, over whatever is there.
        self._fence.check()
        self._log.sync()
        self._tensorboard.sync()
        record = self._checkpoints.commit(
            snapshot.encode(),
            epoch=counters.epoch,
            step=step,
            weights_sha256=weights_sha256(module.kept_network.state_dict()),
            val_accuracy=val_accuracy,
        )
        digests = {"weights_sha256": record.weights_sha256}
        if average is not None:
            # In which a difference may be lost in rounding for a while.
            digests["trained_sha256"] = weights_sha256(module.network.state_dict())
        self.event("checkpoint", step=step, **digests)

    def close(self) -> None:
        """End the attempt's writing."""
        self._log.close()
        self._tensorboard.close()
