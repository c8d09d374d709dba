"""How many workers an elastic run has: as many as there is room for, within its bounds."""

from __future__ import annotations

import time
from collections.abc import Callable

from distcnn.config import RunConfig, WorkersConfig
from distcnn.orchestration.request import Request, capacity
from distcnn.orchestration.room import reserved
from distcnn.orchestration.session import alive_nodes, draining_nodes, free_nodes
from distcnn.progress import Watcher

# Ray learns so late, at most, that what ended workers had is free again.
_SETTLE_SECONDS = 5.0
_LOOK_EVERY_SECONDS = 0.25


def wait_for_room(
    config: RunConfig, limit_seconds: float, check: Callable[[], None], watcher: Watcher
) -> int:
    """Wait until there is room for as many workers as a run needs; how many to start.

    Args:
        config: resolved.
        limit_seconds: how long to wait.
        check: called while waiting; what it raises ends that.
        watcher: told that there is a wait.

    Raises:
        NoRoomError: it did not become free in time.
        UserError: it never can, as the cluster's autoscaler says.
    """
    workers = config.workers
    # Ray Train reserves it again, for the workers themselves.
    with reserved(Request.of(workers), limit_seconds, check, watcher):
        return _settled(workers, check) if workers.is_elastic else workers.count


def _settled(workers: WorkersConfig, check: Callable[[], None]) -> int:
    """How many there is room for, beside the least, which is reserved."""
    request = Request.of(workers)
    going = draining_nodes()
    staying = [node for node in alive_nodes() if node.id not in going]
    hoped_for = min(workers.count, capacity(request, staying))
    deadline = time.monotonic() + _SETTLE_SECONDS
    while True:
        count = min(workers.count, workers.least + num_more(workers))
        if count >= hoped_for or time.monotonic() > deadline:
            return count
        check()
        time.sleep(_LOOK_EVERY_SECONDS)


def num_more(workers: WorkersConfig) -> int:
    """How many further workers there is room for at the moment."""
    return capacity(Request.of(workers), free_nodes())


def with_count(config: RunConfig, count: int) -> RunConfig:
    """A run's config as an attempt with so many workers has it."""
    if config.workers.count == count and not config.workers.is_elastic:
        return config
    return config.with_values(workers={"count": count, "min": None, "max": None})
