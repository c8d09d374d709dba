"""Launches on a Ray cluster whose autoscaler adds nodes when they are waited for.

The autoscaler is Ray's own; its cloud is the one of Ray's tests, whose nodes are real Ray nodes on
this machine.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.launches import attempts, launch_command
from tests.runs import finish

# By which Ray's pretended cloud knows the head.
_HEAD_ID = "f" * 51 + "00000"
_START_SECONDS = 60
_STORE_BYTES = 80 * 2**20


def cloud(address: str) -> dict[str, Any]:
    """A head without CPUs, and at most two nodes of two CPUs each."""
    lists = ("cluster_synced_files", "rsync_exclude", "rsync_filter", "initialization_commands")
    phases = ("setup_commands", "start_ray_commands")
    return {
        "cluster_name": "pretended",
        "max_workers": 2,
        "idle_timeout_minutes": 5,
        "upscaling_speed": 1.0,
        "provider": {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "head_node_id": _HEAD_ID,
            "gcs_address": address,
            "launch_multiple": True,
        },
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "cpu": {
                "resources": {"CPU": 2, "object_store_memory": _STORE_BYTES},
                "node_config": {},
                "min_workers": 0,
                "max_workers": 2,
            },
        },
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        "setup_commands": [],
        **{name: [] for name in lists},
        **{f"{node}_{phase}": [] for node in ("head", "worker") for phase in phases},
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module", params=["1", "0"], ids=["newer autoscaler", "older autoscaler"])
def address(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Generator[str]:
    """Of a cluster that scales; loopback only, with a home folder of its own for its token."""
    folder = tmp_path_factory.mktemp("autoscaling")
    address = f"127.0.0.1:{free_port()}"
    (folder / "cloud.json").write_text(json.dumps(cloud(address)))
    with (
        pytest.MonkeyPatch.context() as patch,
        tempfile.TemporaryDirectory(prefix="scaling-", ignore_cleanup_errors=True) as ray_folder,
        (folder / "log").open("w") as log,
    ):
        patch.setenv("HOME", str(folder))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        head = {
            **os.environ,
            "RAY_enable_autoscaler_v2": request.param,
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "RAY_FAKE_CLUSTER": "1",
            "RAY_CLOUD_INSTANCE_ID": _HEAD_ID,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": _HEAD_ID,
        }
        command = [
            str(Path(sys.executable).with_name("ray")),
            *("start", "--head", "--block", "--num-cpus=0", "--include-dashboard=false"),
            f"--object-store-memory={_STORE_BYTES}",
            f"--port={address.rpartition(':')[2]}",
            f"--temp-dir={ray_folder}",
            f"--autoscaling-config={folder / 'cloud.json'}",
        ]
        process = subprocess.Popen(command, env=head, stdout=log, stderr=log)
        try:
            wait_until_up(process, folder / "log")
            yield address
        finally:
            family = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal.SIGTERM)
            process.wait()
            for member in family:
                if member.is_running():
                    member.kill()


def wait_until_up(process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while "block forever" not in log.read_text():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


def test_nodes_that_are_not_there_yet_are_waited_for_aloud(address: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = launch_command(run, "workers.cpus=1", "training.epochs=1")
    output = finish([*command, "--address", address])
    assert (
        "Waiting for 3 workers of 1 CPU, 2 s of 10 min 00 s. Free now: nothing on 1 node" in output
    )
    assert "checks on 3 node(s)" in output
    assert len({worker["node_id"] for worker in attempts(run)[0]["workers"]}) == 2


HOLD = """
import sys, time, ray
from ray.util.placement_group import placement_group
ray.init(address=sys.argv[1], log_to_driver=False)
ray.get(placement_group([{"CPU": 1}]).ready())
print("held", flush=True)
time.sleep(float(sys.argv[2]))
"""


# With the older one, what it cannot add is waited for in any case.
@pytest.mark.parametrize("address", ["1"], ids=["newer autoscaler"], indirect=True)
def test_what_others_hold_is_waited_for(address: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, address, "25"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        run = tmp_path / "run"
        launched = launch_command(run, "workers.cpus=2", "workers.count=2", "training.epochs=1")
        output = finish([*launched, "--address", address])
        assert other.wait() == 0
    assert "Waiting for 2 workers of 2 CPU" in output


def test_what_can_never_be_added_is_refused(
    address: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    run = tmp_path / "run"
    more = ["workers.count=5", "workers.cpus=1", "recovery.wait_for_workers_seconds=20"]
    began = time.monotonic()
    output = finish([*launch_command(run, *more), "--address", address], expected=1)
    assert time.monotonic() - began < 60
    if "newer" in request.node.name:
        assert "the cluster can never run this:\n  asked: 5 workers of 1 CPU" in output
        assert "its autoscaler: cannot add such nodes, or as many" in output
    else:  # It does not tell what it cannot add.
        assert "5 workers of 1 CPU did not become free within 20 s" in output
    assert not run.exists()
