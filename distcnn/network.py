"""The CNN that a `ModelConfig` describes, as plain torch modules."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional

from distcnn.config import IMAGE, NUM_CLASSES, ModelConfig
from distcnn.geometry import Activation, Block

# Keeps the root's gradient finite where a whole neighbourhood is zero.
_L2_EPSILON = 1e-12

_ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}


class L2Pool2d(nn.Module):
    """L2 norm of each neighbourhood: the root of its summed squares."""

    def __init__(self, pool_size: int, stride: int) -> None:
        super().__init__()
        self.pool_size = pool_size
        self.stride = stride

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Pool `(N, C, H, W)` to `(N, C, H', W')`."""
        mean_square = functional.avg_pool2d(maps.square(), self.pool_size, self.stride)
        return (mean_square * self.pool_size**2 + _L2_EPSILON).sqrt()

    def extra_repr(self) -> str:
        """What `print(network)` shows."""
        return f"pool_size={self.pool_size}, stride={self.stride}"


class DistanceWeightedPool2d(nn.Module):
    """Average of each neighbourhood, its weights falling with the distance from the centre.

    A pixel at Euclidean distance d, in pixels, from the window's centre weighs 1 / (1 + d),
    over the sum of all weights. In a 2x2 window all pixels are equally far: the plain average.
    """

    weights: torch.Tensor

    def __init__(self, pool_size: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        offsets = torch.arange(pool_size) - (pool_size - 1) / 2
        weights = 1 / (1 + torch.hypot(offsets[:, None], offsets[None, :]))
        self.register_buffer("weights", weights / weights.sum(), persistent=False)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Pool `(N, C, H, W)` to `(N, C, H', W')`."""
        depth = maps.shape[1]
        kernels = self.weights.expand(depth, 1, *self.weights.shape)
        return functional.conv2d(maps, kernels.to(maps.dtype), stride=self.stride, groups=depth)

    def extra_repr(self) -> str:
        """What `print(network)` shows."""
        return f"pool_size={len(self.weights)}, stride={self.stride}"


def build_network(model: ModelConfig, seed: int) -> nn.Sequential:
    """The network with fresh weights: `(N, 1, 28, 28)` images in [0, 1] to `(N, 10)` scores.

    The weights are a function of the seed; torch's global generator is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        depth = IMAGE.depth
        for number, block in enumerate(model.blocks, start=1):
            layers |= _block(number, depth, block)
            depth = block.channels
        layers["flatten"] = nn.Flatten()
        layers["fc"] = nn.Linear(model.layers[-1].input.num_values, NUM_CLASSES)
        network = nn.Sequential(layers)
    if model.initial_scale != 1:
        _scale_weights(network, model.initial_scale)
    return network


@torch.no_grad()
def _scale_weights(network: nn.Sequential, factor: float) -> None:
    for layer in network:
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.weight.mul_(factor)


def _block(number: int, depth: int, block: Block) -> OrderedDict[str, nn.Module]:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers[f"conv{number}"] = nn.Conv2d(
        depth, block.channels, block.kernel_size, block.stride, block.padding
    )
    if block.batch_norm:
        layers[f"norm{number}"] = nn.BatchNorm2d(block.channels)
    layers[f"activation{number}"] = _ACTIVATIONS[block.activation]()
    layers[f"pool{number}"] = _pooling(block)
    return layers


def _pooling(block: Block) -> nn.Module:
    match block.pooling:
        case "max":
            return nn.MaxPool2d(block.pool_size, block.pool_stride)
        case "average":
            return nn.AvgPool2d(block.pool_size, block.pool_stride)
        case "l2":
            return L2Pool2d(block.pool_size, block.pool_stride)
        case "distance-weighted":
            return DistanceWeightedPool2d(block.pool_size, block.pool_stride)
