"""How training ended: a final, typed answer, for a machine to act on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from distcnn.training.snapshot import Counters


@dataclass(frozen=True)
class Outcome:
    """How training ended, for now or for good."""

    status: Literal["completed", "stopped", "failed"]
    counters: Counters
    reason: str = ""
    signal_number: int | None = None
