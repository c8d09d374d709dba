"""Keeps a job's driver going in the background of this machine: `python -m ...background FOLDER`.

A driver that is killed is started again, as often as the job allows. The folder tells how it is:
`state.json` is replaced whenever that changes.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from distcnn.cluster.ticket import TICKET
from distcnn.errors import UserError
from distcnn.files import read_json, write_atomically

CODE = "code"
LOG = "log"
_STATE = "state.json"
_LOOK_EVERY_SECONDS = 0.05


@dataclass(frozen=True)
class Background:
    """How a job is, as its keeper writes it down."""

    pid: int
    """The keeper's."""
    created: float
    """When its process began: a pid alone may be another's by now."""
    driver_pid: int | None = None
    is_stopping: bool = False
    exit_code: int | None = None
    """The driver's; negative where a signal ended it."""

    @property
    def is_alive(self) -> bool:
        """Whether the keeper runs."""
        try:
            process = psutil.Process(self.pid)
            is_ours = abs(process.create_time() - self.created) < 1.0
            return is_ours and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def write(self, folder: Path) -> None:
        """Replace what the folder tells."""
        write_atomically(folder / _STATE, json.dumps(asdict(self)).encode())

    @classmethod
    def read(cls, folder: Path) -> Background | None:
        """What the folder tells; None where it has no such job."""
        path = folder / _STATE
        return cls(**read_json(path)) if path.is_file() else None


class _Keeper:
    """Starts a driver, again where it was killed; passes SIGTERM on to it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._driver: subprocess.Popen[bytes] | None = None
        self._is_stopping = False
        self._created = psutil.Process().create_time()

    def run(self, max_retries: int) -> int:
        """Keep it going until it ends by itself, or is stopped; returns its exit code."""
        signal.signal(signal.SIGTERM, self._stop)
        command = [sys.executable, "-m", "distcnn.orchestration.driver", TICKET]
        while True:
            self._driver = subprocess.Popen(command, cwd=self._folder / CODE)  # noqa: S603
            self._tell()
            exit_code = self._driver.wait()
            if exit_code >= 0 or self._is_stopping or not max_retries:
                self._tell(exit_code)
                return exit_code
            max_retries -= 1
            print(f"The driver was killed (signal {-exit_code}): starting it again", flush=True)

    def _stop(self, number: int, frame: object) -> None:
        self._is_stopping = True
        self._tell()
        if self._driver is not None:
            self._driver.send_signal(number)

    def _tell(self, exit_code: int | None = None) -> None:
        pid = psutil.Process().pid
        driver_pid = self._driver.pid if self._driver is not None else None
        state = Background(pid, self._created, driver_pid, self._is_stopping, exit_code)
        state.write(self._folder)


def main() -> int:
    """Keep the job in the folder that is named, with the number of retries that is named."""
    folder, max_retries = Path(sys.argv[1]), int(sys.argv[2])
    _Keeper(folder).run(max_retries)
    return 0


def start(folder: Path, max_retries: int, environment: dict[str, str]) -> None:
    """Begin to keep a job, as a process of its own that outlives this one and its terminal.

    Raises:
        UserError: the process has ended at once.
    """
    (folder / _STATE).unlink(missing_ok=True)
    command: list[Any] = [sys.executable, "-m", __name__, folder, str(max_retries)]
    with (folder / LOG).open("ab") as log:
        process = subprocess.Popen(  # noqa: S603 - no user's text but the folder's path
            command,
            cwd=folder / CODE,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    while Background.read(folder) is None:
        if process.poll() is not None:
            raise UserError(f"the job's process has ended at once; see {folder / LOG}")
        time.sleep(_LOOK_EVERY_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
