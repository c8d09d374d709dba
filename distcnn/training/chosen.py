"""The network that a run chose, to be used: by anybody, on any machine, without its data."""

from __future__ import annotations

from distcnn.config import RunConfig
from distcnn.errors import UsageError, UserError
from distcnn.module import ImageClassifier
from distcnn.run_directory.checkpoint_index import CheckpointRecord
from distcnn.run_directory.checkpoints import best, read_checkpoint
from distcnn.run_directory.run import RunDirectory
from distcnn.training.snapshot import Snapshot
from distcnn.workers import Workers


def choose_checkpoint(run: RunDirectory) -> CheckpointRecord:
    """The checkpoint with the best validation accuracy.

    Raises:
        UserError: none has been validated yet.
    """
    record = best(run.read_checkpoints())
    if record is None:
        raise UserError(
            f"{run.path} has no checkpoint of a finished epoch yet;"
            f" go on with it first: distcnn resume {run.path}"
        )
    return record


def restored(config: RunConfig, checkpoint: bytes, workers: Workers) -> ImageClassifier:
    """The network of a checkpoint's content, to be evaluated."""
    snapshot = Snapshot.decode(checkpoint)
    module = ImageClassifier(config, num_steps=1, workers=workers)  # It is not trained.
    module.network.load_state_dict(snapshot.network)
    if module.average is not None:
        module.average.load_state_dict(snapshot.average)
    return module.eval()


def chosen_network(run: RunDirectory) -> ImageClassifier:
    """What a run chose by validation, on the CPU, computing in float32.

    Raises:
        UserError: the run has validated nothing yet, or its checkpoint is damaged.
    """
    return _on_cpu(run, choose_checkpoint(run))


def newest_network(run: RunDirectory) -> ImageClassifier:
    """What a run with a checkpoint has come to, chosen or not, on the CPU, in float32."""
    return _on_cpu(run, run.read_checkpoints()[-1])


def _on_cpu(run: RunDirectory, record: CheckpointRecord) -> ImageClassifier:
    if (workload := run.read_config().workload) is not None:
        raise UsageError(
            f"{run.path} has trained {workload}, and how that is used is for its own code: its"
            f" weights are in {run.weights_path}, once it is finished"
        )
    config = run.read_config().with_values(
        workers={"count": 1, "min": None, "max": None, "gpus": 0, "cpus": 1},
        training={"precision": "32-true"},
    )
    return restored(config, read_checkpoint(run.checkpoints, record), Workers())
