"""Following a job whose cluster comes and goes; and its driver's own word on how it ended."""

import json
import os
import subprocess
import sys

import pytest

from distcnn.cluster.job import job_of_run
from distcnn.cluster.parcel import parcel_of
from distcnn.cluster.spec import ClusterSpec
from distcnn.cluster.status import State, Status
from distcnn.config import RunConfig
from distcnn.orchestration import follow as following
from distcnn.orchestration.targets import OutOfReachError


class Scripted:
    """A job that answers as it is told, one answer a look."""

    def __init__(self, *answers: tuple[State, bytes] | None) -> None:
        self._answers = list(answers)
        self._said = b""

    def status(self) -> Status:
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if answer is None:
            raise OutOfReachError("no answer")
        state, said = answer
        self._said += said
        return Status(state, 0 if state is State.SUCCEEDED else None)

    def log(self, offset: int) -> bytes:
        return self._said[offset:]

    def stop(self, grace_seconds: int) -> None:
        raise AssertionError


class Seen:
    def __init__(self) -> None:
        self.states: list[State] = []
        self.text = b""
        self.troubles: list[str] = []
        self.has_ended = False

    def status(self, status: Status) -> None:
        self.states.append(status.state)

    def log(self, chunk: bytes) -> None:
        self.text += chunk

    def trouble(self, message: str) -> None:
        if message:
            self.troubles.append(message)

    def end(self) -> None:
        self.has_ended = True


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(following, "_LOOK_EVERY_SECONDS", 0.01)


def test_nothing_is_told_twice_or_missed_through_a_lost_connection():
    running = State.RUNNING
    job = Scripted((running, b"one\n"), None, None, (running, b"two\n"), (State.SUCCEEDED, b"end"))
    seen = Seen()
    ended = following.follow(job, seen, lost_seconds=60)
    assert ended.state is State.SUCCEEDED
    assert seen.text == b"one\ntwo\nend"
    assert len(seen.troubles) == 2
    assert seen.has_ended


def test_a_job_that_is_not_heard_of_is_lost():
    seen = Seen()
    ended = following.follow(Scripted((State.RUNNING, b"one\n"), None), seen, lost_seconds=0.1)
    assert (ended.state, ended.follow_exit_code) == (State.LOST, 4)
    assert seen.states[-1] is State.LOST


def drive(tmp_path, **changed):
    job = job_of_run(RunConfig(), ClusterSpec(), tmp_path / "runs" / "mine", None)
    parcel_of(job).unpack(tmp_path / "code")
    ticket = json.loads(job.ticket.to_json())
    (tmp_path / "code/job.json").write_text(json.dumps({**ticket, **changed}))
    command = [sys.executable, "-m", "distcnn.orchestration.driver", "job.json"]
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        command, cwd=tmp_path / "code", capture_output=True, text=True, env=environment
    )


def test_a_driver_with_other_versions_says_so_and_does_nothing(tmp_path):
    done = drive(tmp_path, versions={"torch": "1.0", "nothing-like-it": "2"})
    assert done.returncode == 1
    assert "torch 1.0 where the job was made, 2." in done.stderr
    assert "nothing-like-it 2 where the job was made, none here" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs/mine").exists()


@pytest.mark.parametrize(("exit_code", "told"), [(1, "it failed"), (143, "its time was over")])
def test_what_would_come_again_is_not_tried_again(tmp_path, exit_code, told):
    """As when a target takes a failed job up again, which a new submission is not."""
    (tmp_path / "runs").mkdir()
    ended = {"submission": "abc", "exit_code": exit_code}
    (tmp_path / "runs/.mine-ended.json").write_text(json.dumps(ended))
    done = drive(tmp_path, submission="abc")
    assert done.returncode == exit_code
    assert f"has ended before: {told}" in done.stderr


@pytest.mark.slow  # Each driver starts a Ray.
def test_a_mistake_of_the_users_is_told_once(tmp_path):
    """A folder that holds something else: the second time, nothing is looked at any more."""
    thesis = tmp_path / "runs/mine/thesis.tex"
    thesis.parent.mkdir(parents=True)
    thesis.write_text("years of work")
    first = drive(tmp_path, submission="abc")
    assert (first.returncode, "is not empty" in first.stderr) == (2, True), first.stderr
    second = drive(tmp_path, submission="abc")
    assert (second.returncode, "has ended before" in second.stderr) == (2, True)
    assert "has ended before" not in drive(tmp_path, submission="another").stderr
    assert [path.name for path in thesis.parent.iterdir()] == ["thesis.tex"]


def test_a_jobs_time_ends_it_and_it_is_not_taken_up_again(tmp_path):
    """Its time is over before it trains: it has begun to start a Ray."""
    limits = {"max_seconds": 13, "grace_seconds": 10}
    first = drive(tmp_path, submission="abc", **limits)
    assert first.returncode == 143, first.stderr
    assert "The job's time (cluster.max_seconds) is over" in first.stderr
    second = drive(tmp_path, submission="abc", **limits)
    assert second.returncode == 143
    assert "its time was over" in second.stderr
