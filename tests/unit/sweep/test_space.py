"""Domains: how they are written, what they draw."""

from __future__ import annotations

import random

import pytest

from distcnn.sweep.space import (
    Choice,
    SpaceError,
    describe,
    draw,
    grid,
    grid_size,
    parse_domain,
)


@pytest.mark.parametrize(
    ("plain", "allowed"),
    [
        ({"uniform": [0.5, 1]}, lambda value: 0.5 <= value <= 1),
        ({"loguniform": [0.001, 1]}, lambda value: 0.001 <= value <= 1),
        ({"quniform": [0.5, 1.5, 0.5]}, lambda value: value in (0.5, 1.0, 1.5)),
        ({"quniform": [32, 128, 32]}, lambda value: type(value) is int and value % 32 == 0),
        ({"randint": [1, 4]}, lambda value: value in (1, 2, 3)),
        ({"choice": [[8, 16], [16, 32]]}, lambda value: value in ([8, 16], [16, 32])),
    ],
)
def test_what_is_drawn_is_allowed_and_reaches_the_ends(plain, allowed):
    domain = parse_domain(plain)
    drawn = [domain.draw(random.Random(seed)) for seed in range(200)]
    assert all(map(allowed, drawn))
    low, high = domain.extremes()[0], domain.extremes()[-1]
    if "uniform" not in next(iter(plain)) or "quniform" in plain:
        assert low in drawn
        assert high in drawn


def test_a_long_range_costs_nothing():
    domain = parse_domain({"randint": [0, 2**32]})
    assert domain.extremes() == (0, 2**32 - 1)
    assert 0 <= domain.draw(random.Random(0)) < 2**32
    assert domain.at(domain.index(123456789)) == 123456789


def test_loguniform_is_uniform_in_its_logarithm():
    domain = parse_domain({"loguniform": [1e-4, 1]})
    drawn = [domain.draw(random.Random(seed)) for seed in range(2000)]
    assert 0.45 < sum(value < 1e-2 for value in drawn) / 2000 < 0.55


@pytest.mark.parametrize(
    "plain",
    [
        {"uniform": [1]},
        {"uniform": [2, 1]},
        {"uniform": ["1e-4", 1]},
        {"uniform": [0, float("inf")]},
        {"loguniform": [0, 1]},
        {"quniform": [1, 2, 0]},
        {"randint": [1.5, 4]},
        {"randint": [True, 4]},
        {"choice": []},
        {"choice": 3},
        {"normal": [0, 1]},
        {"choice": [1], "grid": [1]},
        [1, 2],
        0.01,
    ],
)
def test_what_is_written_otherwise_is_refused(plain):
    with pytest.raises(SpaceError):
        parse_domain(plain)


def test_a_draw_depends_on_seed_number_and_field_alone():
    space = {"optimizer.lr": parse_domain({"uniform": [0, 1]})}
    more = {"seed": parse_domain({"randint": [0, 99]}), **space}
    assert draw(space, 1, 7) == draw(space, 1, 7)
    assert draw(space, 1, 7) != draw(space, 1, 8)
    assert draw(space, 1, 7) != draw(space, 2, 7)
    assert draw(more, 1, 7)["optimizer.lr"] == draw(space, 1, 7)["optimizer.lr"]


def test_a_grid_has_every_combination_the_last_field_changing_fastest():
    space = {"a": Choice((1, 2)), "b": Choice(("x", "y"))}
    assert list(grid(space)) == [
        {"a": 1, "b": "x"},
        {"a": 1, "b": "y"},
        {"a": 2, "b": "x"},
        {"a": 2, "b": "y"},
    ]
    assert grid_size(space) == 4


def test_values_are_told_in_short():
    values = {"optimizer.lr": 0.0123456, "model.channels": [8, 16], "optimizer.name": "sgd"}
    assert describe(values) == "lr 0.0123, channels [8, 16], name sgd"
