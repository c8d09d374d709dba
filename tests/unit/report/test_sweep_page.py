"""What the page of a sweep is made of."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from distcnn.report.parallel import parallel_coordinates
from distcnn.report.sweep_page import _accuracy_axis, _binned, _pareto
from distcnn.sweep.space import Choice, Uniform

POINTS = st.lists(st.tuples(st.integers(1, 50), st.integers(0, 50)), min_size=1, max_size=30)


@given(POINTS)
def test_the_front_is_what_no_other_beats_at_less_cost(points: list[tuple[int, int]]):
    front = _pareto(points)
    best_at = {cost: max(value for c, value in points if c <= cost) for cost, _ in points}
    beaten = {(c, v) for c, v in points if v < best_at[c]}
    assert set(front) <= set(points) - beaten
    values = [value for _, value in front]
    assert values == sorted(set(values)), "each step is an improvement"
    assert front[0][0] == min(cost for cost, _ in points)
    assert values[-1] == max(value for _, value in points)


@given(st.lists(st.floats(1e-4, 1e-1), min_size=1, max_size=40))
def test_every_value_has_its_column(values: list[float]):
    columns, column_of = _binned(values, Uniform(low=1e-4, high=1e-1, log=True))
    in_order = [column_of(value) for value in sorted(values)]
    assert in_order == sorted(in_order)
    assert {*in_order} <= {*range(len(columns))}


def test_what_is_no_share_is_not_told_in_percent():
    space = {"optimizer.lr": Choice((0.01, 0.02))}
    shares = parallel_coordinates(
        space, [({"optimizer.lr": 0.01}, 0.5), ({"optimizer.lr": 0.02}, 0.9)]
    )
    assert ">90.0 %<" in str(shares)
    others = parallel_coordinates(
        space, [({"optimizer.lr": 0.01}, -4), ({"optimizer.lr": 0.02}, -2)]
    )
    assert ">-2<" in str(others)
    assert _accuracy_axis([-43.0, -2.0], depth=0.15).low <= -43
    assert _accuracy_axis([0.1, 0.9, 0.9], depth=0.15).low >= 0.7


def test_numbers_stand_in_their_order_across_a_picture():
    """However a grid has listed them."""
    space = {"optimizer.lr": Choice((0.01, 0.005, 0.02))}
    trials = [({"optimizer.lr": lr}, accuracy) for lr, accuracy in ((0.02, 0.8), (0.005, 0.9))]
    picture = parallel_coordinates(space, trials)
    assert picture is not None
    heights = [
        float(picture.split(f">{lr}<")[0].rpartition(' y="')[2].split('"')[0])
        for lr in ("0.005", "0.01", "0.02")
    ]
    assert heights == sorted(heights, reverse=True)
