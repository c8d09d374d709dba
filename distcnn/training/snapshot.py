"""A checkpoint's content: tensors and a few numbers as safetensors, which holds no code to run."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import nn

from distcnn.run_directory.checkpoint_index import CheckpointDamagedError
from distcnn.run_directory.checkpoints import read_checkpoint
from distcnn.run_directory.run import RunDirectory

Tensors = dict[str, torch.Tensor]

# The numbers travel as the bytes of a JSON text, in a tensor of their own.
COUNTERS = "counters"


@dataclass
class Counters:
    """How far a run has come, but for its tensors."""

    epoch: int = 0
    """Epochs finished."""
    step: int = 0
    """Steps done in the current epoch."""
    train_seconds: float = 0.0
    """Time spent in training steps, over all attempts, as far as it is in the result."""
    num_images: int = 0
    """Images trained on in that time."""
    best_epoch: int = 0
    """Epochs finished when the validation accuracy was best."""
    best_accuracy: float = -math.inf
    epoch_loss_sum: float = 0.0
    """Over the steps of the current epoch whose loss has been looked at."""
    interval_losses: list[float] = field(default_factory=list[float])
    """Of the steps since the last row of `metrics.csv`."""


@dataclass
class Snapshot:
    """What a checkpoint holds."""

    counters: Counters
    network: Tensors
    optimizer: Tensors
    average: Tensors = field(default_factory=dict[str, torch.Tensor])
    """The running average of the weights; empty where the config asks for none."""

    def encode(self, metadata: dict[str, str]) -> bytes:
        """Return the checkpoint's content, with that metadata in its header."""
        groups = {"network": self.network, "optimizer": self.optimizer, "average": self.average}
        tensors: Tensors = {
            f"{group}.{name}": tensor.detach().cpu().contiguous()
            for group, members in groups.items()
            for name, tensor in members.items()
        }
        tensors[COUNTERS] = as_tensor(asdict(self.counters))
        return save_safetensors(tensors, metadata)

    @classmethod
    def decode(cls, content: bytes) -> Snapshot:
        """What `encode` was given, on the CPU."""
        tensors = load_safetensors(content)
        return cls(
            counters=_counters(tensors),
            network=_group(tensors, "network"),
            optimizer=_group(tensors, "optimizer"),
            average=_group(tensors, "average"),
        )


def as_tensor(plain: object) -> torch.Tensor:
    """Plain values as the bytes of a JSON text."""
    return torch.frombuffer(bytearray(json.dumps(plain).encode()), dtype=torch.uint8)


def from_tensor(tensor: torch.Tensor) -> Any:
    """What `as_tensor` was given."""
    return json.loads(bytes(tensor.tolist()))


def newest_counters(run: RunDirectory) -> Counters:
    """How far a run has come, by its newest checkpoint; nowhere if there is none that is whole."""
    records = run.read_checkpoints()
    with suppress(CheckpointDamagedError, IndexError):
        return _counters(load_safetensors(read_checkpoint(run.checkpoints, records[-1])))
    return Counters()


def _counters(tensors: Tensors) -> Counters:
    return Counters(**from_tensor(tensors[COUNTERS]))


def _group(tensors: Tensors, group: str) -> Tensors:
    prefix = f"{group}."
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> Tensors:
    """The optimizer's state of the vector of weights, by name; none before the first step."""
    state = optimizer.state.get(_vector(optimizer), {})
    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    """Put back what `optimizer_tensors` gave."""
    vector = _vector(optimizer)
    for name, value in tensors.items():
        optimizer.state[vector][name] = value.to(vector.device, copy=True)


def _vector(optimizer: torch.optim.Optimizer) -> nn.Parameter:
    [vector] = optimizer.param_groups[0]["params"]
    return vector


def weights_sha256(tensors: Mapping[str, Any]) -> str:
    """The digest of a state dict: each tensor's name, type, shape and bytes, in name order."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
