"""What a pod does before it ends, whoever ends it: its job saves. Run by Kubernetes (preStop).

On the head it is the driver that is asked, by the signal that it knows from everywhere. It is
found by its command line: that needs neither the cluster nor a token to answer, at a moment when
everything is about to go. A worker's pod tells Ray that its node is going, and stays for as long
as workers run there: without them nothing could be saved.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from contextlib import suppress

import psutil

_LOOK_EVERY_SECONDS = 0.2
_KNOCK_SECONDS = 5.0
_DRIVER = ["-m", "distcnn.orchestration.driver"]
# Of Ray's own interface: DRAIN_NODE_REASON_PREEMPTION.
_PREEMPTION = 2
# What Ray has on every node; all else by such titles computes something.
_OF_EVERY_NODE = {"ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent"}


def main() -> int:
    """`head` or `worker`, and how many seconds there are."""
    role, seconds = sys.argv[1], float(sys.argv[2])
    deadline = time.monotonic() + seconds
    if role == "head":
        for driver in _drivers():
            with suppress(psutil.NoSuchProcess):
                driver.terminate()
    else:
        _announce(seconds)
    still_there = _drivers if role == "head" else _workers
    while still_there() and time.monotonic() < deadline:
        time.sleep(_LOOK_EVERY_SECONDS)
    return 0


def _drivers() -> list[psutil.Process]:
    return [process for process in psutil.process_iter() if _words(process)[1:3] == _DRIVER]


def _workers() -> list[psutil.Process]:
    """Ray's processes that have something to do, as their titles tell."""
    titles = {process: "".join(_words(process)[:1]) for process in psutil.process_iter()}
    return [
        process
        for process, title in titles.items()
        if title.startswith("ray::") and title.strip() not in _OF_EVERY_NODE
    ]


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return []


def _announce(seconds: float) -> None:
    """Have Ray know that this node is taken away, so that the job saves and goes on elsewhere."""
    address = os.environ["RAY_ADDRESS"]
    host, _, port = address.rpartition(":")
    try:
        # Ray's client would wait a minute for a head that is gone.
        socket.create_connection((host, int(port)), timeout=_KNOCK_SECONDS).close()
        # Slow to import, and the head needs it not.
        from ray._raylet import GcsClient  # pyright: ignore[reportAttributeAccessIssue]

        gcs = GcsClient(address=address)
        here = {address.address for each in psutil.net_if_addrs().values() for address in each}
        for node_id, node in gcs.get_all_node_info().items():
            if node.node_manager_address in here:
                deadline_ms = int(1000 * (time.time() + seconds))
                gcs.drain_node(node_id.hex(), _PREEMPTION, "its pod ends", deadline_ms)
    except Exception as error:  # noqa: BLE001 - the head may be gone; the pod ends anyway
        print(f"distcnn: Ray was not told that this node goes: {error}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
