"""What an examination found: of this machine (`doctor`), of a cluster (`launch --preflight`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table


@dataclass(frozen=True)
class Finding:
    """One line of the examination."""

    status: Literal["ok", "note", "fail"]
    subject: str
    what: str
    """With the remedy, where it failed."""


def any_failed(findings: Sequence[Finding]) -> bool:
    """Whether something will not work."""
    return any(finding.status == "fail" for finding in findings)


def print_findings(findings: Sequence[Finding]) -> None:
    """A line each; what fails comes with its remedy."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    styles = {"ok": "green", "note": "yellow", "fail": "bold red"}
    for finding in findings:
        status = f"[{styles[finding.status]}]{finding.status}[/]"
        table.add_row(status, escape(finding.subject), escape(finding.what))
    Console(highlight=False).print(table)
