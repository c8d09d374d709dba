"""Axes: every value has its place between the ends, and what is written beside them can be read."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distcnn.charts.axis import Axis, linear, logarithmic

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20)
RATIOS = st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=20)


def assert_sound(axis: Axis, values: list[float]) -> None:
    assert axis.low < axis.high
    assert all(-1e-9 <= axis.share(value) <= 1 + 1e-9 for value in values)
    in_order = sorted(values)
    shares = [axis.share(value) for value in in_order]
    assert shares == sorted(shares)
    places = [axis.share(tick) for tick, _ in axis.ticks]
    assert all(-1e-2 <= place <= 1 + 1e-2 for place in places)
    assert places == sorted(set(places))
    texts = [text for _, text in axis.ticks]
    assert len(texts) == len(set(texts)), "two ticks that read alike"


@given(VALUES)
def test_values_have_their_places_in_order(values: list[float]):
    assert_sound(linear("x", values), values)


@given(RATIOS)
def test_ratios_have_their_places_in_order(values: list[float]):
    assert_sound(logarithmic("x", values), values)


@given(st.floats(1e-6, 1e5), st.floats(1.1, 100))
def test_equal_ratios_are_equal_lengths(low: float, ratio: float):
    axis = logarithmic("x", [low, low * ratio**2])
    first = axis.share(low * ratio) - axis.share(low)
    assert math.isclose(first, axis.share(low * ratio**2) - axis.share(low * ratio), rel_tol=1e-6)


@pytest.mark.parametrize("make", [linear, logarithmic])
@pytest.mark.parametrize("values", [[], [math.nan, math.inf], [0.0], [0.0, 0.0]])
def test_an_axis_of_nothing_is_an_axis(make: Callable[..., Axis], values: list[float]):
    axis = make("x", values)
    assert axis.low < axis.high
    assert axis.share(0.0) == 0


def test_what_is_written():
    assert [text for _, text in linear("x", [0, 0.5], is_share=True).ticks] == [
        "0 %", "10 %", "20 %", "30 %", "40 %", "50 %",
    ]  # fmt: skip
    assert [text for _, text in linear("x", [0, 3], is_whole=True).ticks] == ["0", "1", "2", "3"]
    assert logarithmic("x", [1e5, 1e7]).ticks[0] == (1e5, "100,000")
