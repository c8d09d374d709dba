"""Where jobs are sent: a module for each target, loaded when it is named."""

from __future__ import annotations

import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from distcnn.cluster.handle import Handle, Target
from distcnn.cluster.job import Job
from distcnn.cluster.parcel import Parcel
from distcnn.cluster.registry import Remembered
from distcnn.cluster.status import Status
from distcnn.cluster.ticket import TICKET, Ticket
from distcnn.errors import UserError
from distcnn.findings import Finding

_LOOK_EVERY_SECONDS = 0.5


class OutOfReachError(UserError):
    """A cluster does not answer; it may do so again."""


class Attached(Protocol):
    """A job that was submitted, held by its handle."""

    def status(self) -> Status:
        """How it is; LOST where its cluster answers, and does not know it.

        Raises:
            OutOfReachError: its cluster does not answer.
        """
        ...

    def log(self, offset: int) -> bytes:
        """What its driver has printed, from so many bytes on; over all times it was taken up again.

        Raises:
            OutOfReachError: its cluster does not answer.
        """
        ...

    def stop(self, grace_seconds: int) -> None:
        """Have it save and end; kill it after the grace. Returns once it has ended.

        Raises:
            OutOfReachError: its cluster does not answer.
        """
        ...


class TargetModule(Protocol):
    """What a module here has."""

    def render(self, job: Job, parcel: Parcel) -> str:
        """Exactly what `submit` would send, for people; secrets by their names."""
        ...

    def check(self, job: Job, parcel: Parcel) -> Iterator[Finding]:
        """What can be found out before anything is sent, each line with its remedy."""
        ...

    def submit(self, job: Job, parcel: Parcel) -> Handle:
        """Send it. Idempotent: one of its id that has not ended is left as it is.

        Raises:
            UserError: it is refused, with the reason.
        """
        ...

    def attach(self, remembered: Remembered) -> Attached:
        """Take hold of a job."""
        ...


def ends_within(job: Attached, seconds: float) -> bool:
    """Whether a job has ended by then; returns as soon as it has.

    Raises:
        OutOfReachError: its cluster does not answer.
    """
    deadline = time.monotonic() + seconds
    while not job.status().state.has_ended:
        if time.monotonic() > deadline:
            return False
        time.sleep(_LOOK_EVERY_SECONDS)
    return True


def digest_in(code: Path) -> str | None:
    """Of the job whose parcel was unpacked in a folder; None where that is not done yet."""
    ticket = code / TICKET
    return Ticket.from_json(ticket.read_text(encoding="utf-8")).digest if ticket.exists() else None


def refuse_another_config(job: Job, digest: str | None, handle: Handle) -> None:
    """One id is one job: what is on its way has to be what is sent.

    Args:
        job: what is sent.
        digest: of what is on its way; None where that is not known.
        handle: of what is on its way.

    Raises:
        UserError: it is another.
    """
    if digest not in (None, job.digest):
        raise UserError(
            f"{handle} is on its way with another config; choose another --id, or stop it first:"
            f" distcnn cluster stop {handle}"
        )


def load(target: Target) -> TargetModule:
    """The module of a target."""
    return cast(TargetModule, import_module(f"distcnn.orchestration.targets.{target}_target"))
