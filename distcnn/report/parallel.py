"""Parallel coordinates: every field an axis, every trial a line across them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from distcnn.sweep.space import Choice, Domain, Space, Uniform
from distcnn.wording import accuracy_text

_WIDTH, _HEIGHT = 940.0, 320.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 60.0, 60.0, 42.0, 14.0
_NUM_SHADES = 5


@dataclass(frozen=True)
class _Coordinate:
    """One upright axis: where values stand on it, from 0 at its foot to 1."""

    name: str
    ticks: Sequence[tuple[float, str]]
    places: Sequence[float]


def parallel_coordinates(
    space: Space, trials: Sequence[tuple[dict[str, Any], float]]
) -> Markup | None:
    """The picture, of each trial's values and accuracy; the best ones in front, and darkest."""
    if len(trials) < 2:
        return None
    axes = [_coordinate(field, domain, trials) for field, domain in space.items()]
    axes.append(_accuracy([accuracy for _, accuracy in trials]))
    apart = (_WIDTH - _LEFT - _RIGHT) / max(1, len(axes) - 1)
    ranks = sorted(range(len(trials)), key=lambda index: trials[index][1])
    lines = Markup().join(
        Markup('<polyline class="strand q{}" points="{}"/>').format(
            _NUM_SHADES * rank // len(ranks),
            " ".join(
                f"{_LEFT + number * apart:.1f},{_down(each.places[index]):.1f}"
                for number, each in enumerate(axes)
            ),
        )
        for rank, index in enumerate(ranks)
    )
    uprights = Markup().join(
        _upright(each, _LEFT + number * apart) for number, each in enumerate(axes)
    )
    alt = "Each trial as a line across its values to its validation accuracy"
    return Markup(
        '<svg class="chart parallel" viewBox="0 0 {:g} {:g}" role="img" aria-label="{}">{}{}</svg>'
    ).format(_WIDTH, _HEIGHT, alt, lines, uprights)


def _down(share: float) -> float:
    return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)


def _upright(each: _Coordinate, x: float) -> Markup:
    texts = Markup().join(
        Markup('<text x="{:.1f}" y="{:.1f}" class="halo">{}</text>').format(
            x + 6, _down(share) - 5, text
        )
        for share, text in each.ticks
    )
    return Markup(
        '<path class="base" d="M{0:.1f},{1:g}V{2:g}"/>'
        '<text class="label" x="{0:.1f}" y="16" text-anchor="middle">{3}</text>{4}'
    ).format(x, _down(0), _down(1), each.name, texts)


def _coordinate(
    field: str, domain: Domain, trials: Sequence[tuple[dict[str, Any], float]]
) -> _Coordinate:
    values = [values[field] for values, _ in trials]
    name = field.rpartition(".")[2].replace("_", " ")
    if isinstance(domain, Choice):
        is_ordered = all(isinstance(value, (int, float)) for value in domain.values)
        choices: Sequence[Any] = sorted(domain.values) if is_ordered else domain.values
        known = [json.dumps(value) for value in choices]
        apart = 1 / max(1, len(known) - 1)
        ticks = [(index * apart, _plain(text)) for index, text in enumerate(known)]
        return _Coordinate(
            name, ticks, [known.index(json.dumps(value)) * apart for value in values]
        )
    scale: Any = math.log if isinstance(domain, Uniform) and domain.log else float
    low, high = scale(domain.low), scale(domain.high)
    places = [(scale(value) - low) / (high - low) for value in values]
    return _Coordinate(name, [(0.0, f"{domain.low:g}"), (1.0, f"{domain.high:g}")], places)


def _plain(text: str) -> str:
    return text.strip('[]"')


def _accuracy(values: Sequence[float]) -> _Coordinate:
    low, high = min(values), max(values)
    width = high - low or 1
    ticks = [(0.0, accuracy_text(low, 1)), (1.0, accuracy_text(high, 1))]
    return _Coordinate("validation accuracy", ticks, [(value - low) / width for value in values])
