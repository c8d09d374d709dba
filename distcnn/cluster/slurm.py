"""The batch script of a job in Slurm, and what Slurm says of a job; both as text."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from distcnn.cluster.job import Job
from distcnn.cluster.spec import ClusterSpec
from distcnn.cluster.status import State, Status
from distcnn.files import read_json, write_atomically

# In the folder of a job.
CODE = "code"
SCRIPT = "job.sbatch"
_STATE = "state.json"
_LOG = "log-{}"  # By Slurm's number.

# All that the script has from where it is submitted: nobody's modules, nobody's Ray.
_PASSED_ON = (
    *("HOME", "USER", "LOGNAME", "PATH", "LANG"),
    # Folders, which all nodes may well see.
    *("DISTCNN_DATA_DIR", "DISTCNN_CACHE_DIR"),
)

_WAITING = {"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
_ACTIVE = {"RUNNING", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING", "STAGE_OUT"}
_STOPPED = {
    "CANCELLED": "it was cancelled",
    "TIMEOUT": "its time was over before it had saved",
    "DEADLINE": "its deadline has passed",
    "PREEMPTED": "its nodes were taken away",
}
_FAILED = {
    "NODE_FAIL": "a node failed",
    "BOOT_FAIL": "a node did not start",
    "OUT_OF_MEMORY": "it had not enough memory; raise cluster.memory_gib_per_node",
    "REVOKED": "its cluster has given it up",
}


def render_script(job: Job, folder: Path, python: str) -> str:
    """What each node of the job runs: the first one as batch script, the others as steps of it.

    Args:
        job: what is rendered.
        folder: the job's own, which all nodes see.
        python: the Python on the nodes.
    """
    code = shlex.quote(str(folder / CODE))
    numbers = [
        *("--nodes", job.spec.nodes, "--cpus", job.spec.cpus_per_node),
        *("--gpus", job.spec.gpus_per_node, "--max-retries", job.spec.max_retries),
    ]
    module = "distcnn.orchestration.allocation"
    command = [python, "-m", module, *map(str, numbers), str(folder)]
    lines = [
        "#!/bin/bash",
        *(f"#SBATCH {option}" for option in _options(job)),
        "umask 077",
        "# Else steps would have no more than what sbatch was told to pass on.",
        "export SLURM_EXPORT_ENV=ALL",
        *_setup(job.spec),
        *(f"export {name}={shlex.quote(value)}" for name, value in job.spec.environment.items()),
        f"export PYTHONPATH={code}${{PYTHONPATH:+:$PYTHONPATH}} PYTHONUNBUFFERED=1",
        f'exec {shlex.join(command)} "$@"',
    ]
    return "".join(f"{line}\n" for line in lines)


def sbatch_command(job: Job, folder: Path) -> list[str]:
    """What submits the script: here is what `#SBATCH` lines cannot quote."""
    passed_on = ",".join([*_PASSED_ON, *job.spec.secrets])
    script = str(folder / SCRIPT)
    return ["sbatch", "--parsable", f"--chdir={folder}", f"--export={passed_on}", script]


def _options(job: Job) -> list[str]:
    """All of it numbers, or words whose letters the spec restricts."""
    spec, slurm = job.spec, job.spec.slurm
    options = {
        "job-name": job.id,
        "partition": slurm.partition,
        "account": slurm.account,
        "qos": slurm.qos,
        "nodes": spec.nodes + slurm.spare_nodes,
        "ntasks-per-node": 1,
        "cpus-per-task": spec.cpus_per_node,
        "mem": f"{memory_mib(spec)}M",
        "gpus-per-node": _gpus(spec),
        "time": minutes(spec),
        "signal": f"B:TERM@{spec.grace_seconds}",
        "output": _LOG.format("%j"),
        "open-mode": "append",
    }
    # However often it may begin again: on its first node, the job itself counts.
    flags = ["requeue"]
    if slurm.spare_nodes:
        # Else Slurm takes all nodes away with the one that fails, and has the job begin again.
        flags.append("no-kill")
    given = [f"--{name}={value}" for name, value in options.items() if value is not None]
    return [*given, *(f"--{flag}" for flag in flags)]


def log_path(folder: Path, slurm_id: str) -> Path:
    """What a job's driver prints, in the job's folder."""
    return folder / _LOG.format(slurm_id)


def memory_mib(spec: ClusterSpec) -> int:
    """Of each node, in MiB, as Slurm counts."""
    return round(spec.memory_gib_per_node * 1024)


def minutes(spec: ClusterSpec) -> int:
    """The time limit: Slurm counts in whole minutes, each time that the job is taken up."""
    return -(-spec.max_seconds // 60)


def _gpus(spec: ClusterSpec) -> str | None:
    if not spec.gpus_per_node:
        return None
    kind = f"{spec.accelerator_type.lower()}:" if spec.accelerator_type else ""
    return f"{kind}{spec.gpus_per_node}"


def _setup(spec: ClusterSpec) -> list[str]:
    if spec.slurm.setup is None:
        return []
    setup = shlex.quote(str(spec.slurm.setup.expanduser().absolute()))
    complaint = '"distcnn: the last command of cluster.slurm.setup has failed"'
    return [f". {setup} || {{ echo {complaint} >&2; exit 1; }}"]


@dataclass(frozen=True)
class AllocationState:
    """How a job is within its allocation, as its first node writes it down."""

    slurm_id: str
    restarts: int
    """How often Slurm had taken it up again."""
    is_driving: bool = False
    """Whether its driver has been started."""
    exit_code: int | None = None

    def write(self, folder: Path) -> None:
        """Replace what the job's folder tells."""
        write_atomically(folder / _STATE, json.dumps(asdict(self)).encode())

    @classmethod
    def read(cls, folder: Path) -> AllocationState | None:
        """What the job's folder tells; None where it tells nothing yet."""
        path = folder / _STATE
        return cls(**read_json(path)) if path.is_file() else None


def fields(text: str) -> dict[str, str]:
    """What `scontrol show` says of one thing, by name.

    Of a name that comes twice, the first one counts: what a user may choose comes late.
    """
    found: dict[str, str] = {}
    for line in text.splitlines():
        name, separator, value = line.strip().partition("=")
        if separator and name in ("Command", "WorkDir", "StdErr", "StdIn", "StdOut"):
            found.setdefault(name, value)  # Paths, each with a line of its own.
            continue
        for word in line.split():
            name, separator, value = word.partition("=")
            if separator:
                found.setdefault(name, value)
    return found


def status_of(told: Mapping[str, str], state: AllocationState | None) -> Status:
    """How a job is.

    Args:
        told: what Slurm says of it (`fields`).
        state: what it says itself; None where that is unknown, or of another job.
    """
    slurm_state, restarts = told["JobState"], int(told.get("Restarts", "0"))
    if slurm_state in _WAITING:
        reason = told.get("Reason", "")
        detail = "" if reason in ("", "None") else reason
        return Status(State.STARTING if restarts else State.QUEUED, detail=detail)
    if slurm_state == "CONFIGURING":
        return Status(State.STARTING, detail="its nodes are being started")
    if slurm_state == "COMPLETING":
        return Status(State.RUNNING, detail="its nodes are being cleared")
    if slurm_state in _ACTIVE:
        is_driving = state is not None and state.restarts == restarts and state.is_driving
        return Status(State.RUNNING if is_driving else State.STARTING)
    if slurm_state in _STOPPED:
        return Status(State.STOPPED, detail=_STOPPED[slurm_state])
    if slurm_state in _FAILED:
        return Status(State.FAILED, detail=_FAILED[slurm_state])
    code, _, number = told.get("ExitCode", "0:0").partition(":")
    exit_code = 128 + int(number) if int(number or 0) else int(code)
    if exit_code == 0 and slurm_state != "COMPLETED":
        return Status(State.FAILED, detail=f"Slurm says {slurm_state}")
    return Status.ended(exit_code)


def status_of_forgotten(state: AllocationState | None) -> Status:
    """How a job is that Slurm knows no more, by what it said itself."""
    if state is None or state.exit_code is None:
        return Status(State.LOST, detail="Slurm knows it no more, and it has left no exit code")
    return Status.ended(state.exit_code)


def limit_in_minutes(limit: str) -> float:
    """A time limit as Slurm writes it (`1-02:03:04`, `30:00`, `UNLIMITED`), in minutes."""
    if not re.fullmatch(r"(\d+-)?[\d:]+", limit):
        return float("inf")
    days, _, rest = limit.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    hours, minutes_, seconds = [0] * (3 - len(parts)) + parts
    return int(days or 0) * 24 * 60 + hours * 60 + minutes_ + seconds / 60
