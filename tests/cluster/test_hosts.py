"""The emulated hosts are what tests on them take them for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.cluster.hosts import Hosts

_SERVE = """
import socket
server = socket.create_server(("", 7000))
print("listening", flush=True)
while True:
    connection, _ = server.accept()
    connection.sendall(socket.gethostname().encode())
    connection.close()
"""
_ASK = """
import socket, sys
connection = socket.create_connection((sys.argv[1], 7000), timeout=2)
print(connection.recv(100).decode())
"""


@pytest.fixture
def hosts() -> Generator[Hosts]:
    with Hosts(2) as hosts:
        yield hosts


@contextmanager
def serving(hosts: Hosts, name: str) -> Generator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", _SERVE]
    with hosts.popen(name, command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout.readline() == "listening\n"
            yield server
        finally:
            server.kill()


def answer(hosts: Hosts, asker: str, asked: str) -> str:
    """What a server says to one of another host; empty if it cannot be reached."""
    command = [sys.executable, "-c", _ASK, asked]
    done = hosts.run(asker, command, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def test_hosts_reach_each_other_until_one_is_unplugged(hosts: Hosts) -> None:
    with serving(hosts, "h2"):
        assert answer(hosts, "h1", "h2") == answer(hosts, "ctl", hosts.address("h2")) == "h2"
        hosts.unplug("h2")
        assert answer(hosts, "h1", "h2") == ""
        assert answer(hosts, "h2", "h2") == "h2"
        hosts.replug("h2")
        assert answer(hosts, "h1", "h2") == "h2"


def test_a_crash_leaves_nothing_of_a_host_and_a_restart_has_it_back(hosts: Hosts) -> None:
    daemon = 'trap "" TERM HUP; (sleep 1001 & sleep 1002 &) ; echo started'
    hosts.run("h1", ["sh", "-c", daemon], check=True, stdout=subprocess.DEVNULL)
    with serving(hosts, "h1") as server:
        wait_for(lambda: {"sleep 1001", "sleep 1002"} < set(hosts.processes("h1").values()))
        assert hosts.processes("h2") == {}
        everywhere = set(hosts.processes("ctl").values())
        assert {"sleep 1001", "sleep 1002"} <= everywhere
        hosts.crash("h1")
        assert server.wait() == -signal.SIGKILL
    assert not {"sleep 1001", "sleep 1002"} & set(hosts.processes("ctl").values())
    assert answer(hosts, "h2", "h1") == ""
    hosts.restart("h1")
    assert hosts.processes("h1") == {}
    with serving(hosts, "h1"):
        wait_for(lambda: answer(hosts, "h2", "h1") == "h1")


def test_hosts_have_a_ray_folder_and_shared_memory_of_their_own(
    hosts: Hosts, tmp_path: Path
) -> None:
    for path in (Path("/dev/shm/mine"), Path("/tmp/ray/mine"), tmp_path / "ours"):
        hosts.run("h1", ["touch", str(path)], check=True)
        is_seen = hosts.run("h2", ["test", "-e", str(path)], check=False).returncode == 0
        assert is_seen == path.exists() == (path.name == "ours")


def test_a_name_that_nobody_knows_is_refused_at_once(hosts: Hosts) -> None:
    began = time.monotonic()
    known = hosts.run("h1", ["getent", "hosts", "nobody.example"], check=False)
    assert known.returncode != 0
    assert time.monotonic() - began < 2


def test_nothing_is_left() -> None:
    with Hosts(1) as hosts:
        sleeper = hosts.popen("h1", ["sleep", "1003"])
        hosts.run("h1", ["sh", "-c", "setsid sleep 1003 &"], check=True)
    assert sleeper.wait() == -signal.SIGKILL
    assert sleepers("1003") == []


def test_nothing_outlives_the_process_that_has_them(tmp_path: Path) -> None:
    script = (
        "import time\n"
        "from tests.cluster.hosts import Hosts\n"
        "with Hosts(1) as hosts:\n"
        "    hosts.run('h1', ['sh', '-c', 'setsid sleep 1004 &'], check=True)\n"
        "    print('there', flush=True)\n"
        "    time.sleep(1000)\n"
    )
    command = [sys.executable, "-c", script]
    if os.geteuid() != 0:
        pytest.skip("emulated hosts need root")
    # Its own folder stays, for once.
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "there\n"
            wait_for(lambda: len(sleepers("1004")) == 1)
        finally:
            process.kill()
    wait_for(lambda: sleepers("1004") == [])


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "nothing happened in time"
        time.sleep(0.05)


def sleepers(seconds: str) -> list[int]:
    return [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if (process.info["cmdline"] or []) == ["sleep", seconds]
    ]
