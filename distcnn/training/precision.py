"""Which arithmetic this device is faster with: by what it can do, by measuring only in doubt."""

from __future__ import annotations

import statistics
import time
from typing import Literal

import torch
from torch.nn import functional

from distcnn import onednn
from distcnn.config import ModelConfig, RunConfig
from distcnn.network import build_network

Precision = Literal["32-true", "bf16-mixed"]

# Instruction sets with bfloat16 multiply-adds, as torch names them.
_BF16_UNITS = ("amx_bf16", "avx512_bf16")
_MEASURED_BATCH_SIZE = 128
_MEASURED_STEPS = 5


def decide(config: RunConfig, device: torch.device) -> tuple[Precision, str]:
    """The faster precision for training on `device`, and why.

    A run that has to be the same again elsewhere is not decided by what was measured once.
    """
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16-mixed", f"{name} has bfloat16 units"
        return "32-true", f"{name} has no bfloat16 units"
    if config.workload is not None:
        return "32-true", "nobody knows what a workload of one's own is faster with"
    units = bf16_units()
    if units:
        return "bf16-mixed", f"the CPU has bfloat16 units ({', '.join(units)})"
    is_x86 = torch.cpu.get_capabilities().get("architecture") == "x86_64"
    if is_x86 or not onednn.supports(torch.bfloat16):
        return "32-true", "the CPU has no bfloat16 units"
    if config.training.is_same_on_any_workers:
        return "32-true", "measuring what is faster might end otherwise on another worker"
    return _measure(config.model)


def bf16_units() -> list[str]:
    """The CPU's instruction sets that multiply bfloat16 numbers, as far as torch knows them."""
    capabilities = torch.cpu.get_capabilities()
    return [name for name in _BF16_UNITS if capabilities.get(name)]


def _measure(model: ModelConfig) -> tuple[Precision, str]:
    """Time a few training steps each way, in turn; medians."""
    seconds: dict[bool, list[float]] = {False: [], True: []}
    network = build_network(model, seed=0)
    images = torch.zeros(_MEASURED_BATCH_SIZE, 1, 28, 28)
    labels = torch.zeros(_MEASURED_BATCH_SIZE, dtype=torch.long)
    # One round more than is counted: the first one prepares kernels.
    for round_number in range(_MEASURED_STEPS + 1):
        for mixed in seconds:
            started = time.perf_counter()
            dtype = torch.bfloat16 if mixed else torch.float32
            loss = functional.cross_entropy(onednn.run(network, images, dtype), labels)
            loss.backward()
            if round_number:
                seconds[mixed].append(time.perf_counter() - started)
    full, mixed = statistics.median(seconds[False]), statistics.median(seconds[True])
    reason = f"measured here: {1e3 * mixed:.1f} ms a step with bfloat16, {1e3 * full:.1f} without"
    return ("bf16-mixed" if mixed < full else "32-true"), reason
