"""Real worker processes that have met in a process group, and do together what a test asks."""

from __future__ import annotations

import itertools
import os
import pickle
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

from torch.distributed import distributed_c10d

from distcnn.collectives import Collectives, GroupCollectives, HostCollectives
from tests.forked import context

# To start, and for each piece of work; a machine that is busy with something else is no failure.
_TIMEOUT_SECONDS = 60.0


# The processes are called in step, so they count alike.
_names = itertools.count()


def join(way: type, rank: int, count: int) -> Collectives:
    """In a worker process: collectives of that kind, as if the workers had just met."""
    if way is GroupCollectives:
        return GroupCollectives()
    return HostCollectives(fresh_store(), rank, pids_of(count))


def fresh_store() -> distributed_c10d.Store:
    """In a worker process: a store in which nobody has said anything."""
    store = distributed_c10d._get_default_store()
    return distributed_c10d.PrefixStore(f"{next(_names)}", store)


def pids_of(count: int) -> list[int]:
    """In a worker process: all of them, by rank."""
    pids = [0] * count
    distributed_c10d.all_gather_object(pids, os.getpid())
    return pids


class WorkerProcesses:
    """`count` processes, joined by gloo on the loopback interface; none outlives the block."""

    def __init__(self, count: int, folder: Path) -> None:
        self.count = count
        self._processes = []
        self._connections: list[Connection] = []
        for rank in range(count):
            ours, theirs = context.Pipe()
            arguments = theirs, rank, count, str(folder / "store")
            process = context.Process(target=_serve, args=arguments, daemon=True)
            process.start()
            theirs.close()
            self._processes.append(process)
            self._connections.append(ours)

    def __enter__(self) -> WorkerProcesses:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self._processes:
            process.kill()
            process.join()
            process.close()
        for connection in self._connections:
            connection.close()

    def call(self, work: Callable[..., Any], *arguments: Any) -> list[Any]:
        """What `work(rank, count, *arguments)` returns in each process, by rank.

        `work` is a function of a module, which each process imports.
        """
        # Not by `send`: torch would have tensors travel in shared memory.
        message = pickle.dumps((work, arguments))
        for connection in self._connections:
            connection.send_bytes(message)
        deadline = time.monotonic() + _TIMEOUT_SECONDS
        results: list[Any] = []
        for rank, connection in enumerate(self._connections):
            assert connection.poll(max(0, deadline - time.monotonic())), f"worker {rank} is stuck"
            failure, result = pickle.loads(connection.recv_bytes())
            assert failure is None, f"worker {rank}: {failure}"
            results.append(result)
        return results


def _serve(connection: Connection, rank: int, count: int, store: str) -> None:
    from torch import distributed

    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    distributed.init_process_group(
        "gloo",
        store=distributed.FileStore(store, count),
        rank=rank,
        world_size=count,
        timeout=timedelta(seconds=_TIMEOUT_SECONDS),
    )
    while True:
        try:
            message = connection.recv_bytes()
        except EOFError:
            return
        try:
            work, arguments = pickle.loads(message)
            answer = None, work(rank, count, *arguments)
        except Exception:  # noqa: BLE001 - told to the test
            answer = traceback.format_exc(), None
        connection.send_bytes(pickle.dumps(answer))
