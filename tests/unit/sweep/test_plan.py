"""What is told before a sweep starts."""

from __future__ import annotations

import pytest

from distcnn.sweep.plan import known_trials, plan, render, rounded, timed_configs
from tests.unit.sweep.conftest import LR_ALONE, MakeSweep

CHANNELS = {"model.channels": {"grid": [[8, 16], [16, 32], [32, 64]]}}


def test_time_grows_with_trials_epochs_and_images_and_shrinks_with_places(
    make_sweep: MakeSweep,
) -> None:
    sweep = make_sweep(epochs=2, space=LR_ALONE, num_trials=6)
    one = plan(sweep, 1, [1e-4]).seconds
    # Validation on 5,000 images and their mirror images, at a quarter of the cost.
    assert one == pytest.approx(6 * 2 * (55_000 + 10_000 / 4) * 1e-4)
    assert plan(sweep, 2, [1e-4]).seconds == pytest.approx(one / 2)
    assert plan(sweep, 4, [1e-4]).seconds == pytest.approx(one / 3)  # Six trials in two rounds.
    assert str(plan(sweep, 2, [1e-4])) == "6 trials, 2 at a time, about a minute"


def test_trials_take_their_time_between_the_smallest_and_the_largest(
    make_sweep: MakeSweep,
) -> None:
    sweep = make_sweep(epochs=1, space=CHANNELS, search="grid", num_trials=None)
    assert [config.model.channels for config in timed_configs(sweep)] == [(8, 16), (32, 64)]
    together = plan(sweep, 3, [1e-4, 4e-4]).seconds
    assert together == pytest.approx(4e-4 * (55_000 + 10_000 / 4))  # Until the longest one ends.
    alone = plan(sweep, 1, [1e-4, 4e-4]).seconds
    # By their multiply-adds, the one between is at a fifth of the way.
    assert alone == pytest.approx((1 + 1.62 + 4) * 1e-4 * (55_000 + 10_000 / 4), rel=0.01)
    assert plan(sweep, 2, []).seconds is None


def test_asha_is_expected_to_stop_most(make_sweep: MakeSweep) -> None:
    patient = plan(make_sweep(epochs=9, space=LR_ALONE), 1, [1e-4]).seconds
    halving = plan(make_sweep(epochs=9, space=LR_ALONE, scheduler="asha"), 1, [1e-4]).seconds
    assert patient is not None
    # One epoch of all six, two of a third, six of a ninth; and the first at each rung go on.
    more = (1 - 1 / 3) + (1 / 2 - 1 / 3)
    second = 6 / 3 + more
    third = second / 3 + more
    assert halving == pytest.approx(patient * (6 * 1 + second * 2 + third * 6) / (6 * 9))
    # With two at a time, the last one trains alone to its end.
    sweep = make_sweep(epochs=9, space=LR_ALONE, scheduler="asha")
    assert plan(sweep, 2, [1e-4]).seconds == pytest.approx(halving / 2 + patient / 6 / 2)


def test_no_more_at_a_time_than_there_are_trials(make_sweep: MakeSweep) -> None:
    assert plan(make_sweep(num_trials=1), 8, [1e-4]).at_a_time == 1


def test_a_time_budget_bounds_it(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(num_trials=None, time_budget_seconds=120)
    assert (
        str(plan(sweep, 2, [1.0])) == "trials until the time is spent, 2 at a time, about 2 minutes"
    )
    assert plan(make_sweep(space=LR_ALONE, time_budget_seconds=60), 2, [1.0]).seconds == 60


def test_trials_are_known_unless_the_search_learns(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(num_trials=3)
    assert len(known_trials(sweep, 10)) == 3
    assert known_trials(sweep, 2) == known_trials(sweep, 10)[:2]
    assert known_trials(make_sweep(search="optuna"), 10) == []
    text = render(sweep)
    assert text.startswith("# 3 trials\n# trial 1: lr ")
    assert "proposed by what the trials before gave" in render(make_sweep(search="optuna"))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(20, "half a minute or less"), (70, "a minute"), (840, "14 minutes"), (7200, "2 h 00 min")],
)
def test_times_are_rounded(seconds: float, text: str) -> None:
    assert rounded(seconds) == text
