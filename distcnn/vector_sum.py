"""Adding up one vector of each worker, in the order of their ranks, by whatever joins them.

Sums of floating-point numbers depend on their order. Here it is the same whichever way is taken,
so that workers which come together anew, on fewer hosts say, go on with the same bits. (Among GPUs
the order is NCCL's own, which is fixed for as many GPUs joined in the same way.)
"""

from __future__ import annotations

import mmap
import os
import platform
import time
from typing import Protocol

import numpy as np
import torch
from torch import distributed

# A worker that is late by less is waited for by giving way to others on its core, and by more, by
# sleeping so long between two looks: it is saving, say, or its core is shared.
_GIVE_WAY_SECONDS = 0.02
_SLEEP_SECONDS = 0.0002
# For a worker that is stuck where Ray sees it answer; a save to slow storage has to fit in.
_TIMEOUT_SECONDS = 300.0
# Counters lie so far apart, in numbers of 8 bytes, that no two share a cache line.
_COUNTER_STRIDE = 16


class VectorSum(Protocol):
    """One way; made once by each worker, then called by all of them in step."""

    def __call__(self, vector: torch.Tensor) -> torch.Tensor:
        """The sum of all workers' vectors, which are alike in size from call to call."""
        ...


def choose(count: int, *, share_memory: bool) -> VectorSum:
    """The fastest way for `count` workers; `share_memory` where all are on one host, on CPUs."""
    if share_memory and shared_memory_works():
        return SharedMemorySum(count)
    return ProcessGroupSum(count)


def shared_memory_works() -> bool:
    """Whether it is known to: what x86 writes first is seen first, and Linux has memfd."""
    return hasattr(os, "memfd_create") and platform.machine() in ("x86_64", "AMD64")


class ProcessGroupSum:
    """By torch's process group: each worker adds up one part of all vectors, and tells the rest.

    As many bytes cross the network as in a ring.
    """

    def __init__(self, count: int) -> None:
        self._count = count

    def __call__(self, vector: torch.Tensor) -> torch.Tensor:
        """The sum of all workers' vectors."""
        if vector.is_cuda:
            distributed.all_reduce(vector)
            return vector
        size = -(-vector.numel() // self._count)
        padded = vector.new_zeros(self._count * size)
        padded[: vector.numel()] = vector
        received = torch.empty_like(padded)
        distributed.all_to_all_single(received, padded)
        part = _add_in_order(received.view(self._count, size))
        distributed.all_gather(list(padded.view(self._count, size)), part)
        return padded[: vector.numel()]


class SharedMemorySum:
    """By memory that workers of one host share: a sixth of the time of gloo's, for 100 KB.

    Each worker writes its vector into a place of its own, then counts it as written; once all have,
    each adds them up. There are two sets of places: a worker that is ahead writes into one while
    the others still read the other, and cannot be ahead by more, for it needs their next vectors.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._rank = distributed.get_rank()
        self._calls = 0

    def __call__(self, vector: torch.Tensor) -> torch.Tensor:
        """The sum of all workers' vectors."""
        if self._calls == 0:
            self._share(vector.numel())
        self._calls += 1
        places = self._places[self._calls % 2]
        places[self._rank] = vector
        self._counters[self._rank] = self._calls
        self._wait_for_all()
        return _add_in_order(places)

    def _share(self, size: int) -> None:
        """Map the first worker's memory; it has no name, so it goes with the last worker."""
        shape = (2, self._count, size)
        num_bytes = 4 * 2 * self._count * size
        counters_at = -(-num_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        total = counters_at + 8 * _COUNTER_STRIDE * self._count
        path: list[str | None] = [None]
        descriptor = -1
        if self._rank == 0:
            descriptor = os.memfd_create("distcnn")
            os.truncate(descriptor, total)
            path[0] = f"/proc/{os.getpid()}/fd/{descriptor}"
        distributed.broadcast_object_list(path)
        if self._rank != 0:
            assert path[0] is not None
            descriptor = os.open(path[0], os.O_RDWR)
        distributed.barrier()  # Before the first one closes what the others open.
        memory = mmap.mmap(descriptor, total)
        os.close(descriptor)
        floats = torch.frombuffer(memory, dtype=torch.float32, count=2 * self._count * size)
        self._places = floats.view(shape)
        every = np.frombuffer(memory, dtype=np.int64, offset=counters_at)
        self._counters = every[::_COUNTER_STRIDE]

    def _wait_for_all(self) -> None:
        """Wait until each worker has written its vector.

        One that is gone is waited for in vain: who started the workers sees that, and ends them.
        """
        calls = self._calls
        started: float | None = None
        for rank in range(self._count):
            while self._counters[rank] < calls:
                if started is None:
                    started = time.monotonic()
                waited = time.monotonic() - started
                if waited < _GIVE_WAY_SECONDS:
                    os.sched_yield()
                elif waited > _TIMEOUT_SECONDS:
                    raise RuntimeError(f"timed out waiting for worker {rank} to add up")
                else:
                    time.sleep(_SLEEP_SECONDS)


def _add_in_order(vectors: torch.Tensor) -> torch.Tensor:
    """The sum of `(count, size)` over the first dimension, from first to last."""
    total = vectors[0] + vectors[1]
    for vector in vectors[2:]:
        total += vector
    return total
