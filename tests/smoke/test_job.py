"""A job is submitted, followed and stopped, and continues when it is submitted again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.jobs import cluster, following, status, submit, wait_for_saves, wait_for_state
from tests.runs import OVERRIDES, assert_same_result, distcnn, events, finish
from tests.shared import made_once

# Long enough to be stopped before its end, on a fast machine too.
LONG = ["article", *OVERRIDES, "training.epochs=8"]


@pytest.fixture
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of the job's config in one process, whose bits a launch of one worker has."""
    command = distcnn("train", *LONG, "--run-dir")
    return made_once(tmp_path_factory, "long", lambda run: finish([*command, str(run)]))


def test_a_job_is_submitted_followed_and_stopped(
    tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISTCNN_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    run = tmp_path / "mine"
    job = [*LONG, "training.checkpoint_every_steps=1", "--run-dir", run]
    handle = submit(*job)
    assert handle == "local://mine"
    watching = following(handle)
    wait_for_saves(run, 3)
    assert "STOPPED" in finish(cluster("stop", handle))
    assert status(handle)["state"] == "STOPPED"
    output, _ = watching.communicate(timeout=60)
    assert watching.returncode == 3, output
    assert "Run directory: " in output
    assert json.loads((run / "results.json").read_bytes())["status"] == "stopped"
    assert events(run)[-1]["event"] == "stopped"
    assert f"Go on with: distcnn resume {run}" in finish(cluster("logs", handle))

    assert submit(*job) == handle
    assert wait_for_state(handle, "SUCCEEDED")["exit_code"] == 0
    assert_same_result(run, undisturbed)
