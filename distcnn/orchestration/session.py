"""The Ray that a launch runs on: the cluster it is given, or one of its own on this machine."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distcnn import workload
from distcnn.cluster.request import Node
from distcnn.errors import UserError
from distcnn.files import write_atomically
from distcnn.location import Location
from distcnn.orchestration.guardian import guarded

# How Ray Train watches its workers; read by its controller, which runs on the driver's node.
TRAIN_SETTINGS = {
    # Seconds between two looks, and of a look where no worker has an answer: by default 2, which
    # is also how long each start and end waits.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",
    # Seconds without an answer after which a worker counts as hung: by default 600. A node that
    # falls silent is to be replaced within 45, of which its successors take 20 to start.
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "20",
    # Seconds for the workers of a group to be placed; waiting for nodes is done before that.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "30",
    # Whatever Ray Train does besides: nodes that are taken away are watched by the supervisor,
    # workers stay in their folder, and its logs and metrics are nobody's.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # When a driver leaves in a hurry, what it has left behind would start or join another Ray.
    "RAY_ENABLE_AUTO_CONNECT": "0",
    # Under `uv run` Ray would ship the working directory to every worker.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}
# What an embedded Ray does less often than it would, for its processes take their time from workers
# on the same cores: together 5 % of the throughput of a worker with two threads on two cores.
_QUIET_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_task_events_report_interval_ms": "0",
    "RAY_metrics_report_interval_ms": "60000",
    "RAY_raylet_check_gc_period_milliseconds": "10000",
    "RAY_memory_monitor_refresh_ms": "2000",
    "RAY_io_context_monitor_probe_interval_ms": "60000",
    "RAY_io_context_event_loop_lag_collection_interval_ms": "60000",
    "REPORTER_UPDATE_INTERVAL_MS": "60000",
}
_LOOPBACK = "127.0.0.1"
# What tells why workers ended: their output, a crash's stack among it, and Ray Train's own view.
_KEPT_LOGS = ("worker-*.err", "worker-*.out", "train/*.log")
# Nothing large goes through Ray's object store here.
_OBJECT_STORE_BYTES = 80 * 2**20
_KNOCK_SECONDS = 10.0
# Between two looks whether the head of a given cluster still answers.
_HEAD_SECONDS = 2.0
# Folders, which are looked for on every node.
FOLDERS = ("DISTCNN_DATA_DIR", "DISTCNN_CACHE_DIR", workload.FOLDER)
# Ray adds 65 characters for its sockets; the system takes 107.
_LONGEST_FOLDER = 40


@dataclass(frozen=True)
class Session:
    """A Ray that this process is connected to.

    Attributes:
        is_embedded: whether it is this launch's own, on this machine.
        folder: a private temporary folder of the driver.
        dashboard: its address; empty where there is none.
    """

    is_embedded: bool
    folder: Path
    dashboard: str = ""

    @property
    def logs(self) -> str:
        """Where Ray's and the workers' logs are."""
        import ray

        context = ray.get_runtime_context()
        return f"{context.get_temp_dir()}/{context.get_session_name()}/logs"

    def keep_logs(self, folder: Location) -> None:
        """Copy what workers and Ray Train have written, which an embedded Ray takes with it."""
        for pattern in _KEPT_LOGS:
            for path in sorted(Path(self.logs).glob(pattern)):
                if path.stat().st_size:
                    folder.mkdir(parents=True, exist_ok=True)
                    write_atomically(folder / path.name, path.read_bytes())

    @contextmanager
    def watching_head(self, notify: Callable[[str], None], place: Location) -> Generator[None]:
        """Say how to resume when the head of a given cluster stops answering.

        Ray itself ends this process about a minute later, without a word about the run.

        Args:
            notify: receives the message, from a thread of its own.
            place: the run or the sweep to be resumed.
        """
        if self.is_embedded:  # Its head ends with this process.
            yield
            return
        import ray

        address, over = ray.get_runtime_context().gcs_address, threading.Event()
        thread = threading.Thread(
            target=_watch_head,
            args=(address, over, notify, place),
            name="watching the head",
            daemon=True,
        )
        thread.start()
        try:
            yield
        finally:
            over.set()


def given_address(option: str | None) -> str | None:
    """The cluster to run on: `--address`, else `RAY_ADDRESS` (which a submitted job has set).

    Raises:
        UserError: it is an address of Ray Client.
    """
    address = option or os.environ.get("RAY_ADDRESS") or None
    if address is None or address == "local":
        return None
    if address.startswith("ray://"):
        raise UserError(
            f"{address} is an address of Ray Client, under which a training would end with the"
            " connection; run `distcnn launch` on a node of the cluster (--address auto), or"
            " submit it as a job"
        )
    return address


@contextmanager
def connected(address: str | None) -> Generator[Session]:
    """Connect to the cluster at `address`, or start one here where it is None.

    Raises:
        UserError: nothing answers at that address.
    """
    if address is None:
        _check_ray_is_not_imported()
    folder = _private_folder()
    if address is not None:
        with environment(TRAIN_SETTINGS), _removed(folder), _given(address, folder) as session:
            yield session
        return
    token = folder / "token"
    _write_private(token, secrets.token_hex(32))
    settings = {
        **TRAIN_SETTINGS,
        **_QUIET_SETTINGS,
        # Has Ray take the loopback address for the node's, as it does on a Mac.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # Other users of this machine can reach the loopback address too.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
    }
    with environment(settings), guarded(folder), _embedded(folder) as session:
        yield session


def _check_ray_is_not_imported() -> None:
    """Ray reads its settings when it is imported, so ours would come too late."""
    if "ray" in sys.modules:
        raise UserError(
            "ray was imported before a Ray could be started here with settings of its own (on the"
            " loopback address, with a token); import it later, or name a cluster's address"
        )


@contextmanager
def _sigterm_kept() -> Generator[None]:
    """Put back the handler of SIGTERM, which Ray replaces by one that exits with 15."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as error:
        if error.code != signal.SIGTERM:
            raise
        raise SystemExit(128 + signal.SIGTERM) from None  # It came while Ray started.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _embedded(folder: Path) -> Generator[Session]:
    import ray

    # From the main thread, if that is where we are: Ray's processes end with the thread that
    # started them.
    with _sigterm_kept():
        ray.init(
            address="local",
            num_cpus=len(os.sched_getaffinity(0)),
            object_store_memory=_OBJECT_STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=str(folder),
            _node_ip_address=_LOOPBACK,
        )
    _end_bystanders()
    _have_ray_print_nothing()
    try:
        yield Session(is_embedded=True, folder=folder)
    finally:
        ray.shutdown()


def _end_bystanders() -> None:
    """End what an embedded Ray has no use for: an autoscaler, a dashboard, a reader of logs.

    They would take time and memory from the workers, most of it while those start.
    """
    from ray._private.worker import global_worker

    node: Any = global_worker.node
    node.kill_monitor(check_alive=False)
    node.kill_dashboard(check_alive=False)
    node.kill_log_monitor(check_alive=False)


def _have_ray_print_nothing() -> None:
    """End the thread that prints ten lines of guesses, to stdout, on each worker that dies."""
    from ray._private.worker import global_worker

    worker: Any = global_worker
    worker.threads_stopped.set()
    worker.gcs_error_subscriber.close()
    worker.listener_thread.join()


@contextmanager
def _given(address: str, folder: Path) -> Generator[Session]:
    import ray

    try:
        _knock(address)
        with _sigterm_kept():
            context = ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        _have_ray_print_nothing()
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(
            f"no Ray cluster can be reached at {address}: {str(error).splitlines()[0]}."
            " See `ray status` there; without --address and RAY_ADDRESS, Ray is started here"
        ) from error
    try:
        yield Session(False, folder, dashboard=context.dashboard_url or "")
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Make sure that somebody listens there: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_SECONDS).close()


def _watch_head(
    address: str, over: threading.Event, notify: Callable[[str], None], place: Location
) -> None:
    while not over.wait(_HEAD_SECONDS):
        try:
            _knock(address)
        except OSError:
            if not over.is_set():
                notify(
                    f"The cluster's head at {address} does not answer; what was committed is safe."
                    " If it stays away for about a minute, Ray ends this process. Once it is back,"
                    f" or on another cluster, resume with: distcnn resume {place}"
                )
            return


def runtime_env() -> dict[str, dict[str, str]]:
    """What processes on other nodes need of the driver's environment."""
    folders = {name: os.environ[name] for name in FOLDERS if os.environ.get(name)}
    absolute = {name: str(Path(path).expanduser().absolute()) for name, path in folders.items()}
    return {"env_vars": absolute}


def alive_nodes() -> list[Node]:
    """The nodes of the cluster, by their total resources."""
    import ray

    return [
        Node(
            id=node["NodeID"],
            host=node["NodeManagerHostname"],
            resources=node["Resources"],
            labels=node.get("Labels") or {},
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def free_nodes() -> list[Node]:
    """The nodes that will stay, by what nobody uses of their resources at the moment."""
    from ray._private.state import available_resources_per_node

    free, going = available_resources_per_node(), draining_nodes()
    return [
        Node(node.id, node.host, free.get(node.id, {}), node.labels)
        for node in alive_nodes()
        if node.id not in going
    ]


def draining_nodes() -> set[str]:
    """The nodes that are about to be taken away, by their id."""
    from ray._private.state import state

    return set(state.get_draining_nodes())


def _private_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="distcnn-"))
    if len(str(folder)) > _LONGEST_FOLDER:
        folder.rmdir()
        folder = Path(tempfile.mkdtemp(prefix="distcnn-", dir="/tmp"))
    return folder


def _write_private(path: Path, content: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(content)


@contextmanager
def _removed(folder: Path) -> Generator[None]:
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def environment(settings: Mapping[str, str]) -> Generator[None]:
    """Set variables for the block, which the processes started in it inherit."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
