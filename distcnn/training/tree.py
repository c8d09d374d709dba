"""A state of any shape in a checkpoint: tensors as they are, everything else as JSON.

Somebody's own module, and Lightning, keep dicts and lists of more than tensors. They come back with
all that was in them, as plain dicts, lists and tuples: nothing of it is code that would be run.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from distcnn.training.snapshot import COUNTERS, Counters, Tensors, as_tensor, from_tensor
from distcnn.user_code import UserCodeError

_TREE = "tree"


@dataclass
class TreeSnapshot:
    """What the checkpoint of a workload holds."""

    counters: Counters
    state: dict[str, Any]
    """Dicts, lists and tuples of tensors, numbers, texts and None."""

    def encode(self, metadata: dict[str, str]) -> bytes:
        """Return the checkpoint's content, with that metadata in its header.

        Raises:
            UserCodeError: there is something else in the state.
        """
        tensors: Tensors = {}
        tree = _plain(self.state, "", tensors)
        tensors[_TREE], tensors[COUNTERS] = as_tensor(tree), as_tensor(asdict(self.counters))
        return save_safetensors(tensors, metadata)

    @classmethod
    def decode(cls, content: bytes) -> TreeSnapshot:
        """What `encode` was given, tensors on the CPU."""
        tensors = load_safetensors(content)
        counters = Counters(**from_tensor(tensors[COUNTERS]))
        return cls(counters, _rich(from_tensor(tensors[_TREE]), tensors))


def _plain(value: Any, place: str, tensors: Tensors) -> Any:
    """The value as JSON has it: each container as its kind with its members."""
    match value:
        case torch.Tensor() if value.layout == torch.strided and not value.is_quantized:
            name = f"state.{len(tensors)}"
            # A copy: two that share memory could not be saved as what they are.
            tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
            return {"tensor": name}
        case dict():
            members = [
                [_plain(key, place, tensors), _plain(member, f"{place}.{key}", tensors)]
                for key, member in value.items()
            ]
            return {"dict": members}
        case list() | tuple():
            kind = "list" if isinstance(value, list) else "tuple"
            members = [_plain(each, f"{place}.{i}", tensors) for i, each in enumerate(value)]
            return {kind: members}
        case None | bool() | int() | float() | str():
            return value
        case _:
            place = place.lstrip(".")
            name = place.rpartition(".")[2]
            remedy = "Keep it as one of these, or leave it out of the state"
            if place.startswith("hyper_parameters."):
                remedy = f'Leave it out: self.save_hyperparameters(ignore=["{name}"])'
            raise UserCodeError(
                f"{place} is {_kind(value)}: a checkpoint holds dense tensors, numbers, texts,"
                f" lists and dicts alone, so that reading it runs no code. {remedy}"
            )


def _kind(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"a tensor of layout {value.layout} and type {value.dtype}"
    return f"of type {type(value).__name__}"


def _rich(value: Any, tensors: Tensors) -> Any:
    if not isinstance(value, dict):
        return value
    [(kind, members)] = value.items()
    match kind:
        case "tensor":
            return tensors[members]
        case "dict":
            return {_rich(key, tensors): _rich(member, tensors) for key, member in members}
        case "list":
            return [_rich(member, tensors) for member in members]
        case _:
            return tuple(_rich(member, tensors) for member in members)
