"""`ray up` brings up hosts as the rendered file says, and `ray down` leaves nothing on them."""

from __future__ import annotations

import json
import secrets
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import yaml

from distcnn.cluster.ray_up import render_ray_up
from distcnn.cluster.ray_up_rules import violations
from distcnn.cluster.spec import ClusterSpec
from tests.cluster.hosts import CONTROL, Hosts
from tests.launches import LAUNCHED

HEAD, *WORKERS = NAMES = ["h1", "h2", "h3"]
ASKED = """it's "$(hostname)" `id` \\ {}\nand a second line"""
PROGRAMS = Path(sys.executable).parent
UP_SECONDS = 120
# What Ray itself leaves on the workers is there for ever.
GONE_SECONDS = 90
_SSHD = """
HostKey {host_key}
AuthorizedKeysFile {authorized}
StrictModes no
UsePAM no
PasswordAuthentication no
PidFile none
"""
_LOOK = """
import json, os, time
import ray

ray.init("auto", log_to_driver=False, logging_level="ERROR")
deadline = time.monotonic() + float(os.environ["SECONDS"])
while sum(node["Alive"] for node in ray.nodes()) < 3 and time.monotonic() < deadline:
    time.sleep(0.5)

@ray.remote(num_cpus=2, scheduling_strategy="SPREAD")
def look():
    time.sleep(1)
    names = ("ASKED", "OMP_NUM_THREADS")
    return ray.util.get_node_ip_address(), {name: os.environ.get(name) for name in names}

print(json.dumps(dict(ray.get([look.remote() for _ in range(3)]))))
"""
_CONNECT = "import ray; ray.init('auto', log_to_driver=False); print(len(ray.nodes()))"
_KNOCK = "import socket, sys; socket.create_connection((sys.argv[1], 8265), timeout=5)"


class Cluster:
    """Hosts with an ssh server each, and a file for `ray up` that names them."""

    def __init__(self, hosts: Hosts, folder: Path) -> None:
        self.hosts = hosts
        self.folder = folder
        self.key = folder / "key"
        self.token = folder / "token"
        self.file = folder / "on-premises.yaml"

    def prepare(self) -> None:
        self._make_key(self.key)
        self.token.touch(mode=0o600)
        self.token.write_text(secrets.token_hex(32) + "\n")
        for name in [CONTROL, *NAMES]:
            self._give_a_home(name)
        for name in NAMES:
            self._start_sshd(name)
        self.file.write_text(render_ray_up(self._spec(), requirements="", python_version=""))

    def _spec(self) -> ClusterSpec:
        return ClusterSpec.model_validate(
            {
                "target": "ray",
                "nodes": len(NAMES),
                "environment": {"ASKED": ASKED},
                "ray": {"token_file": self.token},
                "ray_up": {
                    "provider": "on-premises",
                    # Names a folder in /tmp, where Ray keeps its connections.
                    "cluster_name": f"test-{secrets.token_hex(4)}",
                    "hosts": tuple(self.hosts.address(name) for name in NAMES),
                    "ssh_user": "root",
                    "ssh_private_key": self.key,
                    "python": Path(sys.executable),
                },
            }
        )

    def home(self, name: str) -> Path:
        return self.folder / name

    def _give_a_home(self, name: str) -> None:
        """Another one for root, whom ssh lets in: its own has what this machine's Rays know."""
        self.home(name).mkdir()
        users = Path("/etc/passwd").read_text().splitlines()
        changed = [
            f"root:x:0:0:root:{self.home(name)}:/bin/bash" if user.startswith("root:") else user
            for user in users
        ]
        passwd = self.folder / f"{name}.passwd"
        passwd.write_text("\n".join(changed) + "\n")
        self.hosts.run(name, ["mount", "--bind", str(passwd), "/etc/passwd"], check=True)

    def _start_sshd(self, name: str) -> None:
        host_key = self.folder / f"{name}-host-key"
        self._make_key(host_key)
        config = self.folder / f"{name}.sshd"
        config.write_text(_SSHD.format(host_key=host_key, authorized=f"{self.key}.pub"))
        Path("/run/sshd").mkdir(exist_ok=True)
        command = ["env", "-i", "PATH=/usr/bin:/bin", "/usr/sbin/sshd", "-E"]
        log = str(self.folder / f"{name}.sshd.log")
        self.hosts.run(name, [*command, log, "-f", str(config)], check=True)

    def _make_key(self, path: Path) -> None:
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)]
        subprocess.run(command, check=True)

    def ray(self, *arguments: str, seconds: float = UP_SECONDS) -> str:
        """The output of `ray ...`, run beside the hosts."""
        command = self._as_at_home(CONTROL, [str(PROGRAMS / "ray"), *arguments])
        return self._output(CONTROL, command, seconds)

    def python(self, name: str, program: str, **environment: str) -> str:
        """The output of a program on a host, which has the host's token."""
        command = self._as_at_home(name, [sys.executable, "-c", program], **environment)
        return self._output(name, command, UP_SECONDS)

    def _as_at_home(self, name: str, command: list[str], **environment: str) -> list[str]:
        variables = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(self.home(name)),
            "TMPDIR": str(self.folder),
            "RAY_AUTH_MODE": "token",
            **environment,
        }
        given = [f"{variable}={value}" for variable, value in variables.items()]
        return ["env", "-i", *given, *command]

    def _output(self, name: str, command: list[str], seconds: float) -> str:
        done = self.hosts.run(
            name,
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def refused(self, name: str, command: list[str], **environment: str) -> str:
        """What a command on a host says when it fails."""
        done = self.hosts.run(
            name,
            self._as_at_home(name, command, **environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=UP_SECONDS,
            check=False,
        )
        assert done.returncode != 0, done.stdout
        return done.stdout

    def processes(self, name: str) -> list[str]:
        """Of a host, but for its ssh server and what that has just done for somebody."""
        lines = self.hosts.processes(name).values()
        return [line for line in lines if not line.startswith("sshd: ")]


@pytest.fixture
def cluster(tmp_path: Path) -> Generator[Cluster]:
    if not all(map(shutil.which, ("/usr/sbin/sshd", "ssh", "ssh-keygen", "rsync"))):
        pytest.skip("ray up needs OpenSSH's client and server, and rsync")
    with Hosts(len(NAMES)) as hosts:
        cluster = Cluster(hosts, tmp_path)
        cluster.prepare()
        yield cluster


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True


def train(cluster: Cluster, run: Path) -> dict[str, Any]:
    """Launch a small run from the head, on a worker of each host."""
    command = ["distcnn", "launch", "article", *LAUNCHED, "training.epochs=1", "workers.cpus=2"]
    line = shlex.join([*command, "--address", "auto", "--run-dir", str(run)])
    cluster.ray("exec", str(cluster.file), f"RAY_AUTH_MODE=token {line}", seconds=150)
    return json.loads((run / "results.json").read_bytes())


def check_refusals(cluster: Cluster) -> None:
    """Whoever has another token cannot connect or join; the dashboard is on loopback alone."""
    head = cluster.hosts.address(HEAD)
    wrong = cluster.home(CONTROL) / ".ray/auth_token"
    wrong.parent.mkdir()
    wrong.write_text(secrets.token_hex(32))
    connect = [sys.executable, "-c", _CONNECT]
    assert "token" in cluster.refused(HEAD, connect, RAY_AUTH_TOKEN_PATH=str(wrong)).lower()
    # As `ray up` would start a worker; it does not wait for ever, and leaves nothing.
    [_, start] = yaml.safe_load(cluster.file.read_text())["worker_start_ray_commands"]
    said = cluster.refused(CONTROL, ["bash", "-c", start], RAY_HEAD_IP=head)
    assert "token" in said.lower()
    lines = cluster.hosts.processes(CONTROL).values()
    assert sum("ray start --block --address" in line for line in lines) == 2 * len(WORKERS)
    knock = [sys.executable, "-c", _KNOCK]
    assert "refused" in cluster.refused(WORKERS[0], [*knock, head])
    cluster.hosts.run(HEAD, [*knock, "127.0.0.1"], check=True)


def test_from_up_to_down(cluster: Cluster, tmp_path: Path) -> None:
    assert violations(cluster.file.read_text()) == []

    cluster.ray("up", "--yes", "--no-config-cache", "--disable-usage-stats", str(cluster.file))
    seen = json.loads(cluster.python(HEAD, _LOOK, SECONDS="90").splitlines()[-1])
    # All have joined, with the token that only they have; nothing of the user's text was executed.
    expected = {"ASKED": ASKED, "OMP_NUM_THREADS": "2"}
    assert seen == {cluster.hosts.address(name): expected for name in NAMES}
    for name in NAMES:
        token = cluster.home(name) / ".ray/auth_token"
        assert token.read_text() == cluster.token.read_text()
        assert token.stat().st_mode & 0o777 == 0o600
        secret = token.read_text().strip()
        assert not any(secret in line for line in cluster.hosts.processes(name).values())

    check_refusals(cluster)

    results = train(cluster, tmp_path / "run")
    assert results["status"] == "completed"
    events = (tmp_path / "run/events.jsonl").read_text().splitlines()
    [attempt] = [event for event in map(json.loads, events) if event["event"] == "attempt"]
    assert {worker["host"] for worker in attempt["workers"]} == set(NAMES)

    cluster.ray("down", "--yes", str(cluster.file))
    gone = wait_until(lambda: not any(map(cluster.processes, NAMES)), GONE_SECONDS)
    assert gone, {name: cluster.processes(name) for name in NAMES}
