"""What a claim is made of: measures of each trial, and a verdict over all of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, cast

from distcnn.charts.chart import Figure
from distcnn.sweep.config import ClaimName

if TYPE_CHECKING:
    from distcnn.claims.subject import Subject

Key = TypeVar("Key")


@dataclass(frozen=True)
class Seen:
    """A trial that has ended.

    Attributes:
        values: of the fields that the study varies.
        accuracies: on the validation split, after each epoch.
        measures: what the claim's `measure` has found.
    """

    values: Mapping[str, Any]
    accuracies: Sequence[float]
    measures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """Whether a claim held here.

    Attributes:
        holds: `yes`, `partly` or `no`; `open` while too little is measured.
        sentence: what was found, with its numbers.
        figures: that show it.
    """

    holds: Literal["yes", "partly", "no", "open"]
    sentence: str
    figures: Sequence[Figure] = ()


class Claim(Protocol):
    """A module of this folder, named as the claim with `_` for `-`."""

    CLAIM: str
    """As the article has it."""
    FIELDS: Sequence[str]
    """What a sweep has to vary for it to be judged."""

    def measure(self, subject: Subject) -> dict[str, Any]:
        """What a trial's network tells, once it is trained; no test image is looked at."""
        ...

    def judge(self, trials: Sequence[Seen]) -> Verdict:
        """Weigh all trials."""
        ...


def find(name: ClaimName) -> Claim:
    """The claim of that name."""
    return cast(Claim, import_module(f"distcnn.claims.{name.replace('-', '_')}"))


def judge(name: ClaimName, trials: Sequence[Seen]) -> Verdict:
    """Weigh what the trials of a study have shown."""
    claim = find(name)
    missing = [field for field in claim.FIELDS if any(field not in t.values for t in trials)]
    if missing:
        return Verdict("open", f"To judge this, the space has to vary {' and '.join(missing)}.")
    if not trials:
        return Verdict("open", "No trial has ended.")
    for path in claim.FIELDS:
        if any(isinstance(trial.values[path], list) for trial in trials):
            return Verdict("open", f"To judge this, {path} has to be the same for all blocks.")
    return claim.judge(trials)


def grouped(trials: Iterable[Seen], key: Callable[[Seen], Key]) -> dict[Key, list[Seen]]:
    """The trials by some key, in the keys' order."""
    groups: dict[Key, list[Seen]] = {}
    for trial in trials:
        groups.setdefault(key(trial), []).append(trial)
    return dict(sorted(groups.items(), key=lambda item: cast(Any, item[0])))


@dataclass(frozen=True)
class Spread:
    """Some numbers, one a seed: their median, least and greatest."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, numbers: Iterable[float]) -> Spread:
        """Of one number at least."""
        values = sorted(numbers)
        return cls(statistics.median(values), values[0], values[-1], len(values))

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.low:.3g} to {self.high:.3g}, n = {self.count})"

    @property
    def percent(self) -> str:
        """The same of shares."""
        low, high = 100 * self.low, 100 * self.high
        return f"{100 * self.median:.1f} % ({low:.1f} to {high:.1f}, n = {self.count})"
