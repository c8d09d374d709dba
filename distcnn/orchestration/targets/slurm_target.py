"""Jobs in a Slurm cluster, by its own commands, from a machine that has them."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock

from distcnn.cluster.handle import Handle
from distcnn.cluster.job import Job
from distcnn.cluster.parcel import Parcel
from distcnn.cluster.registry import Remembered
from distcnn.cluster.slurm import (
    CODE,
    SCRIPT,
    AllocationState,
    fields,
    limit_in_minutes,
    log_path,
    memory_mib,
    minutes,
    render_script,
    sbatch_command,
    status_of,
    status_of_forgotten,
)
from distcnn.cluster.spec import ClusterSpec
from distcnn.cluster.status import Status
from distcnn.errors import UserError
from distcnn.files import read_from, write_atomically
from distcnn.findings import Finding
from distcnn.orchestration.targets import (
    OutOfReachError,
    digest_in,
    ends_within,
    refuse_another_config,
)

_COMMANDS = ("sbatch", "scancel", "scontrol", "sinfo", "squeue", "srun")
_LOCK = ".lock"
_ANSWER_SECONDS = 60.0
# Beyond its grace: for Slurm to kill what does not end (its KillWait, 30 by default), and to tell.
_KILLED_SECONDS = 120.0
_UNREACHABLE = ("Unable to contact slurm controller", "Socket timed out", "Connection refused")


def render(job: Job, parcel: Parcel) -> str:
    """The command that submits, then the script; beside that the files of the job lie in `code`."""
    folder = _folder(job.spec, job.id)
    command = shlex.join(sbatch_command(job, folder))
    return f"{command}\n\n{render_script(job, folder, _python(job.spec))}"


def check(job: Job, parcel: Parcel) -> Iterator[Finding]:
    """Whether Slurm is there, has such nodes, and would take the job."""
    lacking = [command for command in _COMMANDS if shutil.which(command) is None]
    if lacking:
        what = f"no {', '.join(lacking)} here; submit from a login node of the cluster"
        yield Finding("fail", "slurm", what)
        return
    try:
        yield Finding("ok", "slurm", f"{_cluster()}, {_asked('sbatch', '--version').strip()}")
        yield from _check_partition(job.spec)
        yield _check_script(job)
    except UserError as error:
        yield Finding("fail", "slurm", str(error))
    yield _check_folder(_folder(job.spec, job.id))
    yield _check_python(job.spec)


def _check_partition(spec: ClusterSpec) -> Iterator[Finding]:
    listed = [fields(part) for part in _asked("scontrol", "show", "partition").split("\n\n")]
    partitions = {told["PartitionName"]: told for told in listed if told}
    default = next((name for name, told in partitions.items() if told["Default"] == "YES"), None)
    name = spec.slurm.partition or default
    known = ", ".join(partitions)
    if name is None or name not in partitions:
        asked = f"no partition {name}" if name else "no default partition"
        yield Finding("fail", "partition", f"{asked}; set cluster.slurm.partition: {known}")
        return
    told = partitions[name]
    if told["State"] != "UP":
        what = f"{name} is {told['State']}; choose another (cluster.slurm.partition): {known}"
        yield Finding("fail", "partition", what)
    else:
        yield Finding("ok", "partition", name)
    if minutes(spec) > limit_in_minutes(told["MaxTime"]):
        remedy = "lower --max-time, and submit again with the same --id to go on"
        what = (
            f"{name} gives {told['MaxTime']} at most, {minutes(spec)} min are asked for; {remedy}"
        )
        yield Finding("fail", "time", what)
    yield _check_nodes(spec, name)


def _check_nodes(spec: ClusterSpec, partition: str) -> Finding:
    asked = (
        f"{spec.cpus_per_node} CPUs, {memory_mib(spec)} MiB and {spec.gpus_per_node} GPUs per node"
    )
    listed = _asked("sinfo", "-h", "-N", "-p", partition, "-o", "%c|%m|%G|%T").split()
    nodes = [line.split("|") for line in listed]
    fitting = [
        state
        for cpus, memory, resources, state in nodes
        if int(cpus) >= spec.cpus_per_node
        and int(memory) >= memory_mib(spec)
        and _num_gpus(resources, spec.accelerator_type) >= spec.gpus_per_node
    ]
    count = spec.nodes + spec.slurm.spare_nodes
    what = f"{len(fitting)} of {len(nodes)} in {partition} have {asked}"
    if len(fitting) < count:
        best = " or ".join(
            sorted({f"{cpus} CPUs, {mib} MiB, {gpus}" for cpus, mib, gpus, _ in nodes})
        )
        return Finding("fail", "nodes", f"{what}, {count} are asked for; there are: {best}")
    able = [state for state in fitting if re.match(r"(idle|mixed|alloc|completing|planned)", state)]
    if len(able) < count:
        what += f"; of them {len(able)} are up, {count} are asked for: it would wait"
        return Finding("note", "nodes", what)
    return Finding("ok", "nodes", what)


def _num_gpus(resources: str, kind: str | None) -> int:
    """Of a node, by its generic resources: `gpu:a100:4(S:0-1),gpu:h100:2`."""
    counts = re.findall(r"gpu:(?:([^:,(]+):)?(\d+)", resources)
    return sum(int(count) for name, count in counts if kind is None or name == kind.lower())


def _check_script(job: Job) -> Finding:
    folder = _folder(job.spec, job.id)
    # Without its last word, the script's path: it is read from standard input.
    command = [*sbatch_command(job, folder)[:-1], "--test-only"]
    said = _run(command, render_script(job, folder, _python(job.spec)))
    what = said.stderr.strip().removeprefix("sbatch: ")
    if said.returncode == 0:
        return Finding("ok", "sbatch", what)
    return Finding("fail", "sbatch", f"{what}; Slurm takes no such job: see cluster.slurm")


def _check_folder(folder: Path) -> Finding:
    existing = next(parent for parent in folder.parents if parent.exists())
    if os.access(existing, os.W_OK | os.X_OK):
        return Finding("ok", "folder", f"{folder}; all nodes have to see it")
    remedy = "set cluster.slurm.directory to a folder of yours that all nodes see"
    return Finding("fail", "folder", f"{existing} cannot be written; {remedy}")


def _check_python(spec: ClusterSpec) -> Finding:
    python = _python(spec)
    setup = spec.slurm.setup
    if setup is not None and not setup.expanduser().is_file():
        return Finding("fail", "setup", f"{setup} is not there; see cluster.slurm.setup")
    if shutil.which(python) is None:
        # It may well be on the nodes.
        return Finding("note", "python", f"{python} is not here; see cluster.slurm.python")
    return Finding("ok", "python", f"{python}; all nodes have to see it")


def submit(job: Job, parcel: Parcel) -> Handle:
    """Send it, unless it waits or runs.

    Raises:
        UserError: Slurm refuses it, or its folder cannot be written.
        OutOfReachError: Slurm does not answer.
    """
    folder, cluster = _folder(job.spec, job.id), _cluster()
    unset = [name for name in job.spec.secrets if name not in os.environ]
    if unset:
        raise UserError(f"{', '.join(unset)}: not set here; export it before you submit")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / _LOCK).exists():
        raise UserError(
            f"{folder} is not the folder of a job; choose another --id, or another"
            " cluster.slurm.directory"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        with FileLock(folder / _LOCK):  # Of two that send it at once, one does.
            known = _on_its_way(job, folder, cluster)
            if known is not None:
                refuse_another_config(job, digest_in(folder / CODE), known)
                return known
            _lay_out(job, parcel, folder)
            # With `--parsable`: the number, and of several clusters the one that has it.
            slurm_id = _asked(*sbatch_command(job, folder)).strip().partition(";")[0]
            return Handle("slurm", (cluster,), slurm_id)
    except OSError as error:
        raise UserError(
            f"cannot write {folder}: {error.strerror}; set cluster.slurm.directory to a folder of"
            " yours that all nodes see"
        ) from error


def _on_its_way(job: Job, folder: Path, cluster: str) -> Handle | None:
    for slurm_id in _asked("squeue", "--me", f"--name={job.id}", "-h", "-o", "%A").split():
        attached = SlurmJob(cluster, slurm_id, None)
        if attached.folder == folder and not attached.status().state.has_ended:
            return Handle("slurm", (cluster,), slurm_id)
    return None


def _lay_out(job: Job, parcel: Parcel, folder: Path) -> None:
    shutil.rmtree(folder / CODE, ignore_errors=True)
    parcel.unpack(folder / CODE)
    script = render_script(job, folder, _python(job.spec))
    write_atomically(folder / SCRIPT, script.encode())


def attach(remembered: Remembered) -> SlurmJob:
    """Take hold of a job."""
    folder = _folder(remembered.spec, remembered.id) if remembered.id else None
    [cluster] = remembered.handle.places
    return SlurmJob(cluster, remembered.handle.id, folder)


class SlurmJob:
    """A job, by the number that Slurm has given it.

    Args:
        cluster: which Slurm; commands ask the one of this machine.
        slurm_id: that number.
        folder: the job's; where it is unknown, Slurm's word counts.
    """

    def __init__(self, cluster: str, slurm_id: str, folder: Path | None) -> None:
        self._cluster = cluster
        self._id = slurm_id
        self._is_here = False
        self._folder = folder

    @property
    def folder(self) -> Path | None:
        """The job's; None where nobody knows."""
        if self._folder is None:
            told = self._told()
            self._folder = Path(told["WorkDir"]) if told else None
        return self._folder

    def status(self) -> Status:
        """How it is."""
        told, folder = self._told(), self.folder
        state = AllocationState.read(folder) if folder is not None else None
        if state is not None and state.slurm_id != self._id:
            state = None
        return status_of(told, state) if told else status_of_forgotten(state)

    def _told(self) -> dict[str, str]:
        if not self._is_here and (here := _cluster()) != self._cluster:
            raise UserError(
                f"the job is in the Slurm cluster {self._cluster}, and this machine's is {here}; go"
                " to a login node of that one"
            )
        self._is_here = True
        said = _run(["scontrol", "show", "job", self._id])
        if "Invalid job id" in said.stderr:
            return {}
        return fields(_stdout(said))

    def log(self, offset: int) -> bytes:
        """What its driver has printed, from so many bytes on."""
        folder = self.folder
        return read_from(log_path(folder, self._id), offset) if folder is not None else b""

    def stop(self, grace_seconds: int) -> None:
        """Have it save and end; take its nodes away after the grace."""
        told = self._told()
        if told and told["JobState"] == "RUNNING":
            # The script alone: the workers are to go on until they have saved.
            _run(["scancel", "--batch", "--signal=TERM", self._id])
            if ends_within(self, grace_seconds):
                return
        _run(["scancel", self._id])
        if not ends_within(self, _KILLED_SECONDS):
            raise UserError(
                f"Slurm's job {self._id} has not ended; see scontrol show job {self._id}"
            )


def _folder(spec: ClusterSpec, job_id: str) -> Path:
    return spec.slurm.directory.expanduser().absolute() / job_id


def _python(spec: ClusterSpec) -> str:
    return str(spec.slurm.python or sys.executable)


def _cluster() -> str:
    named = re.search(
        r"^ClusterName\s*=\s*(\S+)", _asked("scontrol", "show", "config"), re.MULTILINE
    )
    assert named is not None
    return named[1]


def _asked(*command: str) -> str:
    """What a command of Slurm's answers.

    Raises:
        UserError: it refuses, with the reason.
        OutOfReachError: Slurm does not answer.
    """
    return _stdout(_run(list(command)))


def _stdout(said: subprocess.CompletedProcess[str]) -> str:
    if said.returncode != 0:
        kind = OutOfReachError if any(sign in said.stderr for sign in _UNREACHABLE) else UserError
        # Of several lines, the last one is what came of the others.
        [*_, reason] = said.stderr.strip().splitlines() or [f"exit code {said.returncode}"]
        raise kind(f"{Path(said.args[0]).name}: {reason}")
    return said.stdout


def _run(command: list[str], sent: str = "") -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(  # noqa: S603 - a list of words, no shell
            command,
            input=sent,
            capture_output=True,
            text=True,
            timeout=_ANSWER_SECONDS,
            check=False,
        )
    except FileNotFoundError as error:
        raise UserError(
            f"no {command[0]} here: use distcnn on a login node of the Slurm cluster"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise OutOfReachError(
            f"{command[0]} has had no answer for {_ANSWER_SECONDS:g} s"
        ) from error
