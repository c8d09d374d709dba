"""What a driver on a cluster is told, and where it is told it. Nothing but Python's own library."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Literal

Kind = Literal["run", "sweep"]

# Files beside each other, where a job's driver finds them.
TICKET = "job.json"
CONFIG = "config.yaml"
SWEEP = "sweep.yaml"
_PYTHON = "Python"
# What has to be the same where the job was made and where it runs; distcnn itself travels.
_COMPARED = (_PYTHON, "torch", "pytorch-lightning", "ray")


@dataclass(frozen=True)
class Ticket:
    """What a driver on the cluster is told, besides the run's or the sweep's own documents."""

    id: str
    submission: str
    """Of this time that the job was submitted; the same when a target takes it up again."""
    digest: str
    """Of what it computes: one job has one, however often it is submitted."""
    kind: Kind
    run_dir: str
    max_seconds: int
    grace_seconds: int
    is_embedded: bool
    """Whether the driver has a Ray of its own; else the cluster's."""
    versions: Mapping[str, str]
    """Those where the job was made."""
    only_preflight: bool = False
    """Check the cluster, and train nothing."""

    def to_json(self) -> str:
        """The content of the file that travels."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Ticket:
        """What `to_json` wrote."""
        return cls(**json.loads(text))


def versions() -> dict[str, str]:
    """Python's, and those of the libraries by which results may differ."""
    return {name: version_of(name) for name in _COMPARED}


def version_of(name: str) -> str:
    """Of a library, or of `Python`; `none` where it is not installed.

    Without what it was built for (`+cpu`, `+cu128`), which may differ between machines.
    """
    if name == _PYTHON:
        return ".".join(str(part) for part in sys.version_info[:3])
    try:
        return metadata.version(name).partition("+")[0]
    except metadata.PackageNotFoundError:
        return "none"
