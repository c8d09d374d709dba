"""A trained network under examination, with the images to examine it on."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from distcnn.config import RunConfig
from distcnn.data.dataset import Dataset
from distcnn.data.module import to_float
from distcnn.data.order import divide
from distcnn.network import build_network


@dataclass(frozen=True)
class Subject:
    """A trial's network, and images of the validation split.

    Attributes:
        config: the trial's.
        network: trained, computing in float32 on the CPU.
        images: `(N, 1, 28, 28)` in [0, 1].
        labels: `(N,)`.
    """

    config: RunConfig
    network: nn.Sequential
    images: torch.Tensor
    labels: torch.Tensor

    def fresh(self) -> nn.Sequential:
        """The network as it was before its first step."""
        return build_network(self.config.model, self.config.seed)


def validation_images(
    config: RunConfig, dataset: Dataset, most: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The first images of the validation split, as a network takes them, and their labels."""
    _, ids = divide(dataset.train_labels, config)
    chosen = ids[:most]
    images = to_float(torch.from_numpy(dataset.train_images[chosen]))[:, None]
    return images, torch.from_numpy(dataset.train_labels[chosen]).long()


def gradients(
    network: nn.Sequential, images: torch.Tensor, labels: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Of the mean loss, by the layer whose weights they are of."""
    loss = functional.cross_entropy(network(images), labels)
    layers = {
        name: layer.weight
        for name, layer in network.named_children()
        if isinstance(layer, (nn.Conv2d, nn.Linear))
    }
    found = torch.autograd.grad(loss, list(layers.values()))
    return dict(zip(layers, found, strict=True))


def outputs(network: nn.Sequential, images: torch.Tensor) -> OrderedDict[str, torch.Tensor]:
    """What each layer makes of the images, by its name."""
    found: OrderedDict[str, torch.Tensor] = OrderedDict()
    values = images
    with torch.inference_mode():
        for name, layer in network.named_children():
            values = found[name] = layer(values)
    return found
