"""Jobs in the background of this machine, each with a Ray of its own."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
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
from distcnn.files import read_from
from distcnn.findings import Finding
from distcnn.orchestration.session import FOLDERS
from distcnn.orchestration.targets import digest_in, ends_within, refuse_another_config
from distcnn.orchestration.targets.background import (
    CODE,
    LOG,
    Background,
    ask_to_end,
    is_to_end,
    runs,
    start,
    to_be_started,
)

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
        UserError: its folder cannot be written, or one of its id runs, with another config.
    """
    folder = _folder(job.id)
    handle = Handle("local", (), job.id)
    try:
        with to_be_started(folder) as lock:
            if lock is None:
                refuse_another_config(job, digest_in(folder / CODE), handle)
                return handle
            shutil.rmtree(folder / CODE, ignore_errors=True)
            parcel.unpack(folder / CODE)
            environment = _environment(job, folder / CODE)
            start(folder, lock, job.submission, job.spec.max_retries, environment)
    except OSError as error:
        raise UserError(
            f"cannot write {folder}: {error.strerror}; set DISTCNN_STATE_DIR to a folder of yours"
        ) from error
    return handle


def _environment(job: Job, code: Path) -> dict[str, str]:
    # Ray finds a cluster by RAY_ADDRESS; this job is to have its own.
    inherited = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    for name in FOLDERS:  # The driver's working directory is another.
        if inherited.get(name):
            inherited[name] = str(Path(inherited[name]).expanduser().absolute())
    path = os.pathsep.join([str(code), *filter(None, [inherited.get("PYTHONPATH")])])
    return {**inherited, **job.spec.environment, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


def attach(remembered: Remembered) -> LocalJob:
    """Take hold of a job."""
    return LocalJob(_folder(remembered.handle.id))


class LocalJob:
    """A job on this machine, by its folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def status(self) -> Status:
        """How it is."""
        is_running, state = runs(self._folder), Background.read(self._folder)
        if is_running and (state is None or state.exit_code is not None):
            return Status(State.STARTING)
        if is_running:
            is_stopping = is_to_end(self._folder)
            return Status(State.RUNNING, None, "saving, to end" if is_stopping else "", is_stopping)
        if state is None:
            return Status(State.LOST, detail=f"there is no job in {self._folder}")
        if state.exit_code is None:
            what = "its processes were killed, or the machine was restarted"
            return Status(State.LOST, detail=what)
        if state.exit_code == -signal.SIGKILL and is_to_end(self._folder):
            what = "it did not save within its grace, and was killed"
            return Status(State.STOPPED, 128 + signal.SIGKILL, what)
        return Status.ended(state.exit_code)

    def log(self, offset: int) -> bytes:
        """What its driver has printed, from so many bytes on."""
        return read_from(self._folder / LOG, offset)

    def stop(self, grace_seconds: int) -> None:
        """Have it save and end; kill it after the grace."""
        if self.status().state.has_ended:
            return
        ask_to_end(self._folder, signal.SIGTERM)
        if ends_within(self, grace_seconds):
            return
        # What it has started ends with it: `distcnn.orchestration.guardian` sees to that.
        ask_to_end(self._folder, signal.SIGKILL)
        if not ends_within(self, _KILLED_SECONDS):
            raise UserError(f"the job in {self._folder} goes on, though its driver was killed")


def _folder(job_id: str) -> Path:
    return state_directory() / "local" / job_id
