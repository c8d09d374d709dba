"""One writer per run: a lease with a heartbeat, and an attempt number that fences off the rest.

Each attempt claims the run by creating `lease/attempt-NNNN.json`, which can succeed only once.
The highest number holds the run; its holder alone rewrites that file, to show that it lives. So
nothing is needed of the storage but "create unless it exists" (a hard link, which shared file
systems have as well; a put with If-None-Match), and clocks of different hosts are never compared.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Self

import psutil
from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from distcnn.errors import UserError
from distcnn.files import create_exclusively, write_atomically
from distcnn.location import Location

TIME_TO_LIVE_SECONDS = 30.0
_HEARTBEAT_SECONDS = 5.0
_POLL_SECONDS = 0.5
# A process's start is known by the wall clock, which may be set meanwhile.
_CLOCK_STEP_SECONDS = 10.0
_CLAIM = re.compile(r"attempt-(\d{6,})\.json").fullmatch


class RunBusyError(UserError):
    """Another living process writes to this run."""


class LeaseLostError(UserError):
    """A later attempt has taken the run over; this one may commit nothing more."""


@dataclass(frozen=True)
class Holder:
    """Who holds, or held, a run, as its lease file tells."""

    attempt: int
    host: str
    namespace: str
    pid: int
    process_started: float
    heartbeat: int = 0
    released: bool = False
    token: str = ""
    """Tells apart two claims of one attempt: the first one may have been deleted."""

    @classmethod
    def this_process(cls, attempt: int) -> Self:
        """The holder that this process would be."""
        return cls(
            attempt=attempt,
            host=socket.gethostname(),
            namespace=_process_namespace(),
            pid=os.getpid(),
            process_started=psutil.Process().create_time(),
            token=secrets.token_hex(8),
        )

    @classmethod
    def unknown(cls, attempt: int) -> Self:
        """Return the holder of a claim that cannot be read: it may be alive, on any host."""
        return cls(attempt, host="an unknown host", namespace="", pid=0, process_started=0.0)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}" if self.pid else "an unknown process"

    def encode(self) -> bytes:
        """The lease file's content."""
        return json.dumps(asdict(self)).encode()

    @property
    def is_here(self) -> bool:
        """Whether its process number means the same here: this host, start and container."""
        return (self.host, self.namespace) == (socket.gethostname(), _process_namespace())

    @property
    def is_alive_here(self) -> bool:
        """Whether it is a process of this host that still runs; False for any other host."""
        if self.released or not self.is_here:
            return False
        try:
            process = psutil.Process(self.pid)
            age_difference = abs(process.create_time() - self.process_started)
            same = age_difference < _CLOCK_STEP_SECONDS
            return same and process.status() != psutil.STATUS_ZOMBIE
        except (psutil.NoSuchProcess, ValueError, OverflowError):  # Numbers that no process has.
            return False


def current_holder(directory: Location) -> Holder | None:
    """Return the holder of the highest attempt, alive or not; None before the first attempt.

    A claim that cannot be read counts as one of an unknown process: if that is alive, its next
    heartbeat writes the claim again.
    """
    paths = {int(name[1]): path for path in directory.glob("*") if (name := _CLAIM(path.name))}
    if not paths:
        return None
    attempt = max(paths)
    try:
        return replace(_holder_type().validate_json(paths[attempt].read_bytes()), attempt=attempt)
    except (ValidationError, IsADirectoryError):
        return Holder.unknown(attempt)


@cache
def _holder_type() -> TypeAdapter[Holder]:
    return TypeAdapter(with_config(ConfigDict(strict=True, extra="forbid"))(Holder))


@dataclass(frozen=True)
class Fence:
    """What keeps the writers of one attempt from committing anything once a later one has begun.

    It can be given to another process, which then writes for the holder of the lease.
    """

    directory: Location
    attempt: int
    """From 1."""
    token: str = ""
    """Of the claim."""

    def check(self) -> None:
        """Make sure that the attempt is still the latest; to be called right before every commit.

        Raises:
            LeaseLostError: a later attempt holds the run.
        """
        holder = current_holder(self.directory)
        if holder is None or not self.is_of(holder):
            raise LeaseLostError(
                f"this run was taken over by {holder or 'nobody (its lease is gone)'};"
                " nothing more is written from here"
            )

    def is_of(self, holder: Holder) -> bool:
        """Return whether a claim is the one behind this fence, or may be: it cannot be read."""
        is_same = not holder.pid or holder.token == self.token
        return holder.attempt == self.attempt and is_same


def refuse_if_held_here(directory: Location) -> None:
    """Find out early what `Lease.acquire` would refuse at once.

    Raises:
        RunBusyError: the holder is a process of this host, and lives.
    """
    holder = current_holder(directory)
    if holder is not None and holder.is_alive_here:
        raise RunBusyError(
            f"{directory.parent} is being written by {holder}, which is alive;"
            " wait for it or stop it first"
        )


class Lease:
    """The right of this process to write to a run, kept alive by a thread until released."""

    def __init__(self, directory: Location, holder: Holder) -> None:
        self._directory = directory
        self._holder = holder
        self._writing = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease heartbeat", daemon=True)
        self._thread.start()

    @property
    def fence(self) -> Fence:
        """Of the current attempt."""
        return Fence(self._directory, self._holder.attempt, self._holder.token)

    @classmethod
    def acquire(
        cls, directory: Location, notify: Callable[[str], None], after_attempt: int = 0
    ) -> Self:
        """Take the run over, from nobody, from a holder that released it or from a dead one.

        A holder on this host is known to be dead at once; one on another host when its
        heartbeat has stood still for `TIME_TO_LIVE_SECONDS`, which is said while waiting.

        Args:
            directory: folder of the claims.
            notify: receives the reason for a wait.
            after_attempt: the latest attempt that the run's other files show. The claims may have
                been deleted, and reusing a number would not fence off its earlier writer.

        Raises:
            RunBusyError: the holder lives.
        """
        directory.mkdir(parents=True, exist_ok=True)
        while True:
            holder = current_holder(directory)
            if holder is not None:
                _wait_until_gone(directory, holder, notify)
            last = max(after_attempt, holder.attempt if holder else 0)
            mine = Holder.this_process(attempt=last + 1)
            if create_exclusively(_path(directory, mine.attempt), mine.encode()):
                return cls(directory, mine)

    def advance(self) -> Fence:
        """Begin the next attempt, so that nothing the workers of this one still write is read.

        Raises:
            LeaseLostError: another process holds the run.
        """
        with self._writing:
            self.fence.check()
            following = replace(self._holder, attempt=self._holder.attempt + 1)
            if not create_exclusively(
                _path(self._directory, following.attempt), following.encode()
            ):
                raise LeaseLostError(
                    f"this run was taken over by {current_holder(self._directory)};"
                    " nothing more is written from here"
                )
            self._holder = following
        return self.fence

    def release(self) -> None:
        """Give the run back, so that the next attempt need not wait."""
        self._ended.set()
        self._thread.join()
        released = replace(self._holder, released=True)
        # On a full disk this must not hide what went wrong before: our death is seen anyway.
        self._write(released)

    def _beat(self) -> None:
        while not self._ended.wait(_HEARTBEAT_SECONDS):
            with self._writing:
                self._holder = replace(self._holder, heartbeat=self._holder.heartbeat + 1)
                # A full disk must not end a run between checkpoints: the next beat may succeed.
                self._write(self._holder)

    def _write(self, holder: Holder) -> None:
        """Write the claim again, unless another process has claimed the same attempt."""
        with suppress(OSError, UserError):
            current = current_holder(self._directory)
            if current and current.attempt == holder.attempt and not self.fence.is_of(current):
                return
            write_atomically(_path(self._directory, holder.attempt), holder.encode())


def _wait_until_gone(directory: Location, holder: Holder, notify: Callable[[str], None]) -> None:
    if holder.released or (holder.is_here and not holder.is_alive_here):
        return
    refuse_if_held_here(directory)
    notify(
        f"{directory.parent} was last written by {holder}; waiting up to"
        f" {TIME_TO_LIVE_SECONDS:.0f} s for a sign of life"
    )
    deadline = time.monotonic() + TIME_TO_LIVE_SECONDS
    while time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
        latest = current_holder(directory)
        if latest is None or latest.released:
            return
        if latest != holder:
            raise RunBusyError(
                f"{directory.parent} is being written by {latest}, which is alive;"
                " wait for it or stop it there first"
            )


def _path(directory: Location, attempt: int) -> Location:
    return directory / f"attempt-{attempt:06d}.json"


def _process_namespace() -> str:
    """Tells apart the starts of a host and its containers; empty where the system does not say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""
