"""A launch on this machine: the bits of `train`, on a Ray of its own that leaves nothing behind."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml

from tests.launches import (
    assert_gone,
    end,
    family,
    launch_command,
)
from tests.runs import (
    OVERRIDES,
    assert_same_result,
    distcnn,
    finish,
    start,
    start_as_typed,
    wait_for,
)
from tests.shared import made_once

ONE_WORKER = ["article", *OVERRIDES, "workers.count=1"]


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return what `launch/cluster.py` left of one worker; all tests share it, and only read it."""
    script = Path(__file__).parents[2] / "launch" / "cluster.py"
    command = [sys.executable, str(script), *ONE_WORKER]

    def make(folder: Path) -> None:
        assert "Run completed" in finish([*command, f"storage.directory={folder}"])

    [run] = made_once(tmp_path_factory, "launched", make).iterdir()
    return run


def test_one_worker_gives_the_bits_of_a_local_run(launched: Path, undisturbed: Path) -> None:
    assert_same_result(launched, undisturbed)
    assert {path.name for path in launched.iterdir()} == {
        path.name for path in undisturbed.iterdir()
    }
    results = json.loads((launched / "results.json").read_bytes())
    assert results["workers"]["count"] == 1
    assert results["restarts"] == {"failures": 0, "preemptions": 0, "seconds_lost": 0.0}


def test_sigterm_while_ray_starts_ends_in_order(tmp_path: Path) -> None:
    """For a while then the signal is Ray's, which would exit with 15."""
    process = start(launch_command(tmp_path / "run"))
    wait_for(lambda: any(each.name() == "gcs_server" for each in family(process)), process)
    everybody = family(process)
    process.terminate()
    end(process, expected=143)
    assert_gone(everybody)


# Starts a Ray as `launch` does, and asks it for its nodes by several tokens.
ASK_BY_TOKENS = """
import os
from pathlib import Path
import grpc
from distcnn.orchestration import session
with session.connected(None):
    import ray
    channel = grpc.insecure_channel(ray.get_runtime_context().gcs_address)
    ask = channel.unary_unary("/ray.rpc.NodeInfoGcsService/GetAllNodeInfo")
    for token in ("", "0" * 64, Path(os.environ["RAY_AUTH_TOKEN_PATH"]).read_text()):
        try:
            ask(b"", timeout=30, metadata=[("authorization", f"Bearer {token}")] if token else [])
            print("answered")
        except grpc.RpcError as error:
            print(error.code().name)
"""


def test_the_ray_of_a_launch_refuses_who_lacks_its_token() -> None:
    process = start_as_typed([sys.executable, "-c", ASK_BY_TOKENS])
    answers = [
        line for line in end(process).splitlines() if line in ("UNAUTHENTICATED", "answered")
    ]
    assert answers == ["UNAUTHENTICATED", "UNAUTHENTICATED", "answered"]


def test_a_dry_run_says_what_ray_would_be_asked_for(tmp_path: Path) -> None:
    output = finish(launch_command(tmp_path / "run", "--dry-run"))
    config, asked = yaml.safe_load_all(output)
    assert config["workers"]["count"] == asked["ray"]["workers"] == 3
    assert asked["ray"]["resources_per_worker"]["CPU"] == 0.6
    assert not (tmp_path / "run").exists()


def test_another_config_in_the_same_folder_is_refused(launched: Path) -> None:
    command = distcnn("launch", *ONE_WORKER, "--run-dir", launched)
    output = finish([*command, "optimizer.lr=0.5", "seed=3"], expected=1)
    assert "another config (other: seed, optimizer.lr)" in output
    output = finish([*command, "recovery.max_failures=9"])
    assert "finished" in output


def test_more_workers_than_the_machine_has_room_for(tmp_path: Path) -> None:
    output = finish(launch_command(tmp_path / "run", "workers.cpus=64"), expected=1)
    assert "asked: 3 workers of 64 CPU" in output
    assert "would fit: workers.cpus=" in output
    assert "Traceback" not in output
