"""`distcnn doctor`: what this machine offers, and what will not work on it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from distcnn.data import fashion_mnist
from distcnn.data.cache import cache_directory
from distcnn.errors import UserError
from distcnn.findings import Finding

# A run keeps a few checkpoints of half a megabyte; the unpacked data are 55 MB.
_NEEDED_DISK_GIB = 0.5
# Peak of training the article's network.
_NEEDED_MEMORY_GIB = 1.2


def examine() -> list[Finding]:
    """Look at Python, torch, devices, memory, disk and data; nothing is changed or downloaded."""
    return [
        *_software(),
        *_devices(),
        _memory(),
        _disk("run directories", Path.cwd(), "--run-dir or storage.directory"),
        _disk("cache", cache_directory(), "DISTCNN_CACHE_DIR"),
        _data(),
    ]


def _software() -> Iterator[Finding]:
    yield Finding("ok", "Python", f"{platform.python_version()} at {sys.executable}")
    import pytorch_lightning
    import torch

    yield Finding("ok", "torch", torch.__version__)
    yield Finding("ok", "pytorch-lightning", pytorch_lightning.__version__)


def _devices() -> Iterator[Finding]:
    import torch

    from distcnn.training import precision
    from distcnn.training.provenance import cpu_name

    yield Finding("ok", "CPU", f"{cpu_name()}, {torch.get_num_threads()} threads for training")
    units = precision.bf16_units()
    if units:
        yield Finding("ok", "bfloat16 on the CPU", ", ".join(units))
    else:
        yield Finding("note", "bfloat16 on the CPU", "no units known: float32 will be used")
    if not torch.cuda.is_available():
        built_for = f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else ""
        yield Finding("note", "GPU", f"none: training runs on the CPU. {built_for}".rstrip())
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        yield Finding("ok", f"GPU {index}", f"{properties.name}, {_gib(properties.total_memory)}")


def _memory() -> Finding:
    import psutil

    memory = psutil.virtual_memory()
    what = f"{_gib(memory.available)} free of {_gib(memory.total)}"
    if memory.available < _NEEDED_MEMORY_GIB * 2**30:
        return Finding("fail", "memory", f"{what}; training takes {_NEEDED_MEMORY_GIB} GiB")
    return Finding("ok", "memory", what)


def _disk(subject: str, folder: Path, remedy: str) -> Finding:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    what = f"{_gib(shutil.disk_usage(existing).free)} free at {folder}"
    if not os.access(existing, os.W_OK):
        return Finding("fail", subject, f"{existing} cannot be written; set {remedy}")
    if shutil.disk_usage(existing).free < _NEEDED_DISK_GIB * 2**30:
        return Finding("fail", subject, f"{what}; free some space, or set {remedy}")
    return Finding("ok", subject, what)


def _data() -> Finding:
    try:
        at_hand = fashion_mnist.is_at_hand()
    except UserError as error:
        return Finding("fail", "Fashion-MNIST", str(error))
    if at_hand:
        return Finding("ok", "Fashion-MNIST", "all four files are at hand, and verified")
    return Finding(
        "note",
        "Fashion-MNIST",
        "not on this machine: `train` downloads 31 MB, or takes the synthetic set"
        " where it cannot; or set DISTCNN_DATA_DIR to a folder with the four .gz files",
    )


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / 2**30:.1f} GiB"
