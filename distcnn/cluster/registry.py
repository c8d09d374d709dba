"""Jobs that were submitted from this account, remembered across shells."""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import platformdirs

from distcnn.cluster.handle import ID, Handle, HandleError
from distcnn.cluster.job import Job, plain
from distcnn.cluster.spec import ClusterSpec
from distcnn.errors import UsageError, UserError
from distcnn.files import DamagedFileError, read_json, temporary_beside, write_atomically
from distcnn.location import Location, location

_REMEDY = (
    "If the job runs, name it by the handle that `submit` printed; if it has ended, delete the file"
)


@dataclass(frozen=True)
class Remembered:
    """A job, as this account knows it; of one that was submitted elsewhere, its handle alone."""

    handle: Handle
    spec: ClusterSpec
    id: str = ""
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
    """Note a job; a later one of the same id takes its place.

    Raises:
        UserError: it cannot be noted.
    """
    submitted = datetime.now(UTC).isoformat(timespec="seconds")
    record = {**plain(job), "handle": str(handle), "submitted": submitted}
    with _explained(f"{handle} was sent, and cannot be noted"):
        write_atomically(_path_of(job.id), (json.dumps(record, indent=2) + "\n").encode())


def prepare() -> None:
    """Make sure that a job can be noted, before it is sent.

    Raises:
        UserError: it cannot.
    """
    with _explained("jobs cannot be noted, so nothing was sent"):
        _folder().mkdir(parents=True, exist_ok=True)
        _folder().chmod(0o700)
        with temporary_beside(_folder() / "trial") as trial:
            trial.touch()


@contextmanager
def _explained(what: str) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{what}: {error.filename or _folder()}: {error.strerror}; set DISTCNN_STATE_DIR to a"
            " folder of yours"
        ) from error


def remembered() -> Iterator[Remembered]:
    """All of them that can be read, the newest last."""
    records: list[Remembered] = []
    for path in _folder().glob("*.json"):
        with suppress(DamagedFileError):
            records.append(_read(path))
    yield from sorted(records, key=lambda record: record.submitted)


def known(job_id: str) -> Remembered | None:
    """The newest job of that id; None where there was none.

    Raises:
        DamagedFileError: nobody can tell.
    """
    path = _path_of(job_id)
    return _read(path) if path.is_file() else None


def find(text: str) -> Remembered:
    """The job of that handle, or of that id.

    Raises:
        HandleError: it is no handle, and no id that is remembered.
        DamagedFileError: what is remembered of that id cannot be read.
    """
    if ID.fullmatch(text) and (record := known(text)) is not None:
        return record
    for record in remembered():
        if text == str(record.handle):
            return record
    if "://" not in text:
        ids = ", ".join(record.id for record in remembered())
        raise HandleError(
            f"no job {text!r} is remembered here (there are: {ids or 'none'}); name it by its"
            " handle, as `submit` printed it"
        )
    handle = Handle.parse(text)
    return Remembered(handle, ClusterSpec.model_construct(target=handle.target))


def _folder() -> Path:
    return state_directory() / "jobs"


def _path_of(job_id: str) -> Path:
    return _folder() / f"{job_id}.json"


def _read(path: Path) -> Remembered:
    values: dict[str, Any] = read_json(path, _REMEDY)
    try:
        return _record(values)
    except (KeyError, TypeError, ValueError, UsageError) as error:
        raise DamagedFileError(path, _REMEDY) from error


def _record(values: dict[str, Any]) -> Remembered:
    return Remembered(
        handle=Handle.parse(values["handle"]),
        spec=ClusterSpec.model_validate_json(json.dumps(values["spec"]), strict=True),
        id=values["id"],
        run_dir=location(values["run_dir"]),
        digest=values["digest"],
        submitted=values["submitted"],
    )
