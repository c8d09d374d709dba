"""A network's weights as one vector: one gradient to combine, one tensor to optimize.

And its running statistics as another, which workers have to combine as well.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


class FlatWeights:
    """All weights of a network in one vector, of which the network's own become views.

    A step's gradient is then one vector too, whose layout is fixed from the first step on: shards
    and workers add theirs in one operation, and the optimizer has one tensor to walk.

    Attributes:
        vector: what the optimizer updates, `(num_weights,)`, each weight in its memory order.
        statistics: what batch norm has seen, its running means and variances, `(num_values,)`.
        counters: how often each batch norm has seen something.
    """

    def __init__(self, network: nn.Module) -> None:
        """Move the network's tensors into vectors; they have to be on their device already."""
        self._weights = list(network.parameters())
        self.vector = nn.Parameter(_moved_into_one(self._weights, self._weights[0]))
        names = network.state_dict().keys()  # Without what is constant and not saved.
        buffers = [buffer for name, buffer in network.named_buffers() if name in names]
        seen = [buffer for buffer in buffers if buffer.is_floating_point()]
        self.statistics = _moved_into_one(seen, self._weights[0])
        self.counters = [buffer for buffer in buffers if not buffer.is_floating_point()]

    def seen(self) -> list[torch.Tensor]:
        """A copy of what batch norm has seen by now; `forget_since` takes it."""
        return [each.clone() for each in (self.statistics, *self.counters)]

    def forget_since(self, seen: Sequence[torch.Tensor]) -> None:
        """Have batch norm forget what it has seen since then."""
        for each, before in zip((self.statistics, *self.counters), seen, strict=True):
            each.copy_(before)

    def gradient(self, loss: torch.Tensor) -> torch.Tensor:
        """The gradient of a scalar by the weights, `(num_weights,)`, laid out as `vector` is."""
        flat = torch.empty_like(self.vector.data)
        gradients = torch.autograd.grad(loss, self._weights)
        for view, gradient in zip(_views(flat, self._weights), gradients, strict=True):
            view.copy_(gradient)
        return flat


def _moved_into_one(tensors: Sequence[torch.Tensor], like: torch.Tensor) -> torch.Tensor:
    """One vector with the tensors' values, of which they become views; of the kind of `like`."""
    flat = like.new_empty(sum(tensor.numel() for tensor in tensors))
    for tensor, view in zip(tensors, _views(flat, tensors), strict=True):
        tensor.data = view.copy_(tensor.data)
    return flat


def _views(flat: torch.Tensor, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The pieces of a vector in the tensors' shapes and memory order."""
    views: list[torch.Tensor] = []
    offset = 0
    for tensor in tensors:
        views.append(flat.as_strided(tensor.shape, tensor.stride(), offset))
        offset += tensor.numel()
    return views
