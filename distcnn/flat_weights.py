"""A network's weights as one vector: one gradient to combine, one tensor to optimize."""

from __future__ import annotations

import torch
from torch import nn


class FlatWeights:
    """All weights of a network in one vector, of which the network's own become views.

    A step's gradient is then one vector too, whose layout is fixed from the first step on: shards
    and workers add theirs in one operation, and the optimizer has one tensor to walk.

    Attributes:
        vector: what the optimizer updates, `(num_weights,)`, each weight in its memory order.
    """

    def __init__(self, network: nn.Module) -> None:
        """Move the network's weights into one vector; they have to be on their device already."""
        self._weights = list(network.parameters())
        self.vector = nn.Parameter(self._blank())
        for weight, view in zip(self._weights, self._views(self.vector.data), strict=True):
            weight.data = view.copy_(weight.data)

    def gradient(self, loss: torch.Tensor) -> torch.Tensor:
        """The gradient of a scalar by the weights, `(num_weights,)`, laid out as `vector` is."""
        flat = self._blank()
        gradients = torch.autograd.grad(loss, self._weights)
        for view, gradient in zip(self._views(flat), gradients, strict=True):
            view.copy_(gradient)
        return flat

    def _blank(self) -> torch.Tensor:
        num_weights = sum(weight.numel() for weight in self._weights)
        return self._weights[0].new_empty(num_weights)

    def _views(self, flat: torch.Tensor) -> list[torch.Tensor]:
        """The pieces of a vector in the weights' shapes and memory order."""
        views: list[torch.Tensor] = []
        offset = 0
        for weight in self._weights:
            views.append(flat.as_strided(weight.shape, weight.stride(), offset))
            offset += weight.numel()
        return views
