"""Searches: seeded, repeatable, and better where they learn."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from distcnn.sweep.search import Search, Told, search_of
from tests.unit.sweep.conftest import LR_ALONE, MakeSweep

FIELDS = {
    "random": {"search": "random"},
    "grid": {
        "search": "grid",
        "num_trials": None,
        "space": {"optimizer.lr": {"grid": [0.001, 0.01]}, "data.shift": {"choice": [0, 1, 2]}},
    },
    "optuna": {"search": "optuna"},
}


def told_by(search: Search, count: int) -> Sequence[Told]:
    """The trials of a sweep of which each is told to the next; best at 0.01."""
    told: list[Told] = []
    for number in range(1, count + 1):
        values = search.propose(number, told)
        told.append((values, abs(math.log10(values["optimizer.lr"]) + 2)))
    return told


@pytest.mark.parametrize("name", FIELDS)
def test_the_same_seed_and_past_give_the_same_trials(name: str, make_sweep: MakeSweep) -> None:
    sweep = make_sweep(**FIELDS[name])
    whole = told_by(search_of(sweep), 6)
    assert told_by(search_of(sweep), 6) == whole
    # Resumed: a search that has been told all at once proposes what the old one would have.
    resumed = search_of(sweep)
    assert resumed.propose(6, whole[:5]) == whole[5][0]


@pytest.mark.parametrize("name", ["random", "optuna"])
def test_another_seed_gives_other_trials(name: str, make_sweep: MakeSweep) -> None:
    one, other = (search_of(make_sweep(search=name, seed=seed)) for seed in (0, 1))
    assert one.propose(1, ()) != other.propose(1, ())


def test_a_grid_is_all_there_is_or_as_much_as_is_asked_for(make_sweep: MakeSweep) -> None:
    assert search_of(make_sweep(**FIELDS["grid"])).num_trials == 6
    assert search_of(make_sweep(**FIELDS["grid"] | {"num_trials": 4})).num_trials == 4
    assert search_of(make_sweep(**FIELDS["grid"] | {"num_trials": 40})).num_trials == 6


def test_optuna_comes_nearer_than_chance(make_sweep: MakeSweep) -> None:
    def late_distance(name: str) -> float:
        total = 0.0
        for seed in range(3):
            sweep = make_sweep(search=name, seed=seed, num_trials=30, space=LR_ALONE)
            total += sum(score or 0 for _, score in told_by(search_of(sweep), 30)[20:])
        return total

    assert late_distance("optuna") < 0.75 * late_distance("random")


def test_optuna_takes_every_kind_of_domain_and_trials_without_a_score(
    make_sweep: MakeSweep,
) -> None:
    sweep = make_sweep(
        search="optuna",
        space={
            "optimizer.lr": {"uniform": [0.001, 0.1]},
            "data.shift": {"randint": [0, 3]},
            "training.global_batch_size": {"quniform": [64, 128, 32]},
            "model.channels": {"choice": [[8, 16], [16, 32]]},
        },
    )
    search = search_of(sweep)
    told: list[Told] = []
    for number in range(1, 15):
        values = search.propose(number, told)
        sweep.run_config(values)
        told.append((values, None if number % 2 else float(number)))
