"""What an examination found: of this machine (`doctor`), of a cluster (`launch --preflight`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.text import Text


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
    styles = {"ok": "green", "note": "yellow", "fail": "bold red"}
    width = max((len(finding.subject) for finding in findings), default=0)
    console = Console(highlight=False)
    for finding in findings:
        line = Text(f"{finding.status:<4}", style=styles[finding.status])
        line.append(f"  {finding.subject:<{width}}  {finding.what}", style="default")
        console.print(line, soft_wrap=True)
