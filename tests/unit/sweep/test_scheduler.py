"""Trials that are stopped early."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler

from distcnn.sweep.config import SchedulerConfig
from distcnn.sweep.scheduler import scheduler_of

NUM_EPOCHS = 12


class OfRayTune:
    """Ray Tune's scheduler, asked as ours is."""

    def __init__(self, config: SchedulerConfig) -> None:
        self._scheduler: Any = AsyncHyperBandScheduler(
            time_attr="epoch",
            metric="score",
            mode="min",
            max_t=NUM_EPOCHS,
            grace_period=config.grace_epochs,
            reduction_factor=config.reduction_factor,
            stop_last_trials=False,
        )

    def stops(self, number: int, epoch: int, score: float) -> bool:
        trial = SimpleNamespace(trial_id=number)
        if epoch == 1:
            self._scheduler.on_trial_add(None, trial)
        result = {"epoch": epoch, "score": score}
        return self._scheduler.on_trial_result(None, trial, result) == TrialScheduler.STOP


# Sixteenths: no rounding decides.
SCORES = st.one_of(st.integers(0, 64).map(lambda n: n / 16), st.just(math.inf))


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # Its infinite scores.
@given(
    grace=st.integers(1, 4),
    factor=st.sampled_from([1.6, 2.0, 3.0, 4.0]),
    trials=st.lists(st.tuples(SCORES, st.integers(0, 3)), min_size=1, max_size=40),
    data=st.data(),
)
def test_verdicts_are_those_of_ray_tune(
    grace: int, factor: float, trials: list[tuple[float, int]], data: st.DataObject
) -> None:
    config = SchedulerConfig(name="asha", grace_epochs=grace, reduction_factor=factor)
    ours, theirs = scheduler_of(config, NUM_EPOCHS), OfRayTune(config)
    running: dict[int, int] = {}
    waiting = list(range(len(trials)))
    while waiting or running:
        while waiting and len(running) < 3:
            running[waiting.pop(0)] = 0
        number = data.draw(st.sampled_from(sorted(running)))
        running[number] += 1
        epoch, (start, gain) = running[number], trials[number]
        score = start - gain * (epoch - 1) / 16
        stops = ours.stops(epoch, score)
        if epoch == NUM_EPOCHS:  # There is nothing to stop.
            del running[number]
            continue
        assert stops == theirs.stops(number, epoch, score)
        if stops:
            del running[number]


def test_nothing_is_stopped_that_was_not_asked_for() -> None:
    patient = scheduler_of(SchedulerConfig(), NUM_EPOCHS)
    assert not any(patient.stops(epoch, math.inf) for epoch in range(1, NUM_EPOCHS))
