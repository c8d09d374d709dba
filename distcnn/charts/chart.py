"""Charts as SVG inside a page, which has their colours and letters (`templates/style.css`)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from distcnn.charts.axis import Axis

# In units of the picture, which are pixels where a page has room for them.
_WIDTH, _HEIGHT = 460.0, 292.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 54.0, 16.0, 28.0, 44.0

_SAMPLE = Markup('<svg class="swatch" viewBox="0 0 28 12" aria-hidden="true">{}</svg>')

Point = tuple[float, float]


@dataclass(frozen=True)
class Chart:
    """An empty chart, which makes the marks that are then put into it.

    A series has a number, from 0, by which the page gives it a colour, a dash and a shape.
    """

    x: Axis
    y: Axis

    def at(self, x: float, y: float) -> Point:
        """Where a pair of values stands in the picture."""
        right = _LEFT + self.x.share(x) * (_WIDTH - _LEFT - _RIGHT)
        down = _HEIGHT - _BOTTOM - self.y.share(y) * (_HEIGHT - _TOP - _BOTTOM)
        return round(right, 2), round(down, 2)

    def line(self, values: Iterable[Point], series: int, kind: str = "") -> Markup:
        """Through all values; what is not finite is a gap."""
        pieces: list[list[str]] = [[]]
        for x, y in values:
            if math.isfinite(x) and math.isfinite(y):
                pieces[-1].append("{:g},{:g}".format(*self.at(x, y)))
            elif pieces[-1]:
                pieces.append([])
        return _joined(
            Markup('<polyline class="line s{} {}" points="{}"/>').format(
                series, kind, " ".join(piece)
            )
            for piece in pieces
            if piece
        )

    def dot(self, value: Point, series: int, told: str, kind: str = "") -> Markup:
        """One value, in the shape of its series; `told` is shown where a pointer rests on it."""
        x, y = self.at(*value)
        return Markup('<path class="dot s{} {}" d="{}"><title>{}</title></path>').format(
            series, kind, _shape(x, y, series), told
        )

    def cross(self, value: Point, series: int, told: str) -> Markup:
        """Where something ends."""
        x, y = self.at(*value)
        return Markup(
            '<path class="cross s{}" d="M{:g},{:g}l6,6m0,-6l-6,6"><title>{}</title></path>'
        ).format(series, x - 3, y - 3, told)

    def bar(self, low: float, high: float, value: float, series: int, told: str) -> Markup:
        """From the bottom up to a value, between two places of the horizontal axis."""
        left, top = self.at(low, value)
        right, bottom = self.at(high, self.y.low)
        return Markup(
            '<rect class="bar s{}" x="{:g}" y="{:g}" width="{:g}" height="{:g}">'
            "<title>{}</title></rect>"
        ).format(series, left + 0.5, top, right - left - 1, bottom - top, told)

    def rule(self, x: float, label: str) -> Markup:
        """A value of the horizontal axis, from bottom to top."""
        across, top = self.at(x, self.y.high)
        _, bottom = self.at(x, self.y.low)
        return Markup(
            '<path class="rule" d="M{0:g},{1:g}V{2:g}"/>'
            '<text class="note" x="{0:g}" y="{3:g}" text-anchor="middle">{4}</text>'
        ).format(across, bottom, top, top - 5, label)

    def drawn(self, alt: str, marks: Iterable[Markup]) -> Markup:
        """The picture; `alt` says what is to be seen, to those who cannot see it."""
        return Markup(
            '<svg class="chart" viewBox="0 0 {:g} {:g}" role="img" aria-label="{}">{}{}</svg>'
        ).format(_WIDTH, _HEIGHT, alt, self._axes(), _joined(marks))

    def _axes(self) -> Markup:
        left, right, bottom = _LEFT, _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
        parts: list[Markup] = []
        for value, text in self.y.ticks:
            _, y = self.at(self.x.low, value)
            parts.append(
                Markup(
                    '<path class="grid" d="M{:g},{:g}H{:g}"/>'
                    '<text x="{:g}" y="{:g}" text-anchor="end">{}</text>'
                ).format(left, y, right, left - 6, y + 4, text)
            )
        for value, text in self.x.ticks:
            x, _ = self.at(value, self.y.low)
            parts.append(
                Markup(
                    '<path class="tick" d="M{:g},{:g}v4"/>'
                    '<text x="{:g}" y="{:g}" text-anchor="middle">{}</text>'
                ).format(x, bottom, x, bottom + 17, text)
            )
        parts.append(
            Markup(
                '<path class="base" d="M{:g},{:g}H{:g}"/>'
                '<text class="label" x="{:g}" y="{:g}" text-anchor="end">{}</text>'
                '<text class="label" x="0" y="11">{}</text>'
            ).format(left, bottom, right, right, _HEIGHT - 6, self.x.label, self.y.label)
        )
        return _joined(parts)


@dataclass(frozen=True)
class Figure:
    """A chart with its heading, what it shows, and the names of its series.

    Attributes:
        heading: above it.
        picture: the chart.
        caption: below it.
        series: their names, in the order of their numbers; none where there is one alone.
        has_dots: whether a series is dots, and no line.
    """

    heading: str
    picture: Markup
    caption: str
    series: Sequence[str] = ()
    has_dots: bool = False

    @property
    def legend(self) -> Sequence[tuple[Markup, str]]:
        """Each series' sample, with its name."""
        sample = dot_sample if self.has_dots else line_sample
        return [(sample(number), name) for number, name in enumerate(self.series)]


def line_sample(series: int) -> Markup:
    """A piece of the series' line, for a legend."""
    return _SAMPLE.format(Markup('<path class="line s{}" d="M0,6H28"/>').format(series))


def dot_sample(series: int) -> Markup:
    """A dot of the series, for a legend."""
    shape = _shape(14, 6, series)
    return _SAMPLE.format(Markup('<path class="dot s{}" d="{}"/>').format(series, shape))


def bar_sample(series: int) -> Markup:
    """A piece of the series' bars, for a legend."""
    bar = Markup('<rect class="bar s{}" x="8" y="1" width="20" height="10"/>').format(series)
    return _SAMPLE.format(bar)


def _joined(parts: Iterable[Markup]) -> Markup:
    return Markup().join(parts)


def _shape(x: float, y: float, series: int) -> str:
    """Circle, square, triangle, diamond, and so on: colour is never all that tells series apart."""
    shapes: Sequence[str] = (
        f"M{x - 4:g},{y:g}a4,4 0 1 0 8,0a4,4 0 1 0 -8,0",
        f"M{x - 3.5:g},{y - 3.5:g}h7v7h-7z",
        f"M{x:g},{y - 4.5:g}l4.5,8h-9z",
        f"M{x:g},{y - 5:g}l5,5l-5,5l-5,-5z",
        f"M{x:g},{y + 4.5:g}l4.5,-8h-9z",
        f"M{x - 1.5:g},{y - 4.5:g}h3v3h3v3h-3v3h-3v-3h-3v-3h3z",
    )
    return shapes[series % len(shapes)]
