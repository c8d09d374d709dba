"""The checkpoints of a run: committed whole, found by an index, pruned. No torch.

A checkpoint is one file. It counts once it is named in the index of its attempt,
`index-NNNNNN.json`; the index of the highest attempt is the one that holds. An attempt begins by
copying the index it found into its own: a writer that was taken for dead and is not can then
write nothing that anybody reads.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

from distcnn.errors import UserError
from distcnn.files import DamagedFileError, clear_leftovers, read_json, write_atomically
from distcnn.location import Location
from distcnn.run_directory.lease import Fence


class CheckpointDamagedError(UserError):
    """A committed checkpoint's file is missing or not what was committed."""


@dataclass(frozen=True)
class CheckpointRecord:
    """A committed checkpoint, as the index names it."""

    file: str
    attempt: int
    epoch: int
    """Epochs finished."""
    step: int
    """Optimizer steps done since the start of the run."""
    sha256: str
    """Of the file."""
    weights_sha256: str
    """Of the network's tensors, in name order."""
    val_accuracy: float | None
    """At the end of an epoch; None in the middle of one."""


def read_index(directory: Location) -> list[CheckpointRecord]:
    """All checkpoints that are committed and kept, oldest first.

    Raises:
        DamagedFileError: the index cannot be read.
    """
    indexes = sorted(directory.glob("index-*.json"))
    if not indexes:
        return []
    try:
        return [CheckpointRecord(**entry) for entry in read_json(indexes[-1])]
    except TypeError as error:
        raise DamagedFileError(indexes[-1]) from error


def read_checkpoint(directory: Location, record: CheckpointRecord) -> bytes:
    """A committed checkpoint's content.

    Raises:
        CheckpointDamagedError: the file is missing, or its digest is another.
    """
    path = directory / record.file
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise CheckpointDamagedError(f"{path} is missing") from None
    if hashlib.sha256(content).hexdigest() != record.sha256:
        raise CheckpointDamagedError(f"{path} is damaged: its SHA-256 is not the committed one")
    return content


def best(records: list[CheckpointRecord]) -> CheckpointRecord | None:
    """The checkpoint with the best validation accuracy; the earliest of equals."""
    validated = [record for record in records if record.val_accuracy is not None]
    return max(validated, key=lambda record: (record.val_accuracy, -record.step), default=None)


class CheckpointWriter:
    """The one owner of a run's checkpoints during an attempt."""

    def __init__(self, directory: Location, fence: Fence, num_kept: int) -> None:
        """Take over what earlier attempts committed; clear what they left uncommitted.

        What is no longer whole is left out, and told by `damages`.

        Args:
            directory: the run's `checkpoints/`.
            fence: of the attempt that writes.
            num_kept: how many of the newest checkpoints to keep, besides the best one.
        """
        directory.mkdir(exist_ok=True)
        self._directory = directory
        self._fence = fence
        self._num_kept = num_kept
        self.damages: list[CheckpointDamagedError] = []
        self._records = [record for record in read_index(directory) if self._is_whole(record)]
        self._write_index()
        self._clear_uncommitted()

    @property
    def records(self) -> list[CheckpointRecord]:
        """What is committed and kept, oldest first."""
        return list(self._records)

    def commit(
        self,
        content: bytes,
        *,
        epoch: int,
        step: int,
        weights_sha256: str,
        val_accuracy: float | None,
    ) -> CheckpointRecord:
        """Make `content` the newest checkpoint, durably, and prune.

        Raises:
            LeaseLostError: a later attempt holds the run.
        """
        record = CheckpointRecord(
            file=f"step-{step:09d}-attempt-{self._fence.attempt:06d}.safetensors",
            attempt=self._fence.attempt,
            epoch=epoch,
            step=step,
            sha256=hashlib.sha256(content).hexdigest(),
            weights_sha256=weights_sha256,
            val_accuracy=val_accuracy,
        )
        self._fence.check()
        write_atomically(self._directory / record.file, content)
        # A later commit at the same step says more: it has been validated meanwhile.
        self._records = [old for old in self._records if old.step < step] + [record]
        self._prune()
        return record

    def _is_whole(self, record: CheckpointRecord) -> bool:
        try:
            read_checkpoint(self._directory, record)
        except CheckpointDamagedError as damage:
            self.damages.append(damage)
            return False
        return True

    def _prune(self) -> None:
        kept = self._records[-self._num_kept :]
        best_record = best(self._records)
        if best_record is not None and best_record not in kept:
            kept = [best_record, *kept]
        dropped = [record for record in self._records if record not in kept]
        self._records = kept
        self._write_index()
        self._fence.check()
        for record in dropped:
            (self._directory / record.file).unlink(missing_ok=True)

    def _write_index(self) -> None:
        self._fence.check()
        index = json.dumps([asdict(record) for record in self._records], indent=1)
        path = self._directory / f"index-{self._fence.attempt:06d}.json"
        write_atomically(path, index.encode())

    def _clear_uncommitted(self) -> None:
        clear_leftovers(self._directory)
        committed = {record.file for record in self._records}
        for file in self._directory.glob("step-*.safetensors"):
            if file.name not in committed:
                file.unlink()
