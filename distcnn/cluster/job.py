"""What is submitted: a run or a sweep, where it is kept, and the cluster that it is to have."""

from __future__ import annotations

import hashlib
import json
import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from distcnn import config_file
from distcnn.cluster.handle import ID
from distcnn.cluster.spec import ClusterSpec
from distcnn.cluster.ticket import CONFIG, SWEEP, TICKET, Kind, Ticket, version_of, versions
from distcnn.config import RunConfig
from distcnn.errors import UsageError
from distcnn.location import Location
from distcnn.sweep import file as sweep_file
from distcnn.sweep.file import Sweep

_BASE = "base.yaml"
_LONGEST_ID = 47
_LONGEST_NAME = _LONGEST_ID - len("-20261128-140000")


@dataclass(frozen=True)
class Job:
    """Everything that is to be known of a job before it is sent."""

    id: str
    kind: Kind
    run_dir: Location
    spec: ClusterSpec
    documents: Mapping[str, str]
    """The resolved run config, or the sweep and its base, by the names of their files."""
    submission: str = field(default_factory=lambda: uuid.uuid4().hex)
    only_preflight: bool = False
    workload: str | None = None
    """Somebody's own, whose module travels."""

    @property
    def ticket(self) -> Ticket:
        """What its driver is told."""
        return Ticket(
            id=self.id,
            submission=self.submission,
            digest=self.digest,
            kind=self.kind,
            run_dir=str(self.run_dir),
            max_seconds=self.spec.max_seconds,
            grace_seconds=self.spec.grace_seconds,
            is_embedded=self.spec.target == "local",
            versions=versions(),
            only_preflight=self.only_preflight,
        )

    @property
    def documents_text(self) -> str:
        """What its driver reads, for people: a YAML document for each file."""
        files = {TICKET: self.ticket.to_json(), **self.documents}
        return "".join(f"---\n# {name}\n{text}" for name, text in files.items())

    @property
    def digest(self) -> str:
        """Of what it computes, SHA-256: two jobs of one id have to have the same."""
        return hashlib.sha256(json.dumps(dict(self.documents), sort_keys=True).encode()).hexdigest()


def job_of_run(
    config: RunConfig, spec: ClusterSpec, run_dir: Location | None, job_id: str | None
) -> Job:
    """A job that trains a run.

    Args:
        config: as the user wrote it.
        spec: of its cluster.
        run_dir: the run's folder; `<storage.directory>/<id>` by default.
        job_id: by default the name of `run_dir`, else the run's name and the time.

    Raises:
        UsageError: see `checked_id` and `kept_at`.
    """
    chosen = checked_id(job_id, run_dir, config.name)
    kept = kept_at(run_dir or config.storage.directory / chosen, spec)
    text = config_file.to_yaml(_as_all_see_it(config, kept, spec))
    return Job(chosen, "run", kept, spec, {CONFIG: text}, workload=config.workload)


def job_of_sweep(
    sweep: Sweep, spec: ClusterSpec, run_dir: Location | None, job_id: str | None
) -> Job:
    """A job that runs a sweep; see `job_of_run`."""
    chosen = checked_id(job_id, run_dir, sweep.config.name)
    kept = kept_at(run_dir or sweep.base.storage.directory / chosen, spec)
    documents = {
        SWEEP: config_file.plain_to_yaml(sweep_file.to_plain(sweep.config, _BASE)),
        _BASE: config_file.to_yaml(_as_all_see_it(sweep.base, kept, spec)),
    }
    return Job(chosen, "sweep", kept, spec, documents, workload=sweep.base.workload)


def _as_all_see_it(config: RunConfig, kept: Location, spec: ClusterSpec) -> RunConfig:
    """With whole paths: a driver's working directory is another.

    Raises:
        UsageError: a folder of data is another one on each machine.
    """
    data = config.data.directory
    if data is not None and not data.is_absolute():
        if spec.target in ("ray", "kuberay"):
            raise UsageError(f"data.directory={data}: on other machines, name it by its whole path")
        config = config.with_values(data={"directory": str(data.absolute())})
    return config.with_values(storage={"directory": str(kept.parent)})


def checked_id(job_id: str | None, run_dir: Location | None, name: str) -> str:
    """The id of a job: what every target takes for a name.

    Raises:
        UsageError: the one that is given is none.
    """
    if job_id is None and run_dir is not None:
        return _slug(run_dir.name, _LONGEST_ID)
    if job_id is None:
        return f"{_slug(name, _LONGEST_NAME)}-{time.strftime('%Y%m%d-%H%M%S')}"
    if not ID.fullmatch(job_id):
        raise UsageError(
            f"--id {job_id!r}: up to 47 of a-z, 0-9 and '-', beginning with a letter and not ending"
            " with '-'; Kubernetes takes no other names"
        )
    return job_id


def _slug(text: str, longest: int) -> str:
    """What every target takes for a name, and people know again."""
    slug = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    return (slug if slug[:1].isalpha() else f"run-{slug}")[:longest].rstrip("-")


def kept_at(run_dir: Location, spec: ClusterSpec) -> Location:
    """Where the run is kept, as all its processes write it.

    Raises:
        UsageError: other machines would not find it there.
    """
    if not isinstance(run_dir, Path):
        return run_dir
    if spec.target == "kuberay":
        if spec.kuberay.volume_claim is None:
            raise UsageError(
                f"{run_dir} would be gone with its pod; keep runs in an object store"
                " (storage.directory=s3://bucket/prefix), or on a volume that all pods write:"
                " cluster.kuberay with a volume_claim"
            )
        if not run_dir.is_relative_to(spec.kuberay.mount_path):
            raise UsageError(
                f"{run_dir} is not on the volume that pods see at {spec.kuberay.mount_path}; set"
                f" storage.directory={spec.kuberay.mount_path}/runs"
            )
    if spec.target == "ray" and not run_dir.is_absolute():
        raise UsageError(
            f"{run_dir} is another folder on each machine of the cluster; name one that all share"
            " by its whole path, or s3://bucket/prefix (storage.directory or --run-dir)"
        )
    return run_dir.absolute()


def requirements() -> str:
    """The exact versions of all libraries that distcnn asks for, as pip takes them."""
    lines: set[str] = set()
    for required in metadata.requires("distcnn") or ():
        matched = re.match(r"([A-Za-z0-9._-]+)(\[[^\]]*\])?", required)
        if matched and "extra ==" not in required:
            lines.add(f"{matched[0]}=={version_of(matched[1])}")
    return "".join(f"{line}\n" for line in sorted(lines, key=str.lower))


def plain(job: Job) -> dict[str, Any]:
    """What is remembered of a job, as JSON holds it."""
    return {
        "id": job.id,
        "kind": job.kind,
        "run_dir": str(job.run_dir),
        "digest": job.digest,
        "spec": job.spec.model_dump(mode="json"),
    }
