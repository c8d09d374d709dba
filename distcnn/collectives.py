"""What all workers do together: adding up, gathering, spreading; by whatever joins them.

Sums of floating-point numbers depend on their order. Here it is that of a `Summation`, whichever
way is taken, so that workers which come together anew, on fewer hosts say, go on with the same
bits. (Among GPUs, where the workers' vectors are added in turn, the order is NCCL's own, which is
fixed for as many GPUs joined in the same way.)
"""

from __future__ import annotations

import mmap
import os
import platform
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import distributed

from distcnn.summation import InTurn, Summation

# A worker that is late by less is waited for by giving way to others on its core, and by more, by
# sleeping so long between two looks: it is saving, say, or its core is shared.
_GIVE_WAY_SECONDS = 0.02
_SLEEP_SECONDS = 0.0002
# For a worker that is stuck where Ray sees it answer; a save to slow storage has to fit in.
TIMEOUT_SECONDS = 300.0
# Counters lie so far apart, in numbers of 8 bytes, that no two share a cache line.
_COUNTER_STRIDE = 16
_MEMORY_NAME = "distcnn"


class Collectives(Protocol):
    """One way; made once by each worker, then called by all of them in step."""

    @property
    def name(self) -> str:
        """What joins the workers."""
        ...

    def add_up(self, rows: Sequence[torch.Tensor], summation: Summation) -> torch.Tensor:
        """The sum of all workers' rows: vectors, which are alike in size from call to call.

        Args:
            rows: this worker's, as many as the summation leaves it with.
            summation: the order, the same in all calls.
        """
        ...

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        """All workers' rows, `(n, ...)` each and n its own, in the order of their ranks."""
        ...

    def broadcast(self, content: bytes | None) -> bytes | None:
        """The first worker's content, to all."""
        ...

    def close(self) -> None:
        """Part; nothing is called any more."""


class PeerError(Exception):
    """Another worker is gone, or does not take part."""


def host_memory_works() -> bool:
    """Whether it is known to: what x86 writes first is seen first, and Linux has memfd."""
    return hasattr(os, "memfd_create") and platform.machine() in ("x86_64", "AMD64")


class GroupCollectives:
    """By torch's default process group. With a row per worker, it sends as much as in a ring."""

    def __init__(self) -> None:
        self.name = distributed.get_backend()
        self._rank = distributed.get_rank()
        self._count = distributed.get_world_size()

    def add_up(self, rows: Sequence[torch.Tensor], summation: Summation) -> torch.Tensor:
        """Each worker adds up one part of all rows, and tells the rest."""
        if rows[0].is_cuda and isinstance(summation, InTurn):
            distributed.all_reduce(rows[0])
            return rows[0]
        num_rows, length = summation.num_rows, rows[0].numel()
        size = -(-length // self._count)
        padded = rows[0].new_zeros(len(rows), self._count * size)
        for index, row in enumerate(rows):
            padded[index, :length] = row
        # To each worker go its parts of all rows, together.
        parts = padded.view(len(rows), self._count, size).transpose(0, 1).contiguous()
        received = parts.new_empty(sum(num_rows), size)
        distributed.all_to_all_single(
            received.view(-1),
            parts.view(-1),
            [count * size for count in num_rows],
            [len(rows) * size] * self._count,
        )
        total = parts.new_empty(self._count, size)
        distributed.all_gather(list(total), summation.add_all(received))
        return total.view(-1)[:length]

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        """By a sum, which is exact: to each row the others add zeros."""
        counts = torch.zeros(self._count, dtype=torch.int64, device=rows.device)
        counts[self._rank] = len(rows)
        distributed.all_reduce(counts)
        ends = list(accumulate(counts.tolist()))
        everything = rows.new_zeros(ends[-1], *rows.shape[1:])
        everything[ends[self._rank] - len(rows) : ends[self._rank]] = rows
        distributed.all_reduce(everything)
        return everything

    def broadcast(self, content: bytes | None) -> bytes | None:
        """The first worker's content, to all."""
        holder = [content]
        distributed.broadcast_object_list(holder)
        return holder[0]

    def close(self) -> None:
        """End the process group."""
        distributed.destroy_process_group()


class HostCollectives:
    """By memory that the workers of one host share: a sum in a sixth of gloo's time, for 100 KB.

    No process group is formed: gloo's thread wakes a hundred times a second, with nothing to do.

    In a sum each worker writes its rows into places of its own, then counts them as written; once
    all have, each adds them up. There are two sets of places: a worker that is ahead writes into
    one while the others still read the other, and cannot be ahead by more, for it needs their next
    rows.

    A worker that is gone is waited for in vain: who started the workers sees that, and ends them.

    Any of its methods may raise `PeerError`.
    """

    name = "shared memory"

    def __init__(self, store: distributed.Store, rank: int, pids: Sequence[int]) -> None:
        """Args: where the workers meet, this one's rank, and their processes by rank."""
        self._store = store
        self._rank = rank
        self._pids = pids
        self._count = len(pids)
        self._num_told = 0
        self._num_sums = 0

    def can_share(self) -> bool:
        """Whether all workers can open each other's memory; all of them have the same answer.

        Containers, and systems set up to be strict, may keep processes apart.
        """
        with ExitStack() as shown:
            number, can = "", host_memory_works()
            try:
                if can:
                    number = shown.enter_context(_shown(b""))
                for rank, told in enumerate(self._tell(number)):
                    os.close(self._open(rank, told))
            except (OSError, PeerError):
                can = False
            return set(self._tell("can" if can else "cannot")) == {"can"}

    def add_up(self, rows: Sequence[torch.Tensor], summation: Summation) -> torch.Tensor:
        """The sum of all workers' rows."""
        if self._num_sums == 0:
            self._share(sum(summation.num_rows), rows[0].numel())
            self._first_row = sum(summation.num_rows[: self._rank])
        self._num_sums += 1
        places = self._places[self._num_sums % 2]
        for place, row in zip(places[self._first_row :], rows, strict=False):
            place.copy_(row)
        self._counters[self._rank] = self._num_sums
        self._wait_for_all()
        return summation.add_all(places)

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        """All workers' rows in the order of their ranks."""
        parts = self._exchange(rows.contiguous().numpy().tobytes())
        everything = np.frombuffer(b"".join(parts), dtype=rows.numpy().dtype)
        return torch.from_numpy(everything.reshape(-1, *rows.shape[1:]).copy())

    def broadcast(self, content: bytes | None) -> bytes | None:
        """The first worker's content, to all; a byte before it tells it from None."""
        mine = b"" if content is None else b"+" + content
        first = self._exchange(mine if self._rank == 0 else b"")[0]
        return first[1:] if first else None

    def close(self) -> None:
        """The first one, with whom the store goes, waits for the others; then all memory goes."""
        self._store.set(f"parted/{self._rank}", "")
        if self._rank == 0:
            self._store.wait([f"parted/{rank}" for rank in range(self._count)])

    def _exchange(self, content: bytes) -> list[bytes]:
        """What each worker has to say, by rank."""
        with _shown(content) as number:
            contents = [self._read(rank, told) for rank, told in enumerate(self._tell(number))]
            self._tell("read")  # Before anybody takes away what the others read.
        return contents

    def _read(self, rank: int, number: str) -> bytes:
        with os.fdopen(self._open(rank, number), "rb") as file:
            return file.read()

    def _open(self, rank: int, number: str) -> int:
        """What a worker shows under a number; only what workers show is ever opened.

        Others on this machine could write into the store in which the workers meet.
        """
        try:
            shown = Path(f"/proc/{self._pids[rank]}/fd/{int(number)}")
            if shown.readlink().name != f"memfd:{_MEMORY_NAME} (deleted)":
                raise PeerError(f"what worker {rank} shows is not memory of a worker")
            return os.open(shown, os.O_RDWR)
        except (OSError, ValueError) as error:
            raise PeerError(f"worker {rank} is gone, with its memory: {error}") from error

    def _tell(self, text: str) -> list[str]:
        """A few words of each worker, by rank."""
        self._num_told += 1
        self._store.set(f"{self._num_told}/{self._rank}", text)
        texts = [self._hear(rank) for rank in range(self._count)]
        # All have come so far, so nobody reads any more what was told the last time.
        self._store.delete_key(f"{self._num_told - 1}/{self._rank}")
        return texts

    def _hear(self, rank: int) -> str:
        try:
            return self._store.get(f"{self._num_told}/{rank}").decode()
        except distributed.DistNetworkError as error:
            raise PeerError(f"worker 0 is gone, with the store: {error}") from error
        except distributed.DistStoreError as error:
            raise _silent(rank) from error

    def _share(self, num_rows: int, size: int) -> None:
        """Map the first worker's memory; it has no name, so it goes with the last worker."""
        num_bytes = 4 * 2 * num_rows * size
        counters_at = -(-num_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        total = counters_at + 8 * _COUNTER_STRIDE * self._count
        with _shown(b"") as number:
            os.truncate(int(number), total)
            descriptor = self._open(0, self._tell(number)[0])
            memory = mmap.mmap(descriptor, total)
            os.close(descriptor)
            self._tell("mapped")  # Before the first one takes away what the others map.
        floats = torch.frombuffer(memory, dtype=torch.float32, count=2 * num_rows * size)
        self._places = floats.view(2, num_rows, size)
        every = np.frombuffer(memory, dtype=np.int64, offset=counters_at)
        self._counters = every[::_COUNTER_STRIDE]

    def _wait_for_all(self) -> None:
        """Wait until each worker has written its rows."""
        started: float | None = None
        for rank in range(self._count):
            while self._counters[rank] < self._num_sums:
                if started is None:
                    started = time.monotonic()
                waited = time.monotonic() - started
                if waited < _GIVE_WAY_SECONDS:
                    os.sched_yield()
                elif waited > TIMEOUT_SECONDS:
                    raise _silent(rank)
                else:
                    time.sleep(_SLEEP_SECONDS)


@contextmanager
def _shown(content: bytes) -> Generator[str]:
    """The number by which others can open memory with that content, until the end of the block."""
    descriptor = os.memfd_create(_MEMORY_NAME)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        yield str(descriptor)
    finally:
        os.close(descriptor)


def _silent(rank: int) -> PeerError:
    return PeerError(
        f"worker {rank} has not taken part for {TIMEOUT_SECONDS:.0f} s: it is stuck, or waits for"
        " storage that is slow"
    )
