"""An attempt, as the driver hands it to its workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from distcnn.orchestration.mailbox import MailboxAddress
from distcnn.run_directory.lease import Fence
from distcnn.run_directory.run import RunDirectory


@dataclass(frozen=True)
class Assignment:
    """What each worker is given; nothing in it is left to be decided."""

    config: dict[str, Any]
    """Resolved, as plain JSON; validated again where it arrives."""
    run: RunDirectory
    fence: Fence
    data_sha256: str
    waiting_since: float
    """See `Place`."""
    mailbox: MailboxAddress
