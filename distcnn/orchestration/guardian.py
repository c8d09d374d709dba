"""Sees to it that nothing of an embedded Ray outlives its driver, however the driver ends.

A process of its own, with nothing imported but the standard library. It waits for the end of its
standard input, which the system closes when the driver dies, of `kill -9` too. Then it kills every
process of Ray's, or of this Python, that has a file of the Ray session's private folder open (all
have: their logs; and so has who looks at them, who is spared), and removes the folder. Ray's own
processes mostly go by themselves; its agents stay for minutes, and a worker that was stopped
(SIGSTOP) for ever.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# Ray's own processes are given so long to go by themselves once the driver has said good-bye.
_GRACE_SECONDS = 0.5
_KILLING_SECONDS = 5.0
_PAUSE_SECONDS = 0.02


@contextmanager
def guarded(folder: Path) -> Generator[None]:
    """Have `folder`, and all that uses it, gone after the block or the death of this process."""
    command = [sys.executable, "-I", "-S", __file__, str(folder)]
    # A session of its own: a Ctrl-C in the driver's terminal is not meant for it.
    guardian = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)  # noqa: S603
    try:
        yield
    finally:
        assert guardian.stdin is not None
        guardian.stdin.close()
        guardian.wait()


def _users_of(folder: str) -> Iterator[int]:
    """Processes of Ray's or of this Python that have a file below `folder` open."""
    python = Path(sys.executable).resolve()
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        # A process may end while it is looked at, or belong to somebody else.
        with suppress(OSError):
            program = Path(f"/proc/{entry.name}/exe").readlink()
            if program != python and "ray" not in program.parts:
                continue
            for descriptor in os.scandir(f"/proc/{entry.name}/fd"):
                with suppress(OSError):
                    if str(Path(descriptor.path).readlink()).startswith(folder):
                        yield int(entry.name)
                        break


def _sweep(folder: str, driver: int) -> None:
    """Kill until nobody is left but the driver, which may be alive and has the folder open too."""
    began = time.monotonic()
    while time.monotonic() - began < _KILLING_SECONDS:
        users = [pid for pid in _users_of(f"{folder}/") if pid != driver]
        if not users:
            return
        if time.monotonic() - began > _GRACE_SECONDS:
            for pid in users:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(_PAUSE_SECONDS)


def _main(folder: str) -> None:
    # Who ends all processes of a job alike (Slurm does) ends the driver too: it is waited for.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    driver = os.getppid()
    sys.stdin.buffer.read()
    _sweep(folder, driver)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _main(sys.argv[1])
