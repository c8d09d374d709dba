"""What preflight has done on the nodes and by the workers: looking, writing, adding up."""

from __future__ import annotations

import hashlib
import os
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import distcnn
from distcnn import workload
from distcnn.config import RunConfig
from distcnn.data import dataset, fashion_mnist
from distcnn.errors import UserError
from distcnn.files import write_atomically
from distcnn.location import Location
from distcnn.training.trackers import check_installed

# A shared file system may show another node's file a little later.
_VISIBLE_WITHIN_SECONDS = 5.0
_MEASURED_SECONDS = 2.0
# Large enough for the bandwidth of a network to show.
_MEASURED_BYTES = 4 * 2**20


@dataclass(frozen=True)
class NodeFacts:
    """What a node says of itself."""

    host: str
    versions: dict[str, str]
    storage: str
    """What is wrong with it here; empty where nothing is."""
    data: str
    data_error: str
    data_sha256: str
    hardware: dict[str, Any]
    """With the GPU, where it was looked at from a place that has one."""
    lookup_seconds: float
    """For the names of this node and of the driver's, as who joins workers asks for them."""


@dataclass(frozen=True)
class WorkerFacts:
    """What a worker says of itself."""

    host: str
    node_id: str
    pid: int
    gpu: str
    """Its name; empty where there is none."""
    precision: str
    precision_reason: str
    hardware: dict[str, Any]


def software() -> dict[str, str]:
    """The versions that have to be equal on all nodes, and a digest of this package's files."""
    from distcnn.training import provenance

    digest = hashlib.sha256()
    package = Path(distcnn.__file__).parent
    for path in sorted(package.rglob("*.py")):
        digest.update(str(path.relative_to(package)).encode())
        digest.update(path.read_bytes())
    return provenance.versions() | {
        "distcnn": f"{distcnn.__version__} ({digest.hexdigest()[:8]})",
    }


def look_at_node(config: RunConfig, storage: Location, name: str, driver: str) -> NodeFacts:
    """Examine the node this runs on; leave a file of that name in the storage.

    Args:
        config: with its workers decided.
        storage: where the file is left.
        name: of the file.
        driver: the address of the driver's node.
    """
    data, data_error, data_sha256 = _look_at_data(config)
    return NodeFacts(
        host=socket.gethostname(),
        versions=software(),
        storage=_try_storage(storage, name),
        data=data,
        data_error=data_error,
        data_sha256=data_sha256,
        hardware=_hardware_seen(config),
        lookup_seconds=_time_lookups(driver),
    )


def _time_lookups(driver: str) -> float:
    began = time.perf_counter()
    with suppress(OSError):
        socket.getaddrinfo(socket.gethostname(), None)
    with suppress(OSError):
        socket.gethostbyaddr(driver)
    return time.perf_counter() - began


def _hardware_seen(config: RunConfig) -> dict[str, Any]:
    import torch

    from distcnn.training import provenance

    sees_gpu = bool(config.workers.gpus) and torch.cuda.is_available()
    sees = config if sees_gpu else config.with_values(workers={"gpus": 0})
    return provenance.hardware(sees)


DRIVERS_FILE = "driver"


def _try_storage(storage: Location, name: str) -> str:
    """Read what the driver wrote there, and write something of our own."""
    deadline = time.monotonic() + _VISIBLE_WITHIN_SECONDS
    while not (storage / DRIVERS_FILE).exists():
        if time.monotonic() > deadline:
            return "it does not see what the driver wrote there"
        time.sleep(0.2)
    try:
        write_atomically(storage / name, name.encode())
    except (OSError, UserError) as error:
        return f"it cannot write there: {error}"
    return ""


def _look_at_data(config: RunConfig) -> tuple[str, str, str]:
    """Where the data are on this node, what is wrong with them, and their digest."""
    try:
        check_installed(config)  # It is not data, but a node is told of what it lacks here.
        if config.workload is not None:
            workload.find(config.workload)
            return f"{config.workload} is there", "", ""
        if config.data.source == "synthetic":
            loaded = dataset.load("synthetic", None, lambda _: None)
            return "synthetic, drawn", "", loaded.sha256
        if fashion_mnist.is_at_hand(config.data.directory):
            return "Fashion-MNIST at hand, verified", "", dataset.FASHION_MNIST_SHA256
    except UserError as error:
        return "", str(error), ""
    mirror = fashion_mnist.reachable_mirror()
    if mirror is None:
        return "", "Fashion-MNIST is not there, and no mirror of it can be reached", ""
    return f"Fashion-MNIST can be downloaded from {mirror}", "", dataset.FASHION_MNIST_SHA256


class ProbeWorker:
    """An actor in a worker's place, with a worker's resources."""

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self._store: Any = None

    def offer_address(self, count: int) -> str:
        """Where the others are waited for, by the first of them."""
        from distcnn.orchestration.meeting import open_store

        self._store, address = open_store(count)
        return address

    def look(self, config: RunConfig) -> WorkerFacts:
        """Examine what this worker was given."""
        import ray
        import torch

        from distcnn.training import precision

        use_gpu = bool(config.workers.gpus) and torch.cuda.is_available()
        device = torch.device("cuda" if use_gpu else "cpu")
        chosen, reason = precision.decide(config, device)
        return WorkerFacts(
            host=socket.gethostname(),
            node_id=ray.get_runtime_context().get_node_id(),
            pid=os.getpid(),
            gpu=torch.cuda.get_device_name(0) if use_gpu else "",
            precision=chosen,
            precision_reason=reason,
            hardware=_hardware_seen(config),
        )

    def add_up(
        self, address: str, pids: list[int], use_gpu: bool, on_one_host: bool, threads: int
    ) -> tuple[str, float]:
        """Add up with the others, for two seconds, as training does.

        Returns:
            what joins them, and the MB/s that each sends and receives.
        """
        import torch

        from distcnn.orchestration.meeting import find_store, join
        from distcnn.summation import InTurn

        torch.set_num_threads(threads)
        count = len(pids)
        store = self._store or find_store(address, count)
        together = join(
            store, self._rank, pids, use_gpu=use_gpu, on_one_host=on_one_host, is_lightnings=False
        )
        vector = torch.empty(_MEASURED_BYTES // 4, device="cuda" if use_gpu else "cpu")
        in_turn = InTurn(count)
        rounds, began, elapsed = -1, 0.0, 0.0  # The first one does not count: it sets up.
        while True:
            # The first worker looks at the clock for all, and adds what it sees.
            goes_on = self._rank == 0 and elapsed < _MEASURED_SECONDS
            vector.fill_(1.0)[-1] = float(goes_on)
            total = together.add_up([vector], in_turn)
            is_last = not total[-1].item()
            rounds += 1
            began = began or time.perf_counter()
            elapsed = time.perf_counter() - began
            if is_last:
                break
        if not bool((total[:-1] == count).all()):
            raise UserError(f"the sum of {count} ones came out as {total[0].item():g}")
        together.close()
        # What a ring moves per worker: https://arxiv.org/abs/1802.05799
        moved = 2 * (count - 1) / count * _MEASURED_BYTES * rounds
        return together.name, moved / elapsed / 1e6
