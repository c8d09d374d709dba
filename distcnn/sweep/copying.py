"""A trial that goes on from another's checkpoint: a run directory begun with what that one had."""

from __future__ import annotations

from distcnn.files import write_atomically
from distcnn.run_directory.checkpoint_index import CheckpointDamagedError
from distcnn.run_directory.checkpoints import copy_into_new_run, read_checkpoint
from distcnn.run_directory.run import RunDirectory


def copy_checkpoint(source: RunDirectory, target: RunDirectory, epoch: int) -> None:
    """Give `target` the checkpoint that `source` has of the end of an epoch, and its history.

    Does nothing if `target` has a checkpoint already. That is written last, so what a kill leaves
    is done again.

    Raises:
        CheckpointDamagedError: `source` has no whole checkpoint of that epoch.
    """
    target.checkpoints.mkdir(parents=True, exist_ok=True)
    if target.read_checkpoints():
        return
    records = [
        record
        for record in source.read_checkpoints()
        if record.epoch == epoch and record.val_accuracy is not None
    ]
    if not records:
        raise CheckpointDamagedError(f"{source.path} has no checkpoint of epoch {epoch} any more")
    content = read_checkpoint(source.checkpoints, records[-1])
    if source.metrics_path.exists():
        write_atomically(target.metrics_path, source.metrics_path.read_bytes())
    target.append_event("copied", attempt=0, source=str(source.path), epoch=epoch)
    copy_into_new_run(target.checkpoints, content, records[-1])
