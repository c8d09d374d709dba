"""The learning rate as a pure function of the step, so that no schedule has a state to lose."""

from __future__ import annotations

import math

from distcnn.config import ScheduleConfig

# `one-cycle` starts from the peak over this (the choice of Smith and Topin, 2017).
_ONE_CYCLE_START_DIVISOR = 25


def learning_rate_factor(schedule: ScheduleConfig, step: int, num_steps: int) -> float:
    """The learning rate of step `step` of `num_steps`, as a share of `optimizer.lr`."""
    warmup_steps = schedule.warmup_fraction * num_steps
    if step < warmup_steps:
        # Counted so that the very first step already moves the weights.
        return _warmup(schedule, (step + 1) / (warmup_steps + 1))
    if schedule.name == "constant":
        return 1.0
    return _half_cosine((step - warmup_steps) / (num_steps - warmup_steps), 1.0, 0.0)


def _warmup(schedule: ScheduleConfig, done: float) -> float:
    if schedule.name == "one-cycle":
        return _half_cosine(done, 1 / _ONE_CYCLE_START_DIVISOR, 1.0)
    return done


def _half_cosine(done: float, start: float, end: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * done)) / 2
