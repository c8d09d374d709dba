"""The chart that most claims are shown by: medians over seeds, with what lies around them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from distcnn.charts.axis import Axis
from distcnn.charts.chart import Chart, Figure
from distcnn.claims.claim import Spread

Spreads: TypeAlias = Mapping[tuple[str, float], Spread]
"""By the name of a series and the place on the horizontal axis."""


def ends_of(spreads: Spreads) -> list[float]:
    """What an axis has to have room for."""
    return [end for each in spreads.values() for end in (each.low, each.high)]


def over(heading: str, x: Axis, y: Axis, spreads: Spreads, caption: str) -> Figure:
    """A line through the medians of each series; at each place a bar over all seeds."""
    chart = Chart(x, y)
    names = sorted({name for name, _ in spreads})
    marks = []
    for number, name in enumerate(names):
        of_series = [(place, each) for (of, place), each in sorted(spreads.items()) if of == name]
        marks.append(chart.line([(place, each.median) for place, each in of_series], number))
        marks += [
            chart.line([(place, each.low), (place, each.high)], number, "solid")
            for place, each in of_series
            if each.low < each.high
        ]
    told = f"{caption} Medians, and from the least to the greatest of the seeds."
    return Figure(heading, chart.drawn(told, marks), told, names if len(names) > 1 else ())
