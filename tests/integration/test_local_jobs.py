"""Jobs in the background of this machine: submitted, watched, killed, stopped, gone on with."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.jobs import (
    cluster,
    following,
    status,
    submit,
    wait_for_saves,
    wait_for_state,
)
from tests.launches import assert_gone
from tests.runs import OVERRIDES, assert_same_result, distcnn, events, finish
from tests.shared import made_once

JOB = ["article", *OVERRIDES, "training.epochs=4"]


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "state"
    monkeypatch.setenv("DISTCNN_STATE_DIR", str(path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return path


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of the job's config in one process, whose bits a launch of one worker has."""
    command = distcnn("train", *JOB, "--run-dir")
    return made_once(tmp_path_factory, "job", lambda run: finish([*command, str(run)]))


def driver_pid(state: Path, job_id: str) -> int:
    return json.loads((state / "local" / job_id / "state.json").read_bytes())["driver_pid"]


def test_a_driver_that_is_killed_is_started_again(
    state: Path, undisturbed: Path, tmp_path: Path
) -> None:
    run = tmp_path / "mine"
    handle = submit(*JOB, "--run-dir", run)
    assert handle == "local://mine"
    watching = following(handle)
    wait_for_saves(run, 3)
    killed = driver_pid(state, "mine")
    os.kill(killed, signal.SIGKILL)
    wait_for_saves(run, 8)
    assert status(handle)["state"] == "RUNNING"
    assert driver_pid(state, "mine") != killed
    output, _ = watching.communicate(timeout=60)
    assert watching.returncode == 0, output
    assert "starting it again" in output
    assert status(handle)["exit_code"] == 0
    assert_same_result(run, undisturbed)

    # Submitted again, there is nothing to do.
    before = len(events(run))
    done = subprocess.run(
        cluster("submit", *JOB, "--run-dir", run, "--yes"), capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "nothing was sent" in done.stderr
    assert "Run completed" in done.stdout
    assert len(events(run)) == before
    assert "mine  SUCCEEDED  " in finish(cluster("list"))


def test_readers_leave_and_a_dead_machine_is_a_lost_job(state: Path, tmp_path: Path) -> None:
    """Ctrl-C detaches with 130, and a closed output gives 141, while the job continues."""
    run = tmp_path / "run"
    watching = subprocess.Popen(
        cluster("submit", *JOB, "training.epochs=50", "--run-dir", run, "--id", "mine", "--yes"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for_saves(run, 2)
    watching.send_signal(signal.SIGINT)
    output, errors = watching.communicate(timeout=30)
    assert watching.returncode == 130
    assert output.startswith("local://mine\n")
    assert "Detached" in errors
    assert "distcnn cluster follow local://mine" in errors
    assert status("mine")["state"] == "RUNNING"

    command = shlex.join(cluster("follow", "mine"))
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command} | head -1"], timeout=60)
    assert done.returncode == 141

    driver = psutil.Process(driver_pid(state, "mine"))
    os.kill(driver.ppid(), signal.SIGKILL)
    driver.kill()
    done = subprocess.run(cluster("follow", "mine"), capture_output=True, text=True)
    assert done.returncode == 4
    assert "LOST" in done.stderr


def test_one_id_is_one_job(state: Path, tmp_path: Path) -> None:
    """Sent twice at once; with another config; its keeper killed; to another place."""
    job = [*JOB, "training.epochs=50", "--run-dir", tmp_path / "mine"]
    commands = [cluster("submit", *job, "--yes", "--detach")] * 2
    both = [
        subprocess.Popen(each, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for each in commands
    ]
    assert [each.communicate()[0] for each in both] == ["local://mine\n"] * 2
    assert [each.returncode for each in both] == [0, 0]
    wait_for_saves(tmp_path / "mine", 1)
    drivers = [each for each in psutil.process_iter() if _drives(each, state)]
    assert [each.pid for each in drivers] == [driver_pid(state, "mine")]

    other = subprocess.run(
        cluster("submit", *job, "seed=1", "--yes"), capture_output=True, text=True
    )
    assert other.returncode == 1
    assert "is RUNNING with another config; choose another --id, or stop it" in other.stderr
    elsewhere = ["--target", "ray", "--address", "127.0.0.1:9"]
    other = subprocess.run(
        cluster("submit", *job, *elsewhere, "--yes"), capture_output=True, text=True
    )
    assert other.returncode == 1
    assert "local://mine is RUNNING elsewhere" in other.stderr

    [driver] = drivers
    os.kill(driver.ppid(), signal.SIGKILL)
    assert status("mine")["state"] == "RUNNING"
    assert submit(*job) == "local://mine"
    assert driver_pid(state, "mine") == driver.pid
    # Nobody is there any more to note how the driver ended.
    finish(cluster("stop", "mine"), expected=1)
    assert_gone([driver])
    assert status("mine")["state"] == "LOST"
    assert events(tmp_path / "mine")[-1]["event"] == "stopped"


def _drives(process: psutil.Process, state: Path) -> bool:
    with suppress(psutil.Error):
        is_driver = "distcnn.orchestration.driver" in process.cmdline()
        return is_driver and Path(process.cwd()).is_relative_to(state)
    return False


def test_what_fails_has_the_drivers_own_code(tmp_path: Path) -> None:
    """A folder that holds something else is a mistake of the user's, code 2."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "thesis.tex").write_text("years of work")
    handle = submit(*JOB, "--run-dir", run, "--id", "mine")
    done = subprocess.run(cluster("follow", handle), capture_output=True, text=True)
    assert done.returncode == 2, done.stdout
    assert "is not empty" in done.stdout
    assert status(handle)["exit_code"] == 2


def test_a_sweep_is_a_job_like_any_other(tmp_path: Path) -> None:
    overrides = [each for each in OVERRIDES if not each.startswith("workers.")]
    run = tmp_path / "sweep"
    more = ["num_trials=2", "training.epochs=1", "data.num_train=640"]
    handle = submit("tune", *overrides, *more, "--run-dir", run, "--id", "search")
    assert wait_for_state(handle, "SUCCEEDED")["exit_code"] == 0
    results = json.loads((run / "results.json").read_bytes())
    assert results["status"] == "completed"


def test_nobody_is_there_to_say_yes(tmp_path: Path) -> None:
    done = subprocess.run(
        cluster("submit", *JOB, "--run-dir", tmp_path / "run"),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 2
    assert "--yes" in done.stderr
    assert not (tmp_path / "run").exists()
