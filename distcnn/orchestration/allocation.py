"""Runs a job within its Slurm allocation: Ray on all nodes, the driver on the first of them.

The batch script becomes this program on the first node. It starts the script again on each other
node, as a step of its own, there with the address of the first one's Ray.
"""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

from distcnn.cluster.slurm import CODE, SCRIPT, AllocationState
from distcnn.cluster.ticket import TICKET
from distcnn.errors import UserError
from distcnn.orchestration.guardian import guarded

# For a node to start Ray, from a file system that all nodes may be reading at the same time.
_JOINING_SECONDS = 300.0
_LOOK_EVERY_SECONDS = 0.2
_ENDING_SECONDS = 15.0
_KNOCK_SECONDS = 5.0
# Nothing large goes through Ray's object store here.
_OBJECT_STORE_BYTES = 100 * 10**6
_NUM_LOG_LINES = 20


@dataclass(frozen=True)
class _Asked:
    """What the script says on its last line."""

    folder: Path
    nodes: int
    cpus: int
    gpus: int
    max_retries: int
    address: str | None


def main() -> int:
    """Be the first node, or join it."""
    asked = _asked()
    signal.signal(signal.SIGTERM, _end)
    if asked.address is not None:
        return _join(asked, asked.address)
    return _Allocation(asked).run()


def _asked() -> _Asked:
    parser = argparse.ArgumentParser()
    for name in ("nodes", "cpus", "gpus", "max-retries"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("folder", type=Path)
    parser.add_argument("address", nargs="?")
    return _Asked(**vars(parser.parse_args()))


def _end(number: int, frame: FrameType | None) -> None:
    # Once: the way out is not to be left half-way.
    signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)


class _Allocation:
    """All nodes, seen from the first one."""

    def __init__(self, asked: _Asked) -> None:
        self._asked = asked
        self._state = AllocationState(
            slurm_id=os.environ["SLURM_JOB_ID"],
            restarts=int(os.environ.get("SLURM_RESTART_COUNT", "0")),
        )
        self._driver: subprocess.Popen[bytes] | None = None

    def run(self) -> int:
        """Returns the driver's exit code, which the folder keeps as well."""
        self._state.write(self._asked.folder)
        exit_code = 1
        try:
            exit_code = self._drive()
        except UserError as error:
            print(f"distcnn: {error}", file=sys.stderr)
        except SystemExit as end:
            assert isinstance(end.code, int)
            exit_code = end.code
        finally:
            self._tell(exit_code=exit_code)
        return exit_code

    def _tell(self, **changes: int) -> None:
        self._state = replace(self._state, **changes)
        self._state.write(self._asked.folder)

    def _drive(self) -> int:
        asked = self._asked
        if self._state.restarts > asked.max_retries:
            raise UserError(
                f"its nodes were lost, and cluster.max_retries = {asked.max_retries} does not have"
                " it taken up again; submit it again to go on"
            )
        first, *others = _nodes()
        with ExitStack() as stack:
            token = stack.enter_context(_token(asked.folder))
            # Before Ray is imported.
            os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(token))
            head = stack.enter_context(_head(asked, first))
            address = head.address()
            steps = {name: stack.enter_context(_step(asked, name, address)) for name in others}
            _wait_for_nodes(address, asked.nodes, {first: head, **steps})
            return self._driven(address)

    def _driven(self, address: str) -> int:
        code = self._asked.folder / CODE
        command = [sys.executable, "-m", "distcnn.orchestration.driver", str(code / TICKET)]
        signal.signal(signal.SIGTERM, self._pass_on)
        self._driver = subprocess.Popen(  # noqa: S603 - no user's text but the folder's path
            command, cwd=code, env={**os.environ, "RAY_ADDRESS": address}
        )
        self._tell(is_driving=True)
        exit_code = self._driver.wait()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        # As a shell has it, where a signal has ended it.
        return exit_code if exit_code >= 0 else 128 - exit_code

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        if self._driver is None:
            _end(number, frame)
        else:
            self._driver.send_signal(number)


def _nodes() -> list[str]:
    """Of this allocation, by the names that Slurm gives them; this one is the first."""
    command = ["scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]]
    listed = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603
    if listed.returncode != 0:
        raise UserError(f"the nodes of this allocation are unknown: {listed.stderr.strip()}")
    here = os.environ["SLURMD_NODENAME"]
    return [here, *(name for name in listed.stdout.split() if name != here)]


@contextmanager
def _token(folder: Path) -> Generator[Path]:
    """A file with a new token, without which nobody has this job's Ray do anything."""
    path = folder / "token"
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(secrets.token_hex(32))
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Started:
    """A process that keeps Ray going on a node, from here."""

    process: subprocess.Popen[bytes]
    output: Path

    @property
    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def complaint(self) -> str:
        """The end of what it has printed."""
        lines = self.output.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(f"  {line}" for line in lines[-_NUM_LOG_LINES:] if line.strip())


@dataclass(frozen=True)
class _Head(_Started):
    folder: Path

    def address(self) -> str:
        """Of its Ray, once that is up.

        Raises:
            UserError: it does not come up.
        """
        file = self.folder / "ray_current_cluster"
        deadline = time.monotonic() + _JOINING_SECONDS
        while not (file.is_file() and file.read_text(encoding="ascii")):
            if self.has_ended or time.monotonic() > deadline:
                raise UserError(f"Ray did not start on the first node:\n{self.complaint()}")
            time.sleep(_LOOK_EVERY_SECONDS)
        return file.read_text(encoding="ascii").strip()


@contextmanager
def _head(asked: _Asked, name: str) -> Generator[_Head]:
    # Ports are free ones, since other jobs may be on this node. There is no dashboard to look at.
    options = [
        *("--head", "--port=0", f"--ray-client-server-port={_free_port()}"),
        "--include-dashboard=false",
    ]
    output = _output(asked.folder, name)
    with output.open("wb") as file, _ray(asked, options, file.fileno()) as (process, folder):
        yield _Head(process, output, folder)


@contextmanager
def _step(asked: _Asked, name: str, address: str) -> Generator[_Started]:
    """Ray on another node: a step of its own, which no other node's end takes along.

    It ends with its input. Of a signal Slurm would make a SIGKILL for all of its processes, and
    their files would stay.
    """
    command = [
        *("srun", "--overlap", "--no-kill", "--nodes=1", "--ntasks=1", f"--nodelist={name}"),
        f"--cpus-per-task={asked.cpus}",
        *("bash", str(asked.folder / SCRIPT), address),
    ]
    output = _output(asked.folder, name)
    with output.open("wb") as file:
        process = subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.PIPE, stdout=file, stderr=file
        )
        with _ended_with(process):
            yield _Started(process, output)


def _join(asked: _Asked, address: str) -> int:
    is_told = threading.Event()
    with _ray(asked, [f"--address={address}"], None) as (process, _):

        def end_with_input() -> None:
            sys.stdin.buffer.read()
            is_told.set()
            process.terminate()

        threading.Thread(target=end_with_input, daemon=True).start()
        exit_code = process.wait()
    if not is_told.is_set() and not _answers(address):
        # The first node is gone, and the driver with it. Of a job with spare nodes (--no-kill)
        # Slurm would leave the others to themselves until the job's time is over.
        print("distcnn: the first node is gone; the job is to begin again", file=sys.stderr)
        command = ["scontrol", "requeue", os.environ["SLURM_JOB_ID"]]
        subprocess.run(command, check=False)  # noqa: S603
    return exit_code


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_KNOCK_SECONDS).close()
    except OSError:
        return False
    return True


@contextmanager
def _ray(
    asked: _Asked, options: list[str], output: int | None
) -> Generator[tuple[subprocess.Popen[bytes], Path]]:
    """Ray on this node, with a folder on its disk (the system takes no long names for sockets)."""
    folder = Path(tempfile.mkdtemp(prefix="distcnn-", dir="/tmp"))
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *options),
        *(f"--temp-dir={folder}", f"--node-name={os.environ['SLURMD_NODENAME']}"),
        *(f"--num-cpus={asked.cpus}", f"--num-gpus={asked.gpus}"),
        *(f"--object-store-memory={_OBJECT_STORE_BYTES}", "--disable-usage-stats"),
        "--dashboard-agent-listen-port=0",
    ]
    with guarded(folder):
        process = subprocess.Popen(command, stdout=output, stderr=output)  # noqa: S603
        with _ended_with(process):
            yield process, folder


@contextmanager
def _ended_with(process: subprocess.Popen[bytes]) -> Generator[None]:
    """Have it end with the block: by the end of its input if it has one, else by SIGTERM."""
    try:
        yield
    finally:
        if process.stdin is not None:
            process.stdin.close()
        else:
            process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_ENDING_SECONDS)
        process.kill()
        process.wait()


def _output(folder: Path, name: str) -> Path:
    return folder / f"ray-{name}.log"


def _free_port() -> int:
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


def _wait_for_nodes(address: str, least: int, started: Mapping[str, _Started]) -> None:
    """Wait until so many have joined; others may come later.

    Raises:
        UserError: they do not, naming who is missing.
    """
    from ray._raylet import GcsClient  # pyright: ignore[reportAttributeAccessIssue]

    client = GcsClient(address=address)
    deadline = time.monotonic() + _JOINING_SECONDS
    while True:
        joined = {info.node_name for info in client.get_all_node_info().values()}
        if len(joined & started.keys()) >= least:
            return
        lost = {name for name, each in started.items() if each.has_ended}
        if len(started.keys() - lost) < least or time.monotonic() > deadline:
            missing = sorted(started.keys() - joined | lost)
            said = "\n".join(f"{name}:\n{started[name].complaint()}" for name in missing)
            raise UserError(
                f"{', '.join(missing)} did not join the job's Ray at {address}; nodes have to"
                f" reach each other at any port, and to see {sys.executable}. They said:\n{said}"
            )
        time.sleep(_LOOK_EVERY_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
