"""Jobs on a Ray cluster of two nodes, through its dashboard, as a user has them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest

from distcnn.cluster.handle import Handle
from distcnn.cluster.job import Job
from distcnn.cluster.parcel import LARGEST_BYTES, Parcel, ParcelError
from distcnn.cluster.registry import Remembered
from distcnn.cluster.spec import ClusterSpec, RaySpec
from distcnn.cluster.status import State
from distcnn.cluster.view import PlainView
from distcnn.location import Location
from distcnn.orchestration.follow import follow
from distcnn.orchestration.targets import ray_target
from tests.integration.jobs import (
    cluster,
    following,
    status,
    submit,
    wait_for_saves,
)
from tests.integration.launches import LAUNCHED, launch_command
from tests.integration.runs import assert_same_result, events, finish
from tests.integration.two_nodes import TwoNodes

JOB = ["article", *LAUNCHED, "--target", "ray"]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Generator[TwoNodes]:
    nodes = TwoNodes(tmp_path_factory.mktemp("nodes"))
    try:
        yield nodes
    finally:
        nodes.close()


@pytest.fixture(autouse=True)
def _as_a_user(nodes: TwoNodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTCNN_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", nodes.address)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(nodes.token_file))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    finish(launch_command(run, "workers.cpus=0.5"))
    return run


def spec(nodes: TwoNodes, token_file: Path | None = None) -> ClusterSpec:
    return ClusterSpec(
        target="ray", ray=RaySpec(address=nodes.address, token_file=token_file or nodes.token_file)
    )


def handle_of(nodes: TwoNodes, job_id: str) -> Handle:
    return Handle("ray", (nodes.address.removeprefix("http://"),), job_id)


def test_a_job_is_checked_stopped_lost_with_its_head_and_gone_on_with(
    nodes: TwoNodes, undisturbed: Path, bucket: Location
) -> None:
    """Kept in an object store: what the cluster's own disks had is gone with it."""
    run = bucket / "mine"
    job = [*JOB, "workers.cpus=0.5", "--run-dir", run, "cluster.lost_seconds=5"]
    doctor = finish(cluster("doctor", *job, "--probe"))
    assert "takes the token" in doctor
    assert "3 workers, shared memory" in doctor  # Their all-reduce, from within.

    handle = submit(*job)
    assert handle == str(handle_of(nodes, "mine"))
    assert submit(*job) == handle
    wait_for_saves(run, 3)
    assert "STOPPED" in finish(cluster("stop", handle))
    assert events(run)[-1]["event"] == "stopped"

    assert submit(*job) == handle
    wait_for_saves(run, 8)
    watching = following(handle)
    nodes.kill()
    output, _ = watching.communicate(timeout=90)
    assert watching.returncode == 4, output
    assert "out of reach" in output
    assert "LOST" in output
    assert finish(cluster("list")).splitlines()[1].split()[:2] == ["mine", "?"]
    nodes.start()
    assert status(handle)["state"] == "LOST"

    assert submit(*job) == handle
    done = finish(cluster("follow", handle))
    assert "Run completed" in done
    assert status("mine")["state"] == "SUCCEEDED"
    assert_same_result(run, undisturbed)


def test_the_drivers_exit_code_is_kept(nodes: TwoNodes, tmp_path: Path) -> None:
    job = Job("seven", "run", tmp_path / "run", spec(nodes), {})
    driver = b"import sys\nprint('seven it is')\nsys.exit(7)\n"
    package = {"distcnn/__init__.py": b"", "distcnn/orchestration/__init__.py": b""}
    parcel = Parcel({**package, "distcnn/orchestration/driver.py": driver})
    handle = ray_target.submit(job, parcel)
    held = ray_target.attach(Remembered(handle, job.spec))
    ended = follow(held, PlainView("seven"), lost_seconds=30)
    assert (ended.state, ended.exit_code, ended.follow_exit_code) == (State.FAILED, 7, 7)
    assert b"seven it is" in held.log(0)


def test_what_is_too_large_is_refused_before_it_travels(nodes: TwoNodes, tmp_path: Path) -> None:
    job = Job("large", "run", tmp_path / "run", spec(nodes), {})
    noise = os.urandom(LARGEST_BYTES)
    parcel = Parcel({"distcnn/forgotten.bin": noise, "distcnn/small.py": b"#\n"})
    with pytest.raises(ParcelError, match=r"forgotten\.bin \(100\.0 MiB\)"):
        ray_target.submit(job, parcel)
    assert (
        ray_target.attach(Remembered(handle_of(nodes, "large"), job.spec)).status().state
        is State.LOST
    )


def test_a_wrong_token_is_told_and_never_shown(nodes: TwoNodes, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("0" * 64)
    command = cluster(
        "submit", *JOB, "--run-dir", tmp_path / "run", f"cluster.ray.token_file={wrong}", "--yes"
    )
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "does not take the token" in done.stdout + done.stderr
    assert "cluster.ray.token_file" in done.stdout + done.stderr
    assert "0" * 64 not in done.stdout + done.stderr
    assert nodes.token_file.read_text() not in done.stdout + done.stderr


def test_nobody_listens_there(tmp_path: Path) -> None:
    address = "http://127.0.0.1:9"
    command = cluster("doctor", *JOB, "--run-dir", tmp_path / "run", "--address", address)
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"{address} does not answer" in done.stdout


def test_a_folder_that_other_machines_do_not_have_is_refused() -> None:
    done = subprocess.run(cluster("plan", *JOB), capture_output=True, text=True)
    assert done.returncode == 2
    assert "by its whole path, or s3://bucket/prefix" in done.stderr
