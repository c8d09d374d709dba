"""Jobs in the background of this machine, each with a Ray of its own."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from distcnn.cluster.handle import Handle
from distcnn.cluster.job import Job
from distcnn.cluster.parcel import Parcel
from distcnn.cluster.registry import Remembered, state_directory
from distcnn.cluster.status import State, Status
from distcnn.cluster.ticket import TICKET
from distcnn.config_file import plain_to_yaml
from distcnn.errors import UserError
from distcnn.findings import Finding
from distcnn.orchestration.targets import ends_within
from distcnn.orchestration.targets.background import CODE, LOG, Background, start

# For the keeper to write down that its driver was killed.
_KILLED_SECONDS = 10.0


def render(job: Job, parcel: Parcel) -> str:
    """What would be started, and the files that it would find."""
    started = {
        "folder": str(_folder(job.id)),
        "files": sorted(parcel.files),
        "command": ["python", "-m", "distcnn.orchestration.driver", TICKET],
        "environment": dict(job.spec.environment),
        "secrets": list(job.spec.secrets),
    }
    return plain_to_yaml(started) + job.documents_text


def check(job: Job, parcel: Parcel) -> Iterator[Finding]:
    """Whether this machine has room for it."""
    cores = len(os.sched_getaffinity(0))
    free = psutil.virtual_memory().available / 2**30
    what = f"{cores} cores, {free:.1f} GiB of memory free"
    if job.spec.cpus_per_node > cores:
        remedy = f"set cluster.cpus_per_node={cores}"
        yield Finding(
            "fail", "machine", f"{what}; {job.spec.cpus_per_node} are asked for; {remedy}"
        )
    elif job.spec.memory_gib_per_node > free:
        remedy = "end something, or lower cluster.memory_gib_per_node"
        asked = f"{job.spec.memory_gib_per_node:g} GiB are asked for"
        yield Finding("fail", "machine", f"{what}; {asked}; {remedy}")
    else:
        yield Finding("ok", "machine", what)


def submit(job: Job, parcel: Parcel) -> Handle:
    """Start it, unless it runs.

    Raises:
        UserError: its folder cannot be written.
    """
    folder = _folder(job.id)
    handle = Handle("local", (), job.id)
    before = Background.read(folder)
    if before is not None and before.exit_code is None and before.is_alive:
        return handle
    # Ray finds a cluster by this variable; this job is to have its own.
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        parcel.unpack(folder / CODE)
        path = os.pathsep.join([str(folder / CODE), *filter(None, [environment.get("PYTHONPATH")])])
        start(
            folder,
            job.spec.max_retries,
            {**environment, **job.spec.environment, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
        )
    except OSError as error:
        raise UserError(
            f"cannot write {folder}: {error.strerror}; set DISTCNN_STATE_DIR to a folder of yours"
        ) from error
    return handle


def attach(remembered: Remembered) -> LocalJob:
    """Take hold of a job."""
    return LocalJob(_folder(remembered.handle.id))


class LocalJob:
    """A job on this machine, by its folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def status(self) -> Status:
        """How it is."""
        state = Background.read(self._folder)
        if state is None:
            return Status(State.LOST, detail=f"there is no job in {self._folder}")
        if state.exit_code is not None:
            return _ended(state, state.exit_code)
        if not state.is_alive:
            return Status(State.LOST, detail="its process was killed, or the machine restarted")
        if state.driver_pid is None:
            return Status(State.STARTING)
        return Status(State.RUNNING, detail="saving, to end" if state.is_stopping else "")

    def log(self, offset: int) -> bytes:
        """What its driver has printed, from so many bytes on."""
        try:
            with (self._folder / LOG).open("rb") as file:
                file.seek(offset)
                return file.read()
        except FileNotFoundError:
            return b""

    def stop(self, grace_seconds: int) -> None:
        """Have it save and end; kill it after the grace."""
        state = Background.read(self._folder)
        if state is None or state.exit_code is not None or not state.is_alive:
            return
        os.kill(state.pid, signal.SIGTERM)
        if ends_within(self, grace_seconds):
            return
        state = Background.read(self._folder)
        if state is not None and state.driver_pid is not None:
            # What it has started ends with it: `distcnn.orchestration.guardian` sees to that.
            with suppress(ProcessLookupError):
                os.kill(state.driver_pid, signal.SIGKILL)
        ends_within(self, _KILLED_SECONDS)


def _ended(state: Background, exit_code: int) -> Status:
    if exit_code >= 0:
        return Status.ended(exit_code)
    code = 128 - exit_code
    if state.is_stopping:
        return Status(State.STOPPED, code, "it did not save within its grace, and was killed")
    return Status(State.FAILED, code, f"its driver was killed by {signal.Signals(-exit_code).name}")


def _folder(job_id: str) -> Path:
    return state_directory() / "local" / job_id
