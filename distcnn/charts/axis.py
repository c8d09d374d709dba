"""Axes of charts: where a value stands, and which values are written beside it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# What ticks are apart, times a power of ten.
_STEPS = (1, 2, 2.5, 5, 10)
_MOST_TICKS = 6
_TINY = 1e-100


@dataclass(frozen=True)
class Axis:
    """One direction of a chart.

    Attributes:
        label: what it shows, with its unit.
        low: the value at its start.
        high: the value at its end; above `low`.
        ticks: the values that are written, each with its text.
        is_log: whether equal lengths are equal ratios.
    """

    label: str
    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    is_log: bool = False

    def share(self, value: float) -> float:
        """How far along the axis a value stands: 0 at its start, 1 at its end.

        Among ratios, what is 0 or less has no place, and stands at the start.
        """
        low, high = self.low, self.high
        if self.is_log:
            low, high, value = math.log(low), math.log(high), math.log(value if value > 0 else low)
        return (value - low) / (high - low)


def linear(
    label: str,
    values: Iterable[float],
    *,
    low: float | None = None,
    high: float | None = None,
    is_share: bool = False,
    is_whole: bool = False,
) -> Axis:
    """An axis whose ends are ticks, around some values.

    Args:
        label: what it shows.
        values: what has to have its place; those that are not finite need none.
        low: where it starts, if not where the values do.
        high: where it ends, if not where the values do.
        is_share: written in percent.
        is_whole: only whole numbers are written.
    """
    finite = [value for value in values if math.isfinite(value)]
    least = low if low is not None else min(finite, default=0.0)
    most = high if high is not None else max(finite, default=1.0)
    size = max(abs(least), abs(most))
    if most - least <= max(1e-9 * size, _TINY):  # Ticks could not be told apart.
        most = least + (size if size > _TINY and not is_whole else 1)
    step = _step((most - least) / (_MOST_TICKS - 1))
    if is_whole:
        step = max(1, round(step))
    start = least if low is not None else math.floor(least / step + 1e-9) * step
    end = most if high is not None else math.ceil(most / step - 1e-9) * step
    first = math.ceil(start / step - 1e-9)
    count = math.floor(end / step + 1e-9) - first + 1
    ticks = [(first + index) * step for index in range(count)]
    decimals = max(0, -math.floor(math.log10(step) + 1e-9), _decimals(step))
    return Axis(label, start, end, [(tick, _text(tick, decimals, is_share)) for tick in ticks])


def logarithmic(label: str, values: Iterable[float]) -> Axis:
    """An axis of ratios, around some values above 0."""
    positive = [value for value in values if 0 < value < math.inf]
    least, most = min(positive, default=1.0), max(positive, default=10.0)
    low, high = 10 ** math.floor(math.log10(least)), 10 ** math.ceil(math.log10(most))
    if high / low > 10 and least / low > 2:
        low = least / 1.3
    if high / low > 10 and high / most > 2:
        high = most * 1.3
    if high <= low:
        high = low * 10
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    marks = (1,) if len(decades) > 3 else (1, 2, 5)
    ticks = [mark * 10.0**decade for decade in decades for mark in marks]
    kept = [tick for tick in ticks if low * 0.999 <= tick <= high * 1.001]
    texts = [f"{tick:,.0f}" if tick >= 1 else f"{tick:.6g}" for tick in kept]
    return Axis(label, low, high, list(zip(kept, texts, strict=True)), is_log=True)


def _step(least: float) -> float:
    """The smallest round number from there on."""
    power = 10 ** math.floor(math.log10(least))
    return next(step * power for step in _STEPS if step * power >= least * (1 - 1e-9))


def _decimals(step: float) -> int:
    """So many that the step is written whole: 2 for 0.25."""
    return next((count for count in range(12) if math.isclose(round(step, count), step)), 12)


def _text(value: float, decimals: int, is_share: bool) -> str:
    if is_share:
        return f"{100 * value:.{max(0, decimals - 2)}f} %"
    return f"{value:,.{decimals}f}"
