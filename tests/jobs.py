"""Jobs as a user has them: by the `distcnn cluster` command, remembered in a folder of the test."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.runs import TIMEOUT_SECONDS, distcnn, events, finish, start


def cluster(*arguments: object) -> list[str]:
    return distcnn("cluster", *arguments)


def status(handle: str) -> dict[str, Any]:
    return json.loads(finish(cluster("status", handle, "--json")))


def wait_for_state(handle: str, state: str) -> dict[str, Any]:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while (now := status(handle))["state"] != state:
        assert time.monotonic() < deadline, now
        time.sleep(0.2)
    return now


def wait_for_saves(run: Path, count: int) -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while sum(event["event"] == "checkpoint" for event in events(run)) < count:
        assert time.monotonic() < deadline, f"no {count} checkpoints in {run}"
        time.sleep(0.05)


def submit(*arguments: object) -> str:
    """Send a job, and leave it; its handle."""
    done = subprocess.run(
        cluster("submit", *arguments, "--yes", "--detach"),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def following(handle: str) -> subprocess.Popen[str]:
    return start(cluster("follow", handle))
