"""Jobs that were submitted from this account, remembered across shells."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import platformdirs

from distcnn.cluster.handle import Handle, HandleError
from distcnn.cluster.job import Job, plain
from distcnn.cluster.spec import ClusterSpec
from distcnn.files import read_json, write_atomically
from distcnn.location import Location, location


@dataclass(frozen=True)
class Remembered:
    """A job, as this account knows it; of one that was submitted elsewhere, its handle alone."""

    handle: Handle
    spec: ClusterSpec
    id: str = ""
    kind: str = ""
    run_dir: Location | None = None
    digest: str = ""
    submitted: str = ""
    """When, UTC."""


def state_directory() -> Path:
    """`DISTCNN_STATE_DIR`, or else the platform's state folder of this user; it may not exist."""
    chosen = os.environ.get("DISTCNN_STATE_DIR")
    path = Path(chosen).expanduser() if chosen else platformdirs.user_state_path("distcnn")
    return path.absolute()


def remember(job: Job, handle: Handle) -> None:
    """Note a job; a later one of the same id takes its place."""
    submitted = datetime.now(UTC).isoformat(timespec="seconds")
    record = {**plain(job), "handle": str(handle), "submitted": submitted}
    folder = _folder()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomically(folder / f"{job.id}.json", (json.dumps(record, indent=2) + "\n").encode())


def remembered() -> Iterator[Remembered]:
    """All of them, the newest last."""
    records = [_read(path) for path in sorted(_folder().glob("*.json"))]
    yield from sorted(records, key=lambda record: record.submitted)


def find(text: str) -> Remembered:
    """The job of that handle, or of that id.

    Raises:
        HandleError: it is no handle, and no id that is remembered.
    """
    for record in remembered():
        if text in (record.id, str(record.handle)):
            return record
    if "://" not in text:
        known = ", ".join(record.id for record in remembered())
        raise HandleError(
            f"no job {text!r} is remembered here (there are: {known or 'none'}); name it by its"
            " handle, as `submit` printed it"
        )
    handle = Handle.parse(text)
    return Remembered(handle, ClusterSpec.model_construct(target=handle.target))


def _folder() -> Path:
    return state_directory() / "jobs"


def _read(path: Path) -> Remembered:
    values: dict[str, Any] = read_json(path)
    return Remembered(
        handle=Handle.parse(values["handle"]),
        # As it was submitted: what is required of a spec today is not asked of it.
        spec=ClusterSpec.model_validate_json(json.dumps(values["spec"]), strict=True),
        id=values["id"],
        kind=values["kind"],
        run_dir=location(values["run_dir"]),
        digest=values["digest"],
        submitted=values["submitted"],
    )
