"""Room for workers on a cluster: reserved when it is free, waited for aloud when it is not."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from distcnn.cluster.request import Request, shortfall
from distcnn.errors import UserError
from distcnn.orchestration import autoscaler
from distcnn.orchestration.session import alive_nodes
from distcnn.progress import Watcher
from distcnn.wording import duration

# What is free is reserved within this time.
_PATIENCE_SECONDS = 1.5
_SAY_EVERY_SECONDS = 30.0
_LOOK_EVERY_SECONDS = 0.5
# An autoscaler's verdict has to hold for so long: one report may be older than what it is about.
_SURE_AFTER_SECONDS = 10.0
_AFTERWARDS = "What was committed is safe: once there is room, run the same again or resume the run"


class NoRoomError(UserError):
    """What is asked for did not become free in time."""


@contextmanager
def reserved(
    request: Request,
    limit_seconds: float,
    check: Callable[[], None],
    watcher: Watcher,
    *,
    has_run: bool = False,
    waited_seconds: float = 0.0,
) -> Generator[PlacementGroup]:
    """Hold what is asked for until the end of the block.

    Waits until it is free. An autoscaler sees what is waited for, and adds nodes.

    Args:
        request: what is asked; it can be met in principle.
        limit_seconds: how long to wait.
        check: called while waiting; what it raises ends that.
        watcher: told that there is a wait, and again every half a minute.
        has_run: there was room once; nodes that are gone may come again, whoever brings them, so
            that an autoscaler which knows of none does not end the wait.
        waited_seconds: of the limit, those that are over.

    Raises:
        NoRoomError: it did not become free in time.
        UserError: it never can, as the cluster's autoscaler says.
    """
    group = placement_group(
        [dict(request.resources)] * request.count,
        strategy=request.strategy,
        bundle_label_selector=[request.selector] * request.count,
    )
    began = last_possible = time.monotonic()
    say_at = waited_seconds + _PATIENCE_SECONDS
    try:
        while not group.wait(_LOOK_EVERY_SECONDS):
            check()
            now = time.monotonic()
            if has_run or not autoscaler.can_never_place(group):
                last_possible = now
            elif now - last_possible > _SURE_AFTER_SECONDS:
                raise UserError(_impossible(request))
            waited = waited_seconds + now - began
            if waited > limit_seconds:
                raise NoRoomError(
                    f"{request} did not become free within {duration(limit_seconds)}"
                    f" (recovery.wait_for_workers_seconds). {_what_is_free()}\n{_AFTERWARDS}"
                )
            if waited >= say_at:
                say_at += _SAY_EVERY_SECONDS
                watcher.note(
                    f"Waiting for {request}, {duration(waited)} of {duration(limit_seconds)}."
                    f" {_what_is_free()}"
                )
        yield group
    finally:
        remove_placement_group(group)


def _impossible(request: Request) -> str:
    lacking = shortfall(request, alive_nodes()) or f"the cluster can never run {request}"
    return f"{lacking}\n  its autoscaler: cannot add such nodes, or as many\n{_AFTERWARDS}"


def _what_is_free() -> str:
    free: Mapping[str, float] = ray.available_resources()
    total: Mapping[str, float] = ray.cluster_resources()
    parts = [
        f"{free.get(name, 0):g} of {total[name]:g} {name}"
        for name in ("CPU", "GPU")
        if total.get(name)
    ]
    return f"Free now: {', '.join(parts) or 'nothing'} on {len(alive_nodes())} node(s)."
