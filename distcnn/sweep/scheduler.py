"""Which trials train on: the part of a scheduler that a study asks."""

from __future__ import annotations

from typing import Protocol


class Scheduler(Protocol):
    """Stops trials early; told every epoch of every trial, in the order of the ledger."""

    def stops(self, number: int, epoch: int, score: float) -> bool:
        """Whether a trial is to stop after this epoch; less is better."""
        ...


class Patient:
    """Stops none."""

    def stops(self, number: int, epoch: int, score: float) -> bool:
        """No."""
        return False
