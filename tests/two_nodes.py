"""A real Ray cluster of two nodes on this machine, with a token, on the loopback address.

Both are started as a person would, by `ray start`, with ports and temporary folders of their own.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil
import requests

_HOST = "127.0.0.1"
_UP_SECONDS = 90.0
# Beside each other, each node needs some thousand ports for its workers.
_WORKER_PORTS = {"head": (20000, 20499), "node": (20500, 20999)}


class TwoNodes:
    """A head and a node of two CPUs each; `close` ends all that was started."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.token_file = folder / "token"
        self.token_file.write_text(secrets.token_hex(32))
        self.token_file.chmod(0o600)
        self._temporary = [Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp")) for _ in range(2)]
        self._nodes: list[subprocess.Popen[bytes]] = []
        self.port, self._dashboard_port = free_port(), free_port()
        self.start()

    @property
    def address(self) -> str:
        return f"http://{_HOST}:{self._dashboard_port}"

    def start(self) -> None:
        head = ["--head", f"--port={self.port}", f"--dashboard-port={self._dashboard_port}"]
        self._start("head", *head, f"--dashboard-host={_HOST}", "--include-dashboard=true")
        self._wait_for_nodes(1)
        self._start("node", f"--address={_HOST}:{self.port}")
        self._wait_for_nodes(2)

    def kill(self) -> None:
        """The head and the node, with all that they have started, as when power fails."""
        for node in self._nodes:
            with suppress(psutil.NoSuchProcess):
                process = psutil.Process(node.pid)
                for each in [process, *process.children(recursive=True)]:
                    with suppress(psutil.NoSuchProcess):
                        each.kill()
            node.wait()
        self._nodes.clear()

    def close(self) -> None:
        for node in self._nodes:
            node.send_signal(signal.SIGTERM)
        for node in self._nodes:
            with suppress(subprocess.TimeoutExpired):
                node.wait(timeout=20)
        self.kill()

    def _start(self, name: str, *more: str) -> None:
        lowest, highest = _WORKER_PORTS[name]
        command = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=2"),
            *(f"--node-ip-address={_HOST}", "--object-store-memory=83886080"),
            *(f"--min-worker-port={lowest}", f"--max-worker-port={highest}"),
            *(f"--dashboard-agent-listen-port={free_port()}", "--disable-usage-stats"),
            f"--temp-dir={self._temporary[len(self._nodes)]}",
        ]
        if name == "head":
            command.append(f"--ray-client-server-port={free_port()}")
        settings = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token_file),
            "HOME": str(self._folder),
            # As in an activated environment: drivers of jobs are `python`.
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            # Two nodes at one address.
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",
        }
        environment = {**os.environ, **settings}
        environment.pop("RAY_ADDRESS", None)
        with (self._folder / f"{name}.log").open("ab") as log:
            self._nodes.append(
                subprocess.Popen([*command, *more], stdout=log, stderr=log, env=environment)
            )

    def _wait_for_nodes(self, count: int) -> None:
        headers = {"Authorization": f"Bearer {self.token_file.read_text()}"}
        deadline = time.monotonic() + _UP_SECONDS
        while True:
            with suppress(requests.RequestException, KeyError, ValueError):
                url = f"{self.address}/api/v0/nodes"
                answer = requests.get(url, headers=headers, timeout=5).json()
                nodes = answer["data"]["result"]["result"]
                if sum(node["state"] == "ALIVE" for node in nodes) >= count:
                    return
            logs = [path.read_text() for path in self._folder.glob("*.log")]
            assert time.monotonic() < deadline, logs
            assert all(node.poll() is None for node in self._nodes), logs
            time.sleep(0.2)


def free_port() -> int:
    with socket.socket() as free:
        free.bind((_HOST, 0))
        return free.getsockname()[1]
