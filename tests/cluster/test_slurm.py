"""Jobs in a real Slurm: how they end, and how they go on when their nodes are lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path

import pytest

from distcnn import config_file
from distcnn.cluster.job import Job, job_of_run
from distcnn.cluster.parcel import parcel_of
from distcnn.cluster.registry import Remembered
from distcnn.cluster.spec import ClusterSpec
from distcnn.cluster.status import State, Status
from distcnn.cluster.ticket import CONFIG
from distcnn.errors import UserError
from distcnn.findings import Finding
from distcnn.orchestration.targets import OutOfReachError, slurm_target
from distcnn.orchestration.targets.slurm_target import SlurmJob
from tests.cluster.slurm_cluster import SlurmCluster, slurm_cluster, wait_for
from tests.launches import LAUNCHED, attempts, launch_command, restarts, times
from tests.runs import assert_same_result, finish, saves

# A job, from its submission to its end or to what is waited for on the way.
_SECONDS = 240
TWO = ("workers.count=2", "workers.cpus=1", "workers.placement=spread")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Generator[SlurmCluster]:
    with slurm_cluster(3, tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A launch on this machine alone."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    finish(launch_command(run, *TWO))
    return run


@pytest.fixture(autouse=True)
def _as_a_user(
    cluster: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Generator[None]:
    """Slurm's commands are at hand; after each test nothing is left, and all nodes are back."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(cluster.commands), prepend=":")
    yield
    for name in cluster.hosts.names:
        if not cluster.hosts.processes(name):
            cluster.restart(name)
    assert cluster.left() == []


class Submitted:
    """A job that a test has sent."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.run = Path(str(job.run_dir))
        self.folder = job.spec.slurm.directory / job.id
        self.handle = slurm_target.submit(job, parcel_of(job))
        self.attached: SlurmJob = slurm_target.attach(Remembered(self.handle, job.spec, job.id))

    def wait(self, condition: Callable[[], bool] = lambda: False) -> Status:
        """Wait until it has ended, or something has come true before that."""
        deadline = time.monotonic() + _SECONDS
        while not (status := self.attached.status()).state.has_ended and not condition():
            assert time.monotonic() < deadline, (status, self.log)
            time.sleep(0.3)
        return status

    def train(self, num_saves: int = 3) -> None:
        """Wait until it trains, and has saved so often more."""
        before = saves(self.run)
        status = self.wait(lambda: saves(self.run) >= before + num_saves)
        assert status.state is State.RUNNING, (status, self.log)

    @property
    def log(self) -> str:
        return self.attached.log(0).decode()


def job(tmp_path: Path, *overrides: str, spare_nodes: int = 0, **spec: object) -> Job:
    """Two ranks, one on each node."""
    values = {
        "target": "slurm",
        "nodes": 2,
        "cpus_per_node": 2,
        "memory_gib_per_node": 3,
        "max_seconds": 1200,
        "grace_seconds": 40,
        "slurm": {"directory": str(tmp_path / "jobs"), "spare_nodes": spare_nodes},
        **spec,
    }
    config = config_file.load("article", [*LAUNCHED, *TWO, *overrides])
    return job_of_run(config, ClusterSpec.model_validate(values), tmp_path / "runs" / "one", None)


def hosts_of(run: Path, attempt: int) -> set[str]:
    return {worker["host"] for worker in attempts(run)[attempt - 1]["workers"]}


def begin_now(cluster: SlurmCluster, submitted: Submitted) -> None:
    """Slurm lets a job that lost its nodes wait for two minutes; that is not what is tested."""
    number = submitted.handle.id
    wait_for(lambda: submitted.attached.status().state is State.STARTING, _SECONDS)
    wait_for(lambda: "JobState=PENDING" in cluster.asked("scontrol", "show", "job", number))
    cluster.asked("scontrol", "update", f"JobId={number}", "StartTime=now")


def test_a_job_trains_on_two_nodes(
    cluster: SlurmCluster, undisturbed: Path, tmp_path: Path
) -> None:
    asked = job(tmp_path)
    findings = list(slurm_target.check(asked, parcel_of(asked)))
    assert {finding.status for finding in findings} == {"ok"}, findings
    submitted = Submitted(asked)
    began = time.time()
    assert slurm_target.submit(asked, parcel_of(asked)) == submitted.handle
    assert (submitted.handle.target, submitted.handle.places) == ("slurm", ("test",))
    assert submitted.wait() == Status(State.SUCCEEDED, 0)
    assert hosts_of(submitted.run, attempt=1) < set(cluster.hosts.names)
    assert len(hosts_of(submitted.run, attempt=1)) == 2
    assert_same_result(submitted.run, undisturbed)
    assert "Run completed" in submitted.log
    assert submitted.attached.log(10) == submitted.log.encode()[10:]
    assert not (submitted.folder / "token").exists()
    assert submitted.folder.stat().st_mode & 0o077 == 0
    [first_step] = times(submitted.run, "first_step")
    print(f"{first_step - began:.1f} s from its submission to its first step")
    # One that Slurm does not know, and of which there is nothing but a number.
    unknown = SlurmJob("test", "999", None)
    assert unknown.status().state is State.LOST
    assert unknown.log(0) == b""


def test_a_job_keeps_its_exit_code(cluster: SlurmCluster, tmp_path: Path) -> None:
    submitted = Submitted(replace(job(tmp_path), documents={CONFIG: "epoch: 3\n"}))
    assert submitted.wait() == Status(State.FAILED, 2)
    handle_alone = Remembered(submitted.handle, ClusterSpec.model_construct(target="slurm"))
    assert b"epoch" in slurm_target.attach(handle_alone).log(0)


def test_a_job_saves_at_the_end_of_its_time_and_when_it_is_stopped_and_goes_on(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    """Slurm tells a job a grace (40 s here), or up to a minute more, before its time is over."""
    long = job(tmp_path, "training.epochs=400")
    first = Submitted(long)
    first.train()
    cluster.asked("scontrol", "update", f"JobId={first.handle.id}", "TimeLimit=2")
    assert first.wait() == Status.ended(143), first.log
    assert "saving, then stopping" in first.log
    assert cluster.left() == []

    again = Submitted(long)
    assert again.handle != first.handle
    again.train()
    assert len(attempts(again.run)) == 2
    before = saves(again.run)
    again.attached.stop(grace_seconds=40)
    assert first.attached.status() == again.attached.status() == Status.ended(143)
    assert saves(again.run) > before
    assert "saving, then stopping" in again.log
    assert cluster.left() == []


def test_a_secret_is_on_every_node_and_nowhere_to_be_read(
    cluster: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, secret = tmp_path / "seen", "open $(sesame)"
    seen.mkdir()
    setup = tmp_path / "setup.sh"
    setup.write_text(f'printf %s "$STORE_KEY" > {seen}/$SLURMD_NODENAME')
    folder = {"directory": str(tmp_path / "jobs"), "setup": str(setup)}
    asked = replace(job(tmp_path, slurm=folder, secrets=["STORE_KEY"]), documents={CONFIG: "a: 1"})
    with pytest.raises(UserError, match="STORE_KEY: not set here"):
        Submitted(asked)
    monkeypatch.setenv("STORE_KEY", secret)
    submitted = Submitted(asked)
    number = submitted.handle.id
    told = cluster.asked("scontrol", "show", "job", number)
    told += cluster.asked("scontrol", "write", "batch_script", number, "-")
    wait_for(lambda: len(list(seen.iterdir())) == 2)
    told += "\n".join(cluster.left())
    assert submitted.wait() == Status(State.FAILED, 2)
    assert [path.read_text() for path in seen.iterdir()] == [secret] * 2
    files = [path for path in submitted.folder.rglob("*") if path.is_file()]
    assert secret not in told
    assert not any(secret.encode() in path.read_bytes() for path in files)


def test_a_job_that_waits_is_stopped_at_once(cluster: SlurmCluster, tmp_path: Path) -> None:
    waiting = Submitted(job(tmp_path, nodes=3))
    cluster.asked("scontrol", "hold", waiting.handle.id)
    assert waiting.attached.status().state is State.QUEUED
    began = time.monotonic()
    waiting.attached.stop(grace_seconds=60)
    assert time.monotonic() - began < 20
    assert waiting.attached.status().state is State.STOPPED
    assert not waiting.run.exists()


def test_a_node_is_lost_and_a_spare_one_takes_its_place(
    cluster: SlurmCluster, undisturbed: Path, tmp_path: Path
) -> None:
    submitted = Submitted(job(tmp_path, spare_nodes=1))
    submitted.train()
    used = hosts_of(submitted.run, attempt=1)
    lost = max(used - {first_node(cluster, submitted)})
    cluster.hosts.crash(lost)
    assert submitted.wait() == Status(State.SUCCEEDED, 0), submitted.log
    assert lost not in hosts_of(submitted.run, attempt=2)
    assert restarts(submitted.run) == 1
    assert_same_result(submitted.run, undisturbed)


def test_nodes_are_lost_and_the_job_begins_again_on_others(
    cluster: SlurmCluster, undisturbed: Path, tmp_path: Path
) -> None:
    """First the second node, then the first one, on which the driver runs."""
    # By default Ray waits for a minute until it gives up a head that is gone.
    environment = {"RAY_gcs_rpc_server_reconnect_timeout_s": "5"}
    submitted = Submitted(job(tmp_path, environment=environment))
    submitted.train()
    lost = max(hosts_of(submitted.run, attempt=1) - {first_node(cluster, submitted)})
    cluster.hosts.crash(lost)
    begin_now(cluster, submitted)
    submitted.train()
    assert lost not in hosts_of(submitted.run, attempt=len(attempts(submitted.run)))
    assert submitted.log.count("Preflight passed") == 2
    cluster.restart(lost)
    lost = first_node(cluster, submitted)
    cluster.hosts.crash(lost)
    begin_now(cluster, submitted)
    assert submitted.wait() == Status(State.SUCCEEDED, 0), submitted.log
    assert lost not in hosts_of(submitted.run, attempt=len(attempts(submitted.run)))
    assert_same_result(submitted.run, undisturbed)


def test_what_can_never_run_is_found_before_it_is_sent(
    cluster: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = job(tmp_path, slurm={"directory": str(tmp_path), "partition": "gpus"})
    assert any("no partition gpus" in finding.what for finding in failed(elsewhere))
    long = job(tmp_path, max_seconds=3 * 3600)
    assert any("01:00:00 at most, 180 min" in finding.what for finding in failed(long))
    wide = job(tmp_path, cpus_per_node=64)
    assert {finding.subject for finding in failed(wide)} == {"nodes", "sbatch"}
    monkeypatch.setenv("PATH", "/nowhere")
    [finding] = failed(wide)
    assert "login node" in finding.what


def test_slurm_is_out_of_reach(cluster: SlurmCluster, tmp_path: Path) -> None:
    asked = job(tmp_path)
    submitted = Submitted(asked)
    cluster.end_controller()
    try:
        with pytest.raises(OutOfReachError):
            submitted.attached.status()
    finally:
        cluster.start_controller()
    cluster.asked("scancel", submitted.handle.id)
    assert submitted.wait().state is State.STOPPED


def failed(asked: Job) -> list[Finding]:
    findings = slurm_target.check(asked, parcel_of(asked))
    return [finding for finding in findings if finding.status == "fail"]


def first_node(cluster: SlurmCluster, submitted: Submitted) -> str:
    told = cluster.asked("scontrol", "show", "job", submitted.handle.id)
    [name] = [line.partition("=")[2] for line in told.split() if line.startswith("BatchHost=")]
    return name
