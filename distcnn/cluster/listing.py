"""Jobs as tables and as JSON: how each is, where, since when."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from distcnn.cluster.registry import Remembered
from distcnn.cluster.status import Status

# Of a job whose cluster does not answer.
_UNKNOWN = "?"


def as_plain(record: Remembered, status: Status | None) -> dict[str, Any]:
    """What scripts are told; the state is None where the job's cluster does not answer."""
    return {
        "id": record.id or record.handle.id,
        "handle": str(record.handle),
        "state": str(status.state) if status else None,
        "exit_code": status.exit_code if status else None,
        "detail": status.detail if status else "",
        "run_dir": str(record.run_dir) if record.run_dir else None,
        "submitted": record.submitted or None,
    }


def print_job(record: Remembered, status: Status) -> None:
    """One job."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("state", str(status.state))
    for name, value in as_plain(record, status).items():
        if name not in ("id", "state") and value not in (None, ""):
            table.add_row(name.replace("_", " "), str(value))
    Console(highlight=False, markup=False, soft_wrap=True).print(table)


def print_jobs(jobs: Sequence[tuple[Remembered, Status | None]]) -> None:
    """A line each."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if not jobs:
        console.print("No job was submitted from here; see: distcnn cluster submit --help")
        return
    table = Table("id", "state", "submitted", "handle", box=None, pad_edge=False)
    for record, status in jobs:
        state = str(status.state) if status else _UNKNOWN
        submitted = record.submitted.replace("T", " ").removesuffix("+00:00")
        table.add_row(record.id, state, submitted, str(record.handle))
    console.print(table)
