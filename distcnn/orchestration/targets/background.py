"""Keeps a job's driver going in the background of this machine: `python -m ...background FOLDER`.

A driver that is killed is started again, as often as the job allows. The keeper, and the driver
too, hold the lock of the job's folder for as long as they live: the job runs while it is held.
`state.json` tells the rest.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distcnn.cluster.ticket import TICKET
from distcnn.errors import UserError
from distcnn.files import read_json, write_atomically

CODE = "code"
LOG = "log"
_STATE = "state.json"
_LOCK = "lock"
# Whoever wants a job to end leaves it here: its driver is then not started again.
_STOP = "stop"
_LOOK_EVERY_SECONDS = 0.05
# Others hold the lock for a moment, to see whether it is free.
_MOMENT_SECONDS = 0.5


@dataclass(frozen=True)
class Background:
    """How a job is, as its keeper writes it down."""

    submission: str
    driver_pid: int
    exit_code: int | None = None
    """The driver's; negative where a signal ended it."""

    def write(self, folder: Path) -> None:
        """Replace what the folder tells."""
        write_atomically(folder / _STATE, json.dumps(asdict(self)).encode())

    @classmethod
    def read(cls, folder: Path) -> Background | None:
        """What the folder tells; None where it has no such job."""
        path = folder / _STATE
        return cls(**read_json(path)) if path.is_file() else None


def runs(folder: Path) -> bool:
    """Whether the keeper or the driver of the job in a folder is alive."""
    if not (folder / _LOCK).exists():
        return False
    with _opened(folder) as lock:
        return not _is_locked(lock)


@contextmanager
def to_be_started(folder: Path) -> Generator[int | None]:
    """The lock of the job in a folder, held; None where the job runs already."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    with _opened(folder) as lock:
        deadline = time.monotonic() + _MOMENT_SECONDS
        while not (is_ours := _is_locked(lock)) and time.monotonic() < deadline:
            time.sleep(_LOOK_EVERY_SECONDS)
        yield lock if is_ours else None


@contextmanager
def _opened(folder: Path) -> Generator[int]:
    lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        yield lock
    finally:
        os.close(lock)


def _is_locked(lock: int) -> bool:
    """Lock it; whether that was possible. It is free once nobody has it open any more."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def start(
    folder: Path, lock: int, submission: str, max_retries: int, environment: dict[str, str]
) -> None:
    """Begin to keep a job, as a process of its own that outlives this one and its terminal.

    Args:
        folder: the job's, with its code unpacked.
        lock: of the folder, held; it goes over to the keeper.
        submission: for the keeper to write down.
        max_retries: how often the driver may be started again.
        environment: of the keeper and the driver.

    Raises:
        UserError: the process has ended at once.
    """
    (folder / _STOP).unlink(missing_ok=True)
    if (folder / LOG).exists():  # Of an earlier submission, which has ended.
        (folder / LOG).replace(folder / f"{LOG}.before")
    command: list[Any] = [sys.executable, "-m", __name__, folder, lock, submission, max_retries]
    with (folder / LOG).open("ab") as log:
        process = subprocess.Popen(  # noqa: S603 - no user's text but the folder's path
            [str(word) for word in command],
            cwd=folder / CODE,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=[lock],
        )
    while (state := Background.read(folder)) is None or state.submission != submission:
        if process.poll() is not None:
            raise UserError(f"the job's process has ended at once; see {folder / LOG}")
        time.sleep(_LOOK_EVERY_SECONDS)


def ask_to_end(folder: Path, number: int) -> None:
    """Send a signal to the driver of a job that runs, which is not started again after that."""
    (folder / _STOP).touch()
    state = Background.read(folder)
    if state is not None and state.exit_code is None:
        with suppress(ProcessLookupError):
            os.kill(state.driver_pid, number)


def is_to_end(folder: Path) -> bool:
    """Whether somebody has asked the job to end since it was submitted."""
    return (folder / _STOP).exists()


class _Keeper:
    """Starts a driver, again where it was killed; passes SIGTERM on to it."""

    def __init__(self, folder: Path, lock: int, submission: str) -> None:
        self._folder = folder
        self._lock = lock
        self._submission = submission
        self._driver: subprocess.Popen[bytes] | None = None
        signal.signal(signal.SIGTERM, self._pass_on)

    def run(self, max_retries: int) -> None:
        """Keep it going until it ends by itself, or is asked to."""
        command = [sys.executable, "-m", "distcnn.orchestration.driver", TICKET]
        while True:
            self._driver = subprocess.Popen(  # noqa: S603
                command, cwd=self._folder / CODE, pass_fds=[self._lock]
            )
            self._tell(self._driver.pid, None)
            exit_code = self._driver.wait()
            if exit_code >= 0 or is_to_end(self._folder) or not max_retries:
                break
            max_retries -= 1
            print(f"The driver was killed (signal {-exit_code}): starting it again", flush=True)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self._tell(self._driver.pid, exit_code)

    def _pass_on(self, number: int, frame: object) -> None:
        if self._driver is not None:
            self._driver.send_signal(number)
        (self._folder / _STOP).touch()

    def _tell(self, driver_pid: int, exit_code: int | None) -> None:
        Background(self._submission, driver_pid, exit_code).write(self._folder)


def _main() -> None:
    folder, lock, submission, max_retries = sys.argv[1:]
    _Keeper(Path(folder), int(lock), submission).run(int(max_retries))


if __name__ == "__main__":
    _main()
