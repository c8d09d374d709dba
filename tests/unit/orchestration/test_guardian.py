"""Nothing that uses the private folder outlives the driver, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from distcnn.orchestration.guardian import guarded

GONE_SECONDS = 20
# Holds a file of the folder open, and would do so for long.
USER = """
import signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
file = open(sys.argv[1] + "/log", "a")
print("open", flush=True)
time.sleep(600)
"""
# Has started such users in sessions of their own, as Ray does, and waits within the block.
DRIVER = """
import subprocess, sys, time
from pathlib import Path
from distcnn.orchestration.guardian import guarded
folder, user, how = sys.argv[1:]
with guarded(Path(folder)):
    users = []
    for _ in range(2):
        child = subprocess.Popen(
            [sys.executable, "-c", user, folder], stdout=subprocess.PIPE, start_new_session=True
        )
        child.stdout.readline()
        users.append(child.pid)
    log = open(folder + "/driver", "a")
    print(*users, flush=True)
    if how == "raise":
        raise SystemExit(7)
    if how == "wait":
        time.sleep(600)
"""
pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc here")


@contextmanager
def driver(folder: Path, how: str) -> Generator[tuple[subprocess.Popen[str], list[int]]]:
    """A process within the block, and what it has started."""
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(folder), USER, how], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    users = [int(word) for word in process.stdout.readline().split()]
    try:
        yield process, users
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        for pid in users:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_until_gone(folder: Path, users: list[int]) -> None:
    deadline = time.monotonic() + GONE_SECONDS
    while folder.exists() or not all(map(is_gone, users)):
        assert time.monotonic() < deadline, (folder.exists(), [*map(is_gone, users)])
        time.sleep(0.05)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "private"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("is_stopped", [False, True])
def test_a_killed_driver_takes_all_along(folder: Path, is_stopped: bool) -> None:
    with driver(folder, "wait") as (process, users):
        assert len(users) == 2
        if is_stopped:
            os.kill(users[0], signal.SIGSTOP)
        process.kill()
        process.wait()
        wait_until_gone(folder, users)


@pytest.mark.parametrize(("how", "code"), [("end", 0), ("raise", 7)])
def test_after_the_block_all_are_gone_but_the_driver(folder: Path, how: str, code: int) -> None:
    with driver(folder, how) as (process, users):
        assert len(users) == 2
        assert process.wait(timeout=GONE_SECONDS) == code
        assert not folder.exists()
        assert all(map(is_gone, users))


def test_whoever_uses_another_folder_is_left_alone(folder: Path) -> None:
    """One whose name begins alike, too."""
    beside = folder.with_name(f"{folder.name}-too")
    beside.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", USER, str(beside)], stdout=subprocess.PIPE, text=True
    ) as user:
        assert user.stdout is not None
        assert user.stdout.readline() == "open\n"
        with guarded(folder):
            pass
        assert not folder.exists()
        assert user.poll() is None
        assert (beside / "log").exists()
        user.kill()
