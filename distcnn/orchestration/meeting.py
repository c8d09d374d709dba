"""How worker processes find each other, and what joins them."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from datetime import timedelta

import psutil
import ray
import torch
from torch import distributed

from distcnn.collectives import (
    TIMEOUT_SECONDS,
    Collectives,
    GroupCollectives,
    HostCollectives,
)

_TIMEOUT = timedelta(seconds=TIMEOUT_SECONDS)


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
        timeout=_TIMEOUT,
        wait_for_workers=False,
        master_listen_fd=server.detach(),
    )
    return store, f"{host}:{port}"


def find_store(address: str, count: int) -> distributed.TCPStore:
    """The first worker's store, for the other ones."""
    host, _, port = address.rpartition(":")
    return distributed.TCPStore(host, int(port), count, is_master=False, timeout=_TIMEOUT)


def join(
    store: distributed.Store,
    rank: int,
    pids: Sequence[int],
    *,
    use_gpu: bool,
    on_one_host: bool,
    is_lightnings: bool,
) -> Collectives:
    """Join the others in the fastest way.

    Args:
        store: in which they have met.
        rank: of this worker.
        pids: the workers' processes, by rank.
        use_gpu: whether they compute on GPUs, one each.
        on_one_host: whether all of them are.
        is_lightnings: whether Lightning adds up, which knows torch's process groups alone.
    """
    if on_one_host and not use_gpu and not is_lightnings:
        by_memory = HostCollectives(distributed.PrefixStore("memory", store), rank, pids)
        if by_memory.can_share():
            return by_memory
    _choose_interface(ray.util.get_node_ip_address())
    distributed.init_process_group(
        "nccl" if use_gpu else "gloo",
        store=store,
        rank=rank,
        world_size=len(pids),
        timeout=_TIMEOUT,
        device_id=torch.device("cuda", 0) if use_gpu else None,
    )
    return GroupCollectives()


def _choose_interface(address: str) -> None:
    """Have gloo use the network that Ray uses: by itself it asks the resolver for this host."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(entry.address == address for entry in addresses):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
