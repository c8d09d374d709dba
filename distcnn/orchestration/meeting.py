"""How worker processes come together as torch's process group."""

from __future__ import annotations

import os
import socket
from datetime import timedelta

import psutil
import ray
import torch
from torch import distributed

# For a worker that is stuck where Ray sees it answer; a save to slow storage has to fit in.
_COLLECTIVE_TIMEOUT = timedelta(seconds=300)


def open_store(count: int) -> tuple[distributed.TCPStore, str]:
    """The first worker's store, in which `count` workers meet, and its address.

    On a port that the system chooses: one chosen beforehand may be taken meanwhile. And on the
    node's address alone: left to itself, the store listens on all that the machine has.
    """
    host = ray.util.get_node_ip_address()
    server = socket.create_server((host, 0), backlog=1024)
    port: int = server.getsockname()[1]
    store = distributed.TCPStore(
        host,
        port,
        count,
        is_master=True,
        wait_for_workers=False,
        master_listen_fd=server.detach(),
    )
    return store, f"{host}:{port}"


def join(
    address: str, store: distributed.TCPStore | None, rank: int, count: int, use_gpu: bool
) -> None:
    """Form the default process group with the others.

    Args:
        address: of the first worker's store.
        store: that store, in the first worker itself.
        rank: of this worker.
        count: of workers.
        use_gpu: whether they compute on GPUs, one each.
    """
    if store is None:
        host, _, port = address.rpartition(":")
        store = distributed.TCPStore(host, int(port), count, is_master=False)
    _choose_interface(ray.util.get_node_ip_address())
    distributed.init_process_group(
        "nccl" if use_gpu else "gloo",
        store=store,
        rank=rank,
        world_size=count,
        timeout=_COLLECTIVE_TIMEOUT,
        device_id=torch.device("cuda", 0) if use_gpu else None,
    )


def _choose_interface(address: str) -> None:
    """Have gloo use the network that Ray uses: by itself it asks the resolver for this host."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(entry.address == address for entry in addresses):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
