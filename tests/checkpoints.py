"""Checkpoints with a content of the test's own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from safetensors.numpy import load, save

from distcnn.location import Location
from distcnn.run_directory.checkpoint_index import CheckpointRecord
from distcnn.run_directory.checkpoints import CheckpointWriter, read_checkpoint


def holding(text: str) -> Callable[[dict[str, str]], bytes]:
    """Return the encoder of a checkpoint that holds a text."""
    tensors = {"text": np.frombuffer(text.encode(), dtype=np.uint8)}
    return lambda metadata: save(tensors, metadata)


def text_of(directory: Location, record: CheckpointRecord) -> str:
    """Return the text that a committed checkpoint holds."""
    return load(read_checkpoint(directory, record))["text"].tobytes().decode()


def commit(writer: CheckpointWriter, step: int, accuracy: float | None = None) -> CheckpointRecord:
    """Commit a checkpoint of a run with ten steps an epoch."""
    return writer.commit(
        holding(f"content of {step}"),
        epoch=step // 10,
        step=step,
        weights_sha256="",
        val_accuracy=accuracy,
    )
