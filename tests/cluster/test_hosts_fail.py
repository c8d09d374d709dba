"""One run over hosts of which one crashes and another loses its cable: the bits stay the same."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.cluster.hosts import Hosts
from tests.launches import (
    LAUNCHED,
    attempts,
    end,
    restarts,
    times,
    wait_for_training,
)
from tests.runs import assert_same_result, distcnn, events, wait_for

HEAD, *OTHERS = NAMES = ["h1", "h2", "h3", "h4", "h5"]
ONE_EACH = ["workers.cpus=1", "workers.placement=spread"]
UP_SECONDS = 120


class RayOnHosts:
    """A head without workers of a run, and hosts with one CPU each."""

    def __init__(self, hosts: Hosts, folder: Path) -> None:
        self.hosts = hosts
        self._folder = folder
        token = folder / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        self._environment = {
            **os.environ,
            "HOME": str(folder),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        self._environment.pop("RAY_ADDRESS", None)
        self._nodes: list[subprocess.Popen[str]] = []

    def start(self) -> None:
        self._start(HEAD, "--head", "--port=6379", "--num-cpus=0")
        for name in OTHERS:
            self.join(name)

    def join(self, name: str) -> None:
        self._start(name, f"--address={self.hosts.address(HEAD)}:6379", "--num-cpus=1")

    def wait(self) -> None:
        """Until all have ended with their hosts."""
        for node in self._nodes:
            node.wait()

    def _start(self, name: str, *options: str) -> None:
        ray = [sys.executable, "-m", "ray.scripts.scripts", "start"]
        more = ["--block", "--disable-usage-stats", "--object-store-memory=83886080"]
        where = f"--node-ip-address={self.hosts.address(name)}"
        log = self._folder / f"{name}.log"
        with log.open("ab") as output:
            command = [*ray, *more, where, *options]
            self._nodes.append(self.popen(name, command, stdout=output, stderr=output))
        deadline = time.monotonic() + UP_SECONDS
        while "Ray runtime started" not in log.read_text():
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)

    def popen(self, name: str, command: list[str], **options: object) -> subprocess.Popen[str]:
        return self.hosts.popen(name, command, env=self._environment, text=True, **options)


@pytest.fixture
def cluster(tmp_path: Path) -> Generator[RayOnHosts]:
    with Hosts(len(NAMES)) as hosts:
        cluster = RayOnHosts(hosts, tmp_path)
        cluster.start()
        yield cluster
    cluster.wait()


def hosts_used(run: Path, attempt: int) -> set[str]:
    return {worker["host"] for worker in attempts(run)[attempt - 1]["workers"]}


def test_a_crash_and_a_pulled_cable(cluster: RayOnHosts, undisturbed: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = distcnn("launch", "article", *LAUNCHED, *ONE_EACH, "--address", "auto")
    process = cluster.popen(
        HEAD,
        [*command, "--run-dir", str(run)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    # By gloo, over the network: no two workers are on one host.
    wait_for_training(run, process, attempt=1, num_saves=1)
    used = hosts_used(run, attempt=1)
    assert len(used) == 3 <= len(set(OTHERS) & used)

    cluster.hosts.crash(sorted(used)[0])
    crashed_at = time.time()
    wait_for(lambda: len(times(run, "first_step")) == 2, process)
    print(f"first step {times(run, 'first_step')[1] - crashed_at:.1f} s after a crash")
    again = hosts_used(run, attempt=2)
    assert sorted(used)[0] not in again

    # Of the three that are left, one falls silent; it comes back while the run waits for it.
    silent = sorted(again)[-1]
    cluster.hosts.unplug(silent)
    unplugged_at = time.time()
    wait_for(lambda: restarts(run) + restarts(run, "preemption") == 2, process)
    print(f"noticed {times(run, 'restart')[1] - unplugged_at:.1f} s after a cable was pulled")
    cluster.hosts.restart(sorted(used)[0])
    cluster.join(sorted(used)[0])
    end(process)
    assert silent not in hosts_used(run, attempt=3)
    assert [event["event"] for event in events(run)][-1] == "finalized"
    assert_same_result(run, undisturbed)
