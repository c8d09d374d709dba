"""Why an attempt ended before its time, and whether it is worth another one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from distcnn.config import RecoveryConfig
from distcnn.wording import counted

Kind = Literal["unstarted", "lost", "hung", "peer", "out of memory", "error", "user"]
# When workers fail together, the first of these kinds tells why: a worker whose peer is lost fails
# too, and says nothing of its own.
_TELLING: tuple[Kind, ...] = ("user", "out of memory", "error", "hung", "lost", "peer", "unstarted")


class WorkerError(Exception):
    """What went wrong in a worker, in a form that reaches the driver."""

    def __init__(self, kind: Kind, what: str, step: int | None = None) -> None:
        super().__init__(kind, what, step)  # As positional arguments, which is what pickle keeps.
        self.kind: Kind = kind
        self.what = what
        self.step = step

    def __str__(self) -> str:
        return self.what


@dataclass(frozen=True)
class Failure:
    """Why an attempt failed."""

    kind: Kind
    what: str
    """For people, on one line; more lines where a traceback helps."""
    step: int
    """The step at which it happened, as far as is known, since the start of the run."""

    def is_again(self, old: Failure) -> bool:
        """Whether the same went wrong at the same step, so that it would again."""
        if self.kind not in ("out of memory", "error"):
            return False
        return (self.kind, self.step, self._cause) == (old.kind, old.step, old._cause)

    @property
    def _cause(self) -> str:
        """What went wrong, without where: processes and hosts are others each time."""
        return "" if self.kind == "out of memory" else self.headline.partition(": ")[2]

    @property
    def headline(self) -> str:
        """Its first line."""
        return self.what.partition("\n")[0]


def diagnose(workers: Mapping[int, WorkerError], step: int) -> Failure:
    """The one reason behind what workers reported, by rank; `step` is the last one known done."""
    kinds: set[Kind] = {error.kind for error in workers.values()}
    kind = min(kinds, key=_TELLING.index)
    telling = [error for _, error in sorted(workers.items()) if error.kind == kind]
    what = "; ".join(dict.fromkeys(error.what for error in telling))
    steps = [error.step for error in telling if error.step is not None]
    return Failure(kind, what, min(steps, default=step))


@dataclass
class Budget:
    """What is left of the restarts that a config grants, and what has failed before."""

    config: RecoveryConfig
    failures: list[Failure] = field(default_factory=list[Failure])
    num_preemptions: int = 0

    @property
    def num_restarts(self) -> int:
        """Of both kinds."""
        return len(self.failures) + self.num_preemptions

    def refuse(self, failure: Failure) -> str | None:
        """Count a failure; why it is not worth another attempt, None if it is."""
        before = list(self.failures)
        self.failures.append(failure)
        if failure.kind == "user":
            return failure.what
        if any(failure.is_again(old) for old in before):
            return f"twice at step {failure.step}, so it would happen again: {failure.what}"
        if len(before) >= self.config.max_failures:
            granted = self.config.max_failures
            return (
                f"{failure.what}\nThat was failure {granted + 1}, and recovery.max_failures ="
                f" {granted}; see what fails, then run the same again, which begins to count anew"
            )
        return None

    def refuse_preemption(self) -> str | None:
        """Count a preemption; why there is no attempt after it, None if there is."""
        self.num_preemptions += 1
        granted = self.config.max_preemptions
        if self.num_preemptions > granted:
            return (
                f"preempted {counted(self.num_preemptions, 'time')}, and recovery.max_preemptions ="
                f" {granted}; run the same again, which begins to count anew"
            )
        return None
