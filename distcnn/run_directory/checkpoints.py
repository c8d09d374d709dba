"""Checkpoints of a run: committed whole, listed in an index, pruned. No torch.

A checkpoint is one self-verifying safetensors file: its name ends in the SHA-256 of its
content, and its header repeats what the index says about it. The index of an attempt,
`index-NNNNNN.json`, lists the checkpoints that are kept; the index of the highest attempt holds.
An attempt begins by copying the index into its own, so a writer that lost the run can write
nothing that is read afterwards.

The index is not the only record: if it is lost, damaged or incomplete, the checkpoint files whose
content matches their name count. A file is deleted because an index says that newer checkpoints
replace it, never because an index does not list it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

from distcnn.errors import UserError
from distcnn.files import clear_leftovers, write_atomically
from distcnn.location import Location
from distcnn.run_directory.checkpoint_index import (
    CheckpointDamagedError,
    CheckpointFolder,
    CheckpointName,
    CheckpointRecord,
    Index,
    header_metadata,
    is_checkpoint_or_index,
    names_in,
    read_content,
)
from distcnn.run_directory.lease import Fence

# Attempts count from 1.
_BEFORE_THE_FIRST_ATTEMPT = 0


class CheckpointsLostError(UserError):
    """A run has committed checkpoints, and none of them can be read."""


def read_checkpoints(directory: Location) -> list[CheckpointRecord]:
    """Return the committed checkpoints, oldest first.

    Raises:
        OldCheckpointsError: the checkpoints are in the format of an earlier version.
    """
    return CheckpointFolder.scan(directory).records


def read_checkpoint(directory: Location, record: CheckpointRecord) -> bytes:
    """Return a committed checkpoint's content.

    Raises:
        CheckpointDamagedError: the file is missing, or its digest differs from the record's.
    """
    path = directory / record.file
    content = read_content(path)
    if hashlib.sha256(content).hexdigest() != record.sha256:
        raise CheckpointDamagedError(f"{path} is damaged: its SHA-256 is not the committed one")
    return content


def best(records: Iterable[CheckpointRecord]) -> CheckpointRecord | None:
    """Return the checkpoint with the best validation accuracy; the earliest of equals."""
    validated = [record for record in records if record.val_accuracy is not None]
    return max(validated, key=lambda record: (record.val_accuracy, -record.step), default=None)


def copy_into_new_run(directory: Location, content: bytes, record: CheckpointRecord) -> None:
    """Write another run's checkpoint as the one that a new run begins with."""
    name = CheckpointName.of(record.step, _BEFORE_THE_FIRST_ATTEMPT, record.sha256)
    write_atomically(directory / str(name), content)


def discard_checkpoints(directory: Location, fence: Fence) -> None:
    """Delete all checkpoints of a run, so that it starts over.

    Raises:
        LeaseLostError: a later attempt holds the run.
    """
    fence.check()
    for name in filter(is_checkpoint_or_index, names_in(directory)):
        (directory / name).unlink(missing_ok=True)


def check_resumable(directory: Location, last_step: int) -> None:
    """Check that a run would not start over although it has saved checkpoints.

    Args:
        directory: the run's `checkpoints/`.
        last_step: step of the last checkpoint that the run is known to have committed; 0 if none.

    Raises:
        CheckpointsLostError: it has committed checkpoints, and none of them can be read.
        OldCheckpointsError: the checkpoints are in the format of an earlier version.
    """
    _find_readable(directory, last_step)


def _find_readable(directory: Location, last_step: int) -> CheckpointFolder:
    for trust_index in (True, False):
        folder = CheckpointFolder.scan(directory, trust_index=trust_index)
        for record in list(folder.records):
            try:
                read_checkpoint(directory, record)
            except CheckpointDamagedError as error:
                folder.records.remove(record)
                folder.note_unreadable(record.file, str(error))
        if folder.records or not (folder.unreadable or last_step):
            return folder
    raise CheckpointsLostError(
        "; ".join(folder.problems)
        or f"it saved a checkpoint at step {last_step}, and {directory} holds none"
    )


class CheckpointWriter:
    """The only writer of a run's checkpoints during an attempt."""

    def __init__(
        self, directory: Location, fence: Fence, num_kept: int, last_step: int = 0
    ) -> None:
        """Take over the checkpoints of earlier attempts.

        What cannot be read is named in `problems`; its files stay where they are.

        Args:
            directory: the run's `checkpoints/`.
            fence: of the attempt that writes.
            num_kept: how many of the newest checkpoints to keep, besides the best one.
            last_step: see `check_resumable`.

        Raises:
            CheckpointsLostError: see `check_resumable`; nothing has been written.
            OldCheckpointsError: see there.
        """
        folder = _find_readable(directory, last_step)
        self._directory = directory
        self._fence = fence
        self._num_kept = num_kept
        self.problems = folder.problems
        self._unreadable = tuple(folder.unreadable)
        fence.check()
        directory.mkdir(exist_ok=True)
        clear_leftovers(directory)
        for name in folder.index.replaced:
            (directory / name).unlink(missing_ok=True)
        self._keep(folder.records)

    @property
    def records(self) -> list[CheckpointRecord]:
        """Checkpoints that are committed and kept, oldest first."""
        return list(self._records)

    def commit(
        self,
        encode: Callable[[dict[str, str]], bytes],
        *,
        epoch: int,
        step: int,
        weights_sha256: str,
        val_accuracy: float | None,
    ) -> CheckpointRecord:
        """Make a new checkpoint the newest one, durably, and prune.

        Args:
            encode: returns the content, as safetensors with the given metadata in its header.
            epoch: epochs finished.
            step: optimizer steps since the start of the run.
            weights_sha256: digest of the weights that are evaluated.
            val_accuracy: at the end of an epoch; None in the middle of one.

        Raises:
            LeaseLostError: a later attempt holds the run.
        """
        metadata = header_metadata(
            epoch=epoch, step=step, weights_sha256=weights_sha256, val_accuracy=val_accuracy
        )
        content = encode(metadata)
        sha256 = hashlib.sha256(content).hexdigest()
        record = CheckpointRecord(
            file=str(CheckpointName.of(step, self._fence.attempt, sha256)),
            attempt=self._fence.attempt,
            epoch=epoch,
            step=step,
            sha256=sha256,
            weights_sha256=weights_sha256,
            val_accuracy=val_accuracy,
        )
        self._fence.check()
        write_atomically(self._directory / record.file, content)
        self._keep([*self._records, record])
        return record

    def _keep(self, records: list[CheckpointRecord]) -> None:
        """Keep the newest checkpoints and the best one: write the index, then delete the rest."""
        # The last of a step replaces those before: it has been validated meanwhile.
        candidates = list({record.step: record for record in records}.values())
        kept = candidates[-self._num_kept :]
        best_record = best(candidates)
        if best_record is not None and best_record not in kept:
            kept = [best_record, *kept]
        replaced = tuple(record.file for record in records if record not in kept)
        index = Index(self._fence.attempt, tuple(kept), self._unreadable, replaced)
        self._records = kept
        self._fence.check()
        write_atomically(self._directory / index.path, index.encode())
        self._fence.check()
        for name in replaced:
            (self._directory / name).unlink(missing_ok=True)
