"""The space of a sweep: for each dotted field of a run config, the values it may take."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

Values: TypeAlias = dict[str, Any]
"""What a trial changes in the run config: a value for each dotted field."""


_FEW = 50


class SpaceError(ValueError):
    """A domain that is not written as it should be."""


@dataclass(frozen=True)
class Uniform:
    """Any number between two, each as likely as the other; by its logarithm if `log`."""

    low: float
    high: float
    log: bool = False

    def draw(self, source: random.Random) -> float:
        """One number."""
        if self.log:
            return math.exp(source.uniform(math.log(self.low), math.log(self.high)))
        return source.uniform(self.low, self.high)

    def extremes(self) -> Sequence[Any]:
        """Values that stand for all: if a config takes these, it takes the others."""
        return self.low, self.high


@dataclass(frozen=True)
class Steps:
    """One of the numbers `low`, `low + step`, ... up to `high`; whole where these are."""

    low: float
    high: float
    step: float

    @property
    def count(self) -> int:
        """How many there are."""
        return math.floor((self.high - self.low) / self.step + 1e-9) + 1

    def at(self, index: int) -> float:
        """The number at an index, from 0."""
        return self.low + index * self.step

    def index(self, value: float) -> int:
        """The index of a number."""
        return round((value - self.low) / self.step)

    def draw(self, source: random.Random) -> float:
        """One number."""
        return self.at(source.randrange(self.count))

    def extremes(self) -> Sequence[Any]:
        """All of them, where they are few, since one in the middle may not fit; else the ends."""
        if self.count <= _FEW:
            return [self.at(index) for index in range(self.count)]
        return self.at(0), self.at(self.count - 1)


@dataclass(frozen=True)
class Choice:
    """One of some values; in a grid, each of them."""

    values: tuple[Any, ...]
    is_grid: bool = False

    def draw(self, source: random.Random) -> Any:
        """One value."""
        return source.choice(self.values)

    def extremes(self) -> Sequence[Any]:
        """All of them."""
        return self.values


Domain: TypeAlias = Uniform | Steps | Choice
Space: TypeAlias = dict[str, Domain]
"""By the dotted field of a run config."""


def varied(space: Space) -> Space:
    """The fields that have more than one value."""
    return {field: each for field, each in space.items() if len(set(map(str, each.extremes()))) > 1}


_FORMS = {
    "uniform": "[low, high]",
    "loguniform": "[low, high], both above 0",
    "quniform": "[low, high, step], step above 0",
    "randint": "[low, high], whole numbers; high is left out",
    "choice": "[a, b, ...]",
    "grid": "[a, b, ...]",
}


def parse_domain(plain: object) -> Domain:
    """The domain that `{kind: [...]}` stands for.

    Raises:
        SpaceError: it is written in another way.
    """
    if not isinstance(plain, dict) or len(plain) != 1:
        kinds = ", ".join(_FORMS)
        raise SpaceError(f"{plain!r} is no domain; write one of {kinds}, as in {{choice: [1, 2]}}")
    [(kind, arguments)] = plain.items()
    if kind not in _FORMS:
        raise SpaceError(f"{kind!r} is no kind of domain; there is {', '.join(_FORMS)}")
    if not isinstance(arguments, list) or not _is_well_formed(kind, arguments):
        raise SpaceError(f"{kind}: {arguments!r}; it takes {_FORMS[kind]}")
    return _domain(kind, arguments)


def _is_well_formed(kind: str, arguments: list[Any]) -> bool:
    if kind in ("choice", "grid"):
        return len(arguments) > 0
    if len(arguments) != (3 if kind == "quniform" else 2):
        return False
    if not all(type(each) in (int, float) and math.isfinite(each) for each in arguments):
        return False
    low, high, *step = arguments
    if kind == "randint" and not all(type(each) is int for each in arguments):
        return False
    if kind == "loguniform" and low <= 0:
        return False
    return low < high and all(each > 0 for each in step)


def _domain(kind: str, arguments: list[Any]) -> Domain:
    match kind:
        case "uniform" | "loguniform":
            low, high = arguments
            return Uniform(float(low), float(high), log=kind == "loguniform")
        case "quniform":
            return Steps(*arguments)
        case "randint":
            low, high = arguments
            return Steps(low, high - 1, 1)
        case _:
            return Choice(tuple(arguments), is_grid=kind == "grid")


def draw(space: Space, seed: int, number: int) -> Values:
    """The values of trial `number`: a pure function of these three.

    Each field draws from a source of its own, so that one more field changes none of the others.
    """
    return {
        path: domain.draw(random.Random(f"{seed} {number} {path}"))  # noqa: S311 - no secret
        for path, domain in space.items()
    }


def grid(space: Mapping[str, Choice]) -> Iterator[Values]:
    """Every combination, the last field changing fastest."""
    for combination in itertools.product(*(domain.values for domain in space.values())):
        yield dict(zip(space, combination, strict=True))


def grid_size(space: Mapping[str, Choice]) -> int:
    """How many combinations there are."""
    return math.prod(len(domain.values) for domain in space.values())


def describe(values: Values) -> str:
    """A trial's values for people: `lr 0.00312, channels [16, 32]`.

    Sections are left out: the names of fields are told apart by them in the space alone.
    """
    return ", ".join(
        f"{path.rpartition('.')[2]} {value_text(value)}" for path, value in values.items()
    )


def value_text(value: object) -> str:
    """A field's value, short."""
    if isinstance(value, float):
        return f"{value:.3g}"
    return value if isinstance(value, str) else json.dumps(value)
