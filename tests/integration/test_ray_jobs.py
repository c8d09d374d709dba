"""Jobs on a Ray cluster of two nodes, through its dashboard, as a user has them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from distcnn.cluster.handle import Handle
from distcnn.cluster.job import Job
from distcnn.cluster.parcel import LARGEST_BYTES, Parcel, ParcelError
from distcnn.cluster.registry import Remembered
from distcnn.cluster.spec import ClusterSpec, RaySpec
from distcnn.cluster.status import State
from distcnn.cluster.view import PlainView
from distcnn.orchestration.follow import follow
from distcnn.orchestration.targets import ray_target
from tests.jobs import cluster
from tests.launches import LAUNCHED
from tests.two_nodes import TwoNodes

JOB = ["article", *LAUNCHED, "--target", "ray"]
pytestmark = pytest.mark.usefixtures("ray_user")


def spec(two_nodes: TwoNodes, token_file: Path | None = None) -> ClusterSpec:
    return ClusterSpec(
        target="ray",
        ray=RaySpec(address=two_nodes.address, token_file=token_file or two_nodes.token_file),
    )


def handle_of(two_nodes: TwoNodes, job_id: str) -> Handle:
    return Handle("ray", (two_nodes.address.removeprefix("http://"),), job_id)


def test_the_drivers_exit_code_is_kept(two_nodes: TwoNodes, tmp_path: Path) -> None:
    job = Job("seven", "run", tmp_path / "run", spec(two_nodes), {})
    driver = b"import sys\nprint('seven it is')\nsys.exit(7)\n"
    package = {"distcnn/__init__.py": b"", "distcnn/orchestration/__init__.py": b""}
    parcel = Parcel({**package, "distcnn/orchestration/driver.py": driver})
    handle = ray_target.submit(job, parcel)
    held = ray_target.attach(Remembered(handle, job.spec))
    ended = follow(held, PlainView("seven"), lost_seconds=30)
    assert (ended.state, ended.exit_code, ended.follow_exit_code) == (State.FAILED, 7, 7)
    assert b"seven it is" in held.log(0)


def test_what_is_too_large_is_refused_before_it_travels(
    two_nodes: TwoNodes, tmp_path: Path
) -> None:
    job = Job("large", "run", tmp_path / "run", spec(two_nodes), {})
    noise = os.urandom(LARGEST_BYTES)
    parcel = Parcel({"distcnn/forgotten.bin": noise, "distcnn/small.py": b"#\n"})
    with pytest.raises(ParcelError, match=r"forgotten\.bin \(100\.0 MiB\)"):
        ray_target.submit(job, parcel)
    assert (
        ray_target.attach(Remembered(handle_of(two_nodes, "large"), job.spec)).status().state
        is State.LOST
    )


def test_a_wrong_token_is_told_and_never_shown(two_nodes: TwoNodes, tmp_path: Path) -> None:
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
    assert two_nodes.token_file.read_text() not in done.stdout + done.stderr


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
