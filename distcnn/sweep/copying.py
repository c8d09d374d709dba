"""A trial that goes on from another's checkpoint: a run directory begun with what that one had."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

from distcnn.files import write_atomically
from distcnn.run_directory.checkpoints import CheckpointDamagedError, read_checkpoint
from distcnn.run_directory.run import RunDirectory

# Attempts count from 1: this is before the first.
_BEFORE = 0


def copy_checkpoint(source: RunDirectory, target: RunDirectory, epoch: int) -> None:
    """Give `target` the checkpoint that `source` has of the end of an epoch, and its history.

    What a kill leaves of it is done again: the index, which makes it count, comes last.

    Raises:
        CheckpointDamagedError: `source` has no whole checkpoint of that epoch.
    """
    target.checkpoints.mkdir(parents=True, exist_ok=True)
    index = target.checkpoints / f"index-{_BEFORE:06d}.json"
    if index.exists():
        return
    records = [
        record
        for record in source.read_checkpoints()
        if record.epoch == epoch and record.val_accuracy is not None
    ]
    if not records:
        raise CheckpointDamagedError(f"{source.path} has no checkpoint of epoch {epoch} any more")
    name = f"step-{records[-1].step:09d}-attempt-{_BEFORE:06d}.safetensors"
    record = replace(records[-1], file=name, attempt=_BEFORE)
    content = read_checkpoint(source.checkpoints, records[-1])
    write_atomically(target.checkpoints / record.file, content)
    write_atomically(target.metrics_path, source.metrics_path.read_bytes())
    target.append_event("copied", attempt=_BEFORE, source=str(source.path), epoch=epoch)
    write_atomically(index, json.dumps([asdict(record)], indent=1).encode())
