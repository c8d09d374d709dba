"""Jobs as tables and as JSON: how each is, where, since when."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distcnn.cluster.registry import Remembered
from distcnn.cluster.status import Status
from distcnn.errors import UserError

# How a job is, or why that cannot be told.
Answer = Status | UserError
_UNKNOWN = "?"


def as_plain(record: Remembered, answer: Answer) -> dict[str, Any]:
    """What scripts are told; the state is None where the job's cluster does not tell it."""
    is_known = isinstance(answer, Status)
    return {
        "id": record.id or record.handle.id,
        "handle": str(record.handle),
        "state": str(answer.state) if is_known else None,
        "exit_code": answer.exit_code if is_known else None,
        "detail": answer.detail if is_known else str(answer),
        "run_dir": str(record.run_dir) if record.run_dir else None,
        "submitted": record.submitted or None,
    }


def print_job(record: Remembered, status: Status) -> None:
    """One job."""
    plain = as_plain(record, status)
    told = {name: value for name, value in plain.items() if name != "id" and value is not None}
    _print_rows(
        [(name.replace("_", " "), str(value)) for name, value in told.items() if value != ""]
    )


def print_jobs(jobs: Sequence[tuple[Remembered, Answer]]) -> None:
    """A line each."""
    if not jobs:
        print("No job was submitted from here; see: distcnn cluster submit --help")
        return
    rows = [("id", "state", "submitted (UTC)", "handle")]
    for record, answer in jobs:
        state = str(answer.state) if isinstance(answer, Status) else _UNKNOWN
        submitted = record.submitted.replace("T", " ").removesuffix("+00:00")
        rows.append((record.id, state, submitted, str(record.handle)))
    _print_rows(rows)


def _print_rows(rows: Sequence[Sequence[str]]) -> None:
    # Handles are to be copied: however narrow the terminal is, nothing is cut.
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print(
            "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        )
