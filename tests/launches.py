"""Launched runs as processes of their own: started, hurt and compared to the last bit."""

from __future__ import annotations

import os
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from tests.runs import OVERRIDES, TIMEOUT_SECONDS, Command, distcnn, events, saves, wait_for

WITHOUT_WORKERS = [override for override in OVERRIDES if not override.startswith("workers.")]
# Three ranks on two cores; a batch that three do not divide.
LAUNCHED = [
    *WITHOUT_WORKERS,
    "training.epochs=4",
    "workers.count=3",
    "workers.cpus=0.6",
]
NUM_STEPS = 200
# Reproducible on up to four workers, which may share two cores.
ACROSS = [
    "training.reproducible=across-workers",
    "training.num_shards=4",
    "training.epochs=4",
    "workers.cpus=0.5",
]
# What is left of an embedded Ray has to be gone by then, whatever happened to its driver.
GONE_SECONDS = 30


def launch_command(run: Path, *more: str) -> list[str]:
    return distcnn("launch", "article", *LAUNCHED, *more, "--run-dir", run)


def attempts(run: Path) -> list[dict[str, Any]]:
    return [event for event in events(run) if event["event"] == "attempt"]


def worker_pids(run: Path, attempt: int) -> list[int]:
    """The process of each worker of the attempt (counted from 1 as they began), by rank."""
    return [worker["pid"] for worker in attempts(run)[attempt - 1]["workers"]]


def wait_for_training(run: Path, process: Command, attempt: int, num_saves: int) -> list[int]:
    """Wait until an attempt trains and has saved so often; its workers' processes, by rank."""
    wait_for(lambda: len(attempts(run)) >= attempt, process)
    before = saves(run)
    wait_for(lambda: saves(run) >= before + num_saves, process)
    return worker_pids(run, attempt)


def restarts(run: Path, cause: str = "failure") -> int:
    return sum(event["event"] == "restart" and event["cause"] == cause for event in events(run))


def times(run: Path, kind: str) -> list[float]:
    """When events of that kind were recorded, in seconds since the epoch (Unix)."""
    recorded = [str(event["time"]) for event in events(run) if event["event"] == kind]
    return [datetime.fromisoformat(time).timestamp() for time in recorded]


def kill(pids: list[int], number: int) -> None:
    for pid in pids:
        os.kill(pid, number)


def end(process: Command, expected: int = 0) -> str:
    """Wait for the end; what it said."""
    output, _ = process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == expected, output
    return output


def family(process: Command) -> list[psutil.Process]:
    """The driver and all that it has started, with what those have started."""
    driver = psutil.Process(process.pid)
    return [driver, *driver.children(recursive=True)]


def kill_9(process: Command) -> list[psutil.Process]:
    """The driver alone; all that it leaves behind."""
    everybody = family(process)
    assert len(everybody) > 5
    process.kill()
    process.communicate()
    return everybody


def ips_listened_on(processes: list[psutil.Process]) -> set[str]:
    """The addresses at which any of them can be reached by TCP."""
    return {
        connection.laddr.ip.removeprefix("::ffff:")
        for each in processes
        for connection in each.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }


def ray_folder(output: str) -> Path:
    """The folder of a launch's own Ray, by what the launch said."""
    [logs] = [line for line in output.splitlines() if line.startswith("Ray on this machine")]
    return Path(logs.rpartition(" ")[2]).parents[1]


def assert_gone(processes: list[psutil.Process]) -> None:
    deadline = time.monotonic() + GONE_SECONDS
    left = processes
    while left := [each for each in left if _lives(each)]:
        assert time.monotonic() < deadline, [" ".join(each.cmdline()) for each in left]
        time.sleep(0.1)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
