"""A picture's way through the network, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load

from distcnn.config import RunConfig
from distcnn.network import build_network

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Stage:
    """What a layer makes of the picture.

    Attributes:
        name: the layer's, as the layer table has it.
        output: feature maps `(C, H, W)`, or class scores `(classes,)`.
    """

    name: str
    output: Array


@dataclass(frozen=True)
class Walk:
    """A picture's way through the network.

    Attributes:
        stages: of each layer, in order.
        kernels: of each convolution, `(C_out, C_in, F, F)`, by the layer's name.
        probabilities: of each class.
    """

    stages: list[Stage]
    kernels: dict[str, Array]
    probabilities: Array


def walk(config: RunConfig, weights: bytes, image: NDArray[np.uint8]) -> Walk:
    """Send a picture, `(28, 28)`, 0 the background, through the network.

    Args:
        config: the network's.
        weights: as `weights.safetensors` holds them.
        image: the picture.
    """
    network = build_network(config.model, seed=0).eval()
    network.load_state_dict(load(weights))
    names = [layer.name for layer in config.model.layers]
    named = (layer for layer in network if not isinstance(layer, torch.nn.Flatten))
    values: Any = torch.from_numpy(image.astype(np.float32) / 255)[None, None]
    stages: list[Stage] = []
    kernels: dict[str, Array] = {}
    with torch.inference_mode():
        for name, layer in zip(names, named, strict=True):
            if isinstance(layer, torch.nn.Linear):
                values = values.flatten(1)
            values = layer(values)
            stages.append(Stage(name, values[0].numpy()))
            if isinstance(layer, torch.nn.Conv2d):
                kernels[name] = layer.weight.numpy(force=True)
        probabilities = values.softmax(dim=1)[0].numpy()
    return Walk(stages, kernels, probabilities)
