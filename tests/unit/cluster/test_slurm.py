"""The batch script as a shell reads it, and what is made of what Slurm says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distcnn import config_file
from distcnn.cluster import slurm
from distcnn.cluster.job import Job, job_of_run
from distcnn.cluster.slurm import AllocationState
from distcnn.cluster.spec import ClusterSpec
from distcnn.cluster.status import State, Status

_FOLDER = Path("/shared/jobs/one")
# Stands in for the Python of the job's nodes: says what it was started with.
_TELL = """#!{python}
import json, os, sys
print(json.dumps([sys.argv[1:], dict(os.environ)]))
"""
_NASTY = st.text(st.sampled_from(" \n\t\"'`$(){}[]\\;&|<>*?~#!%=äx0"), max_size=20)
# Of a job in Slurm 22.05.
_TOLD = """JobId=7 JobName=one
   UserId=me(1000) GroupId=me(1000) MCS_label=N/A
   Priority=4294901758 Nice=0 Account=(null) QOS=(null)
   JobState={state} Reason={reason} Dependency=(null)
   Requeue=1 Restarts={restarts} BatchFlag=1 Reboot=0 ExitCode={exit_code}
   NodeList=h[1-2]
   BatchHost=h1
   Command=/a JobState=FAILED/job.sbatch
   WorkDir=/a JobState=FAILED
   StdErr=/a JobState=FAILED/log
"""


def job(**spec: Any) -> Job:
    values = {"target": "slurm", "nodes": 2, **spec}
    config = config_file.load("article", [])
    return job_of_run(config, ClusterSpec.model_validate(values), Path("/shared/runs/one"), None)


def options(script: str) -> list[str]:
    return re.findall(r"^#SBATCH --(.*)$", script, re.MULTILINE)


def run(script: str, *arguments: str) -> tuple[list[str], dict[str, str]]:
    """What the script starts: its arguments and its environment."""
    done = subprocess.run(
        ["bash", "-s", "--", *arguments],
        input=script,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return tuple(json.loads(done.stdout))


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("a python's $(bin)") / "py `thon`"
    path.write_text(_TELL.format(python=sys.executable))
    path.chmod(0o755)
    return str(path)


def test_a_script_asks_for_what_the_spec_says() -> None:
    asked = job(
        cpus_per_node=8,
        gpus_per_node=4,
        accelerator_type="A100",
        memory_gib_per_node=63.5,
        max_seconds=3601,
        grace_seconds=90,
        secrets=["AWS_SECRET_ACCESS_KEY"],
        slurm={"partition": "gpu", "account": "lab", "qos": "high", "spare_nodes": 1},
    )
    script = slurm.render_script(asked, _FOLDER, "/opt/python")
    assert options(script) == [
        "job-name=one",
        "partition=gpu",
        "account=lab",
        "qos=high",
        "nodes=3",
        "ntasks-per-node=1",
        "cpus-per-task=8",
        "mem=65024M",
        "gpus-per-node=a100:4",
        "time=61",
        "signal=B:TERM@90",
        "output=log-%j",
        "open-mode=append",
        "requeue",
        "no-kill",
    ]
    assert script.splitlines()[-1] == (
        "exec /opt/python -m distcnn.orchestration.allocation --nodes 2 --cpus 8 --gpus 4"
        ' --max-retries 3 /shared/jobs/one "$@"'
    )
    assert slurm.sbatch_command(asked, _FOLDER) == [
        "sbatch",
        "--parsable",
        "--chdir=/shared/jobs/one",
        "--export=HOME,USER,LOGNAME,PATH,LANG,DISTCNN_DATA_DIR,DISTCNN_CACHE_DIR,AWS_SECRET_ACCESS_KEY",
        "/shared/jobs/one/job.sbatch",
    ]


def test_what_is_not_asked_for_is_left_to_slurm() -> None:
    script = slurm.render_script(job(), _FOLDER, "python3")
    names = {option.partition("=")[0] for option in options(script)}
    assert not names & {"partition", "account", "qos", "gpus-per-node", "no-kill"}
    assert "gpus-per-node=2" in slurm.render_script(job(gpus_per_node=2), _FOLDER, "python3")


@settings(max_examples=50, deadline=None)
@given(values=st.lists(_NASTY, min_size=1, max_size=3), name=_NASTY.filter(bool))
def test_whatever_a_user_writes_arrives_as_it_was_written(
    python: str, values: list[str], name: str
) -> None:
    environment = {f"VALUE_{number}": value for number, value in enumerate(values)}
    folder = Path("/shared") / name.replace("/", "")
    script = slurm.render_script(job(environment=environment), folder, python)
    arguments, seen = run(script, "10.0.0.1:6379")
    assert {key: seen[key] for key in environment} == environment
    assert arguments[-2:] == [str(folder), "10.0.0.1:6379"]
    assert seen["PYTHONPATH"] == str(folder / "code")
    assert seen["SLURM_EXPORT_ENV"] == "ALL"


def test_a_setup_comes_first_and_its_failure_is_told(python: str, tmp_path: Path) -> None:
    setup = tmp_path / "set `up` $(it)"
    setup.write_text("export FROM_SETUP=1 BOTH=setup PYTHONPATH=/theirs\n")
    asked = job(environment={"BOTH": "spec"}, slurm={"setup": str(setup)})
    script = slurm.render_script(asked, _FOLDER, python)
    _, seen = run(script)
    assert (seen["FROM_SETUP"], seen["BOTH"]) == ("1", "spec")
    assert seen["PYTHONPATH"] == "/shared/jobs/one/code:/theirs"
    setup.write_text("false\n")
    failed = subprocess.run(["bash"], input=script, capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert "cluster.slurm.setup has failed" in failed.stderr


def told(state: str, exit_code: str = "0:0", restarts: int = 0, reason: str = "None") -> Any:
    return slurm.fields(
        _TOLD.format(state=state, exit_code=exit_code, restarts=restarts, reason=reason)
    )


def test_a_folder_may_have_any_name() -> None:
    assert told("RUNNING")["WorkDir"] == "/a JobState=FAILED"
    assert told("RUNNING")["JobState"] == "RUNNING"


_DRIVING = AllocationState("7", restarts=1, is_driving=True)


@pytest.mark.parametrize(
    ("said", "state", "expected"),
    [
        (told("PENDING", reason="Resources"), None, Status(State.QUEUED, detail="Resources")),
        (told("PENDING", restarts=1), _DRIVING, Status(State.STARTING)),
        (told("RUNNING", restarts=1), None, Status(State.STARTING)),
        (told("RUNNING", restarts=1), _DRIVING, Status(State.RUNNING)),
        (told("RUNNING", restarts=2), _DRIVING, Status(State.STARTING)),
        (told("COMPLETED"), _DRIVING, Status(State.SUCCEEDED, 0)),
        (told("FAILED", "7:0"), _DRIVING, Status(State.FAILED, 7)),
        (told("FAILED", "143:0"), None, Status.ended(143)),
        (told("FAILED", "0:15"), None, Status.ended(143)),
        (told("FAILED", "0:9"), None, Status(State.FAILED, 137)),
        # Only what Slurm calls completed is a success.
        (told("FAILED", "0:0"), None, Status(State.FAILED, None, "Slurm says FAILED")),
        (told("LAUNCH_FAILED"), None, Status(State.FAILED, None, "Slurm says LAUNCH_FAILED")),
    ],
)
def test_how_a_job_is(said: Any, state: AllocationState | None, expected: Status) -> None:
    assert slurm.status_of(said, state) == expected


@pytest.mark.parametrize(
    ("slurm_state", "expected"),
    [
        ("CONFIGURING", State.STARTING),
        ("COMPLETING", State.RUNNING),
        ("CANCELLED", State.STOPPED),
        ("TIMEOUT", State.STOPPED),
        ("NODE_FAIL", State.FAILED),
        ("OUT_OF_MEMORY", State.FAILED),
    ],
)
def test_how_slurm_ends_a_job(slurm_state: str, expected: State) -> None:
    status = slurm.status_of(told(slurm_state), None)
    assert status.state is expected
    assert status.detail


def test_what_slurm_has_forgotten_its_folder_tells(tmp_path: Path) -> None:
    assert AllocationState.read(tmp_path) is None
    assert slurm.status_of_forgotten(None).state is State.LOST
    assert slurm.status_of_forgotten(_DRIVING).state is State.LOST
    AllocationState("7", 0, is_driving=True, exit_code=0).write(tmp_path)
    assert slurm.status_of_forgotten(AllocationState.read(tmp_path)) == Status(State.SUCCEEDED, 0)


@pytest.mark.parametrize(
    ("written", "minutes"),
    [
        ("30:00", 30),
        ("01:00:30", 60.5),
        ("1-02:00:00", 26 * 60),
        ("UNLIMITED", float("inf")),
    ],
)
def test_time_limits(written: str, minutes: float) -> None:
    assert slurm.limit_in_minutes(written) == minutes
