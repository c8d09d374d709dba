"""How fast this device trains a network, by a few steps of it: for plans, not for results."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import torch
from torch.nn import functional

from distcnn import onednn
from distcnn.config import RunConfig
from distcnn.network import build_network
from distcnn.training.fit import is_out_of_memory
from distcnn.training.process import prepare_process

_NUM_STEPS = 6
# Of a network that takes longer, fewer steps will do: the user waits.
_MOST_SECONDS = 3.0
# What a training step does besides: the optimizer, the batch, the loop.
_BESIDES = 1.15


def seconds_per_image(configs: Sequence[RunConfig]) -> list[float]:
    """What an image costs each of them in training, about; nothing where one lacks the memory, or
    trains a workload of its own.

    Args:
        configs: resolved.
    """
    if any(config.workload for config in configs):
        return []  # Whose steps are not ours to try.
    try:
        return [_seconds_per_image(config) for config in configs]
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return []


def _seconds_per_image(config: RunConfig) -> float:
    device = prepare_process(config)
    dtype = torch.bfloat16 if config.training.precision == "bf16-mixed" else torch.float32
    network = build_network(config.model, seed=0).to(device)
    size = config.training.global_batch_size // config.workers.count
    size = max(1, size // config.num_shards_per_worker)
    images = torch.zeros(size, 1, 28, 28, device=device)
    labels = torch.zeros(size, dtype=torch.long, device=device)
    seconds: list[float] = []
    while len(seconds) < _NUM_STEPS and sum(seconds) < _MOST_SECONDS:
        started = time.perf_counter()
        loss = functional.cross_entropy(_forward(network, images, dtype), labels)
        loss.backward()
        loss.item()  # Waits for the device.
        seconds.append(time.perf_counter() - started)
    return _BESIDES * statistics.median(seconds[2:] or seconds[-1:]) / (size * config.workers.count)


def _forward(
    network: torch.nn.Sequential, images: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    if images.device.type == "cpu" and onednn.supports(dtype):
        return onednn.run(network, images, dtype)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
        return network(images)
