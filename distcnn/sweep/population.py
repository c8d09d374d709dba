"""Population-based training: which members go on as perturbed copies of which others.

After M. Jaderberg et al., "Population Based Training of Neural Networks", 2017: truncation
selection, and perturbation by a factor. All members are compared at the same epoch, so that the
same seed gives the same population however many train at a time.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from distcnn.sweep.file import Sweep
from distcnn.sweep.space import Uniform, Values


@dataclass(frozen=True)
class Member:
    """A trial that trains on."""

    number: int
    values: Values
    score: float
    """At the last epoch; less is better."""


@dataclass(frozen=True)
class Copy:
    """A trial that goes on from another's checkpoint."""

    number: int
    values: Values
    parent: int
    epoch: int
    replaced: int | None
    """The trial in whose stead it trains; None for one that has failed before."""


def exchange(
    members: Sequence[Member], sweep: Sweep, generation: int, next_number: int, epoch: int
) -> list[Copy]:
    """Replace the worst members, and those that have failed, by copies of the best.

    Args:
        members: those that train on.
        sweep: its settings and its space.
        generation: how many exchanges there have been.
        next_number: of the first copy.
        epoch: at which the members are.
    """
    size = sweep.config.num_trials or len(members)
    num_replaced = min(len(members) // 2, max(1, int(sweep.config.scheduler.quantile * size)))
    ranked = sorted(members, key=lambda member: (member.score, member.number))
    best = ranked[: max(1, num_replaced)]
    replaced: list[int | None] = [each.number for each in ranked[len(ranked) - num_replaced :]]
    replaced += [None] * (size - len(members))
    copies: list[Copy] = []
    for number, old in enumerate(replaced if best else [], start=next_number):
        source = random.Random(f"{sweep.config.seed} {generation} {number}")  # noqa: S311
        parent = source.choice(best)
        values = _perturbed(parent.values, sweep, source)
        copies.append(Copy(number, values, parent.number, epoch, old))
    return copies


def _perturbed(values: Values, sweep: Sweep, source: random.Random) -> Values:
    """The values, each a little more or less where it is a number of a range, else drawn anew."""
    factor = sweep.config.scheduler.perturbation
    perturbed: dict[str, Any] = {}
    for field, domain in sweep.space.items():
        if isinstance(domain, Uniform):
            value = values[field] * source.choice((factor, 1 / factor))
            perturbed[field] = min(max(value, domain.low), domain.high)
        else:
            perturbed[field] = domain.draw(source)
    return perturbed
