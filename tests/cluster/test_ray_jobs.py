"""A job on a Ray cluster of two nodes through all that may happen to it, as a user sees it."""

from __future__ import annotations

from pathlib import Path

import pytest

from distcnn.location import Location
from tests.jobs import cluster, following, status, submit, wait_for_saves
from tests.launches import LAUNCHED, end, launch_command, wait_for_training
from tests.runs import assert_same_result, distcnn, events, finish, start
from tests.two_nodes import TwoNodes

JOB = ["article", *LAUNCHED, "--target", "ray"]
pytestmark = pytest.mark.usefixtures("ray_user")


def test_a_job_is_checked_stopped_lost_with_its_head_and_gone_on_with(
    two_nodes: TwoNodes, undisturbed: Path, bucket: Location
) -> None:
    """Kept in an object store: what the cluster's own disks had is gone with it."""
    run = bucket / "mine"
    job = [*JOB, "workers.cpus=0.5", "--run-dir", run, "cluster.lost_seconds=5"]
    doctor = finish(cluster("doctor", *job, "--probe"))
    assert "takes the token" in doctor
    assert "3 workers, shared memory" in doctor  # Their all-reduce, from within.

    handle = submit(*job)
    assert handle == f"ray://{two_nodes.address.removeprefix('http://')}/mine"
    assert submit(*job) == handle
    wait_for_saves(run, 3)
    assert "STOPPED" in finish(cluster("stop", handle))
    assert events(run)[-1]["event"] == "stopped"

    assert submit(*job) == handle
    wait_for_saves(run, 8)
    watching = following(handle)
    two_nodes.kill()
    output, _ = watching.communicate(timeout=90)
    assert watching.returncode == 4, output
    assert "out of reach" in output
    assert "LOST" in output
    assert finish(cluster("list")).splitlines()[1].split()[:2] == ["mine", "?"]
    two_nodes.start()
    assert status(handle)["state"] == "LOST"

    assert submit(*job) == handle
    done = finish(cluster("follow", handle))
    assert "Run completed" in done
    assert status("mine")["state"] == "SUCCEEDED"
    assert_same_result(run, undisturbed)


def test_a_launch_whose_cluster_dies_says_how_to_resume(
    two_nodes: TwoNodes, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default Ray waits for a minute until it gives up a head that is gone."""
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "5")
    run = tmp_path / "run"
    address = ["--address", f"127.0.0.1:{two_nodes.port}"]
    process = start([*launch_command(run, "workers.cpus=0.5"), *address])
    wait_for_training(run, process, attempt=1, num_saves=2)
    two_nodes.kill()
    output = end(process, expected=1)
    assert "what was committed is safe" in output
    assert f"distcnn resume {run}" in output
    assert "Traceback" not in output
    finish(distcnn("resume", run))
    assert_same_result(run, undisturbed)
