"""The fast way through a network on a CPU: its plain torch modules, on oneDNN's own tensors.

Between ordinary torch modules every activation is an ordinary tensor, and batch norm, ReLU and
pooling run torch's own kernels, which take over half of a step of the article's network. Kept in
oneDNN's layout from one convolution to the next, they run oneDNN's: measured on 2 cores, 1.4 times
the steps per second in bfloat16 and 1.6 times in float32. The modules and their weights stay what
they are.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

# oneDNN's fast kernels take channels in blocks of so many. Others are gone through one by one: with
# 24 and 48 channels a step in bfloat16 takes 2.3 times as long as with channels of zeros added, and
# with 8 and 16 channels 2.7 times (1 core with AMX; n = 1 and 2 runs of 25,600 images).
_BLOCK = 16
# What runs on oneDNN's tensors, forward and backward; everything else gets ordinary ones.
_NATIVE = (nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d, nn.AvgPool2d)


def supports(dtype: torch.dtype) -> bool:
    """Whether this build of torch has oneDNN, and this CPU what it needs to compute in `dtype`."""
    if not torch.backends.mkldnn.is_available():
        return False
    return dtype != torch.bfloat16 or torch.ops.mkldnn._is_mkldnn_bf16_supported()


def run(network: nn.Sequential, images: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What `network(images)` gives, with convolutions in `dtype`; differentiable.

    Args:
        network: any modules in a row; its convolutions pad with zeros.
        images: float32 of shape `(N, C, H, W)`, on the CPU.
        dtype: float32 or bfloat16; whatever is not oneDNN's computes in float32.
    """
    maps, num_channels = images, images.size(1)
    for layer in _in_fast_order(network):
        if isinstance(layer, nn.Conv2d):
            maps = _convolve(layer, maps, dtype)
            num_channels = layer.out_channels
        elif isinstance(layer, nn.BatchNorm2d) and maps.is_mkldnn:
            maps = _normalize(layer, maps)
        elif isinstance(layer, _NATIVE):
            maps = layer(maps)
        else:
            maps = layer(_to_ordinary(maps, num_channels) if maps.is_mkldnn else maps)
    return maps


def _in_fast_order(network: nn.Sequential) -> list[nn.Module]:
    """The layers, each ReLU that stands before a max pooling moved behind it.

    The two commute: the values are the same to the last bit, and so are the gradients, since both
    pass one on to the same largest pixel, if it is positive. There are fewer pixels to rectify.
    """
    layers = list(network)
    for index, (layer, following) in enumerate(pairwise(layers)):
        if isinstance(layer, nn.ReLU) and isinstance(following, nn.MaxPool2d):
            layers[index : index + 2] = following, layer
    return layers


def _convolve(layer: nn.Conv2d, maps: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The convolution, with channels of zeros added up to a whole number of blocks."""
    if not maps.is_mkldnn:
        maps = maps.to(dtype).to_mkldnn()
    assert layer.bias is not None
    num_added = -layer.out_channels % _BLOCK
    num_inputs_added = maps.size(1) - layer.in_channels
    weight, bias = layer.weight.to(dtype), layer.bias.to(dtype)
    if num_added or num_inputs_added:
        weight = functional.pad(weight, (0, 0, 0, 0, 0, num_inputs_added, 0, num_added))
        bias = functional.pad(bias, (0, num_added))
    return torch.mkldnn_convolution(
        maps,
        weight,
        bias,
        layer.padding,  # pyright: ignore[reportArgumentType] - numbers, as we build them
        layer.stride,
        layer.dilation,
        layer.groups,
    )


def _normalize(layer: nn.BatchNorm2d, maps: torch.Tensor) -> torch.Tensor:
    """The batch norm; added channels of zeros stay zeros."""
    num_added = maps.size(1) - layer.num_features
    if not num_added:
        return layer(maps)
    mean, variance, count = layer.running_mean, layer.running_var, layer.num_batches_tracked
    assert mean is not None and variance is not None and count is not None
    if layer.training:
        count.add_(1)
    padded_mean, padded_variance, weight, bias = (
        functional.pad(each, (0, num_added)) for each in (mean, variance, layer.weight, layer.bias)
    )
    normalized = functional.batch_norm(
        maps,
        padded_mean,
        padded_variance,
        weight,
        bias,
        layer.training,
        layer.momentum or 0.0,
        layer.eps,
    )
    if layer.training:
        mean.copy_(padded_mean[: layer.num_features])
        variance.copy_(padded_variance[: layer.num_features])
    return normalized


def _to_ordinary(maps: torch.Tensor, num_channels: int) -> torch.Tensor:
    """An ordinary float32 tensor, without added channels."""
    return maps.to_dense()[:, :num_channels].float()
