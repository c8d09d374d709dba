"""What a worker's pod does before it ends, on a real Ray in a namespace of its own."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.fake_kubernetes import can_run_pods

pytestmark = pytest.mark.skipif(not can_run_pods(), reason="this account may make no namespaces")

# A node with a worker at work, which ends when this is told to go on.
_NODE = """
import time
import ray

ray.init(address="local", num_cpus=1, include_dashboard=False, _node_ip_address="127.0.0.1",
         object_store_memory=80 * 2**20)
from ray._private.state import state

@ray.remote
class Worker:
    def work(self):
        time.sleep(60)

worker = Worker.remote()
ray.wait([worker.work.remote()], timeout=1)
print(ray.get_runtime_context().gcs_address, flush=True)
while not state.get_draining_nodes():
    time.sleep(0.1)
print("draining", flush=True)
input()
ray.kill(worker)
"""
_POD = """
import os, subprocess, sys, time

pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
node = subprocess.Popen([sys.executable, sys.argv[1]], **pipes)
os.environ["RAY_ADDRESS"] = node.stdout.readline().strip()
command = [sys.executable, "-m", "distcnn.orchestration.save_before_end", "worker", "40"]
hook = subprocess.Popen(command)
assert node.stdout.readline() == "draining\\n"
time.sleep(1)
assert hook.poll() is None, "it has not waited for the worker"
begun = time.monotonic()
print(file=node.stdin, flush=True)
assert hook.wait() == 0
assert time.monotonic() - begun < 20, "it has waited for nobody"
print("well done")
"""


@pytest.fixture
def folder() -> Generator[Path]:
    """With a short path, for sockets."""
    path = Path(tempfile.mkdtemp(prefix="pod-", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


def test_a_worker_tells_that_its_node_goes_and_stays_until_nobody_needs_it(folder: Path) -> None:
    variables = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(16),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TMPDIR": str(folder),
        "HOME": str(folder),
        # Ray's own warnings, of which tests make errors elsewhere, are not looked at here.
        "PYTHONWARNINGS": "ignore",
    }
    (folder / "pod.py").write_text(_POD)
    (folder / "node.py").write_text(_NODE)
    command = f"{sys.executable} {folder / 'pod.py'} {folder / 'node.py'}"
    script = f"ip link set lo up && {command} & wait $!"
    done = subprocess.run(
        [
            *("unshare", "--pid", "--net", "--fork", "--kill-child", "--mount-proc"),
            *("sh", "-c", script),
        ],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.strip().endswith("well done"), done.stdout + done.stderr
    assert "Ray was not told" not in done.stderr
