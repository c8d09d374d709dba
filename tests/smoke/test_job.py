"""A job is submitted, followed and stopped, and continues when it is submitted again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.jobs import cluster, following, status, submit, wait_for_saves, wait_for_state
from tests.runs import OVERRIDES, assert_same_result, events, finish


def test_a_job_is_submitted_followed_and_stopped(
    tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISTCNN_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    run = tmp_path / "mine"
    job = ["article", *OVERRIDES, "--run-dir", run]
    # A checkpoint a step, so that the job lasts until it is stopped.
    handle = submit(*job, "training.checkpoint_every_steps=1")
    assert handle == "local://mine"
    watching = following(handle)
    wait_for_saves(run, 3)
    assert status(handle)["state"] == "RUNNING"
    assert "STOPPED" in finish(cluster("stop", handle))
    output, _ = watching.communicate(timeout=60)
    assert watching.returncode == 3, output
    assert "Run directory: " in output
    assert json.loads((run / "results.json").read_bytes())["status"] == "stopped"
    assert events(run)[-1]["event"] == "stopped"
    assert finish(cluster("logs", handle)) in output

    assert submit(*job, "training.checkpoint_every_steps=1") == handle
    assert wait_for_state(handle, "SUCCEEDED")["exit_code"] == 0
    assert_same_result(run, undisturbed)
