"""How a job is: seven states, and the exit codes that stand for how it ended."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from enum import StrEnum

_STOPPED_EXIT_CODE = 3
_LOST_EXIT_CODE = 4
# A driver that was asked to stop has saved, and ends so.
_SAVED = (128 + signal.SIGTERM, 128 + signal.SIGINT)


class State(StrEnum):
    """How a job is."""

    QUEUED = "QUEUED"
    """It waits for machines."""
    STARTING = "STARTING"
    """Machines are made ready for it: for the first time, or again after some were lost."""
    RUNNING = "RUNNING"
    """Its driver runs."""
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    STOPPED = "STOPPED"
    """It was asked to, or its time was over; what it had is saved."""
    LOST = "LOST"
    """Nobody knows: its cluster is gone, or knows it no more."""

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will come of it."""
        return self in (State.SUCCEEDED, State.FAILED, State.STOPPED, State.LOST)


@dataclass(frozen=True)
class Status:
    """How a job is, as far as can be told."""

    state: State
    exit_code: int | None = None
    """Of its driver, once that has ended and where it is known."""
    detail: str = ""
    """For people: what it waits for, why it failed."""
    is_stopping: bool = False
    """Whether it was asked to end, and saves."""

    @classmethod
    def ended(cls, exit_code: int, detail: str = "") -> Status:
        """Of a job whose driver has ended so.

        Args:
            exit_code: as a shell has it, or negative where a signal ended it.
            detail: for people.
        """
        if exit_code < 0:
            exit_code = 128 - exit_code
        if exit_code == 0:
            return cls(State.SUCCEEDED, 0, detail)
        if exit_code in _SAVED:
            return cls(State.STOPPED, exit_code, detail or "it was asked to end, and saved")
        return cls(State.FAILED, exit_code, detail)

    @property
    def follow_exit_code(self) -> int:
        """What `follow` ends with: the driver's own code; 3 for STOPPED, 4 for LOST; 1 for a
        failure whose code nobody knows."""
        if self.state is State.STOPPED:
            return _STOPPED_EXIT_CODE
        if self.state is State.LOST:
            return _LOST_EXIT_CODE
        if self.state is State.FAILED:
            return self.exit_code or 1
        return 0
