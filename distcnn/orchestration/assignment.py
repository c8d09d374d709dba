"""An attempt, as the driver hands it to its workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from distcnn.orchestration.line import LineAddress
from distcnn.run_directory.lease import Fence
from distcnn.run_directory.run import RunDirectory

Purpose = Literal["run", "trial", "winner"]
"""A `run` is trained and finalized; a sweep's `trial` is trained alone; its `winner`, which has
been trained, is finalized alone."""


@dataclass(frozen=True)
class Assignment:
    """What each worker is given; nothing in it is left to be decided."""

    config: dict[str, Any]
    """Resolved, as plain JSON; validated again where it arrives."""
    run: RunDirectory
    fence: Fence
    data_sha256: str
    hardware: dict[str, Any]
    """Of the worker that the run began on."""
    waiting_since: float
    """See `Place`."""
    purpose: Purpose
    mailbox: LineAddress
