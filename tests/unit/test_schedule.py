import itertools
import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from distcnn.config import ScheduleConfig
from distcnn.schedule import learning_rate_factor

NAMES = ("constant", "one-cycle", "cosine")
fractions = st.floats(0, 1, exclude_max=True, allow_subnormal=False)
schedules = st.builds(
    ScheduleConfig, name=st.sampled_from(("constant", "cosine")), warmup_fraction=fractions
) | st.builds(
    ScheduleConfig,
    name=st.just("one-cycle"),
    warmup_fraction=fractions.filter(lambda share: share > 0),
)
declining = schedules.filter(lambda schedule: schedule.name != "constant")
lengths = st.integers(1, 300)


def factors(schedule, num_steps):
    return [learning_rate_factor(schedule, step, num_steps) for step in range(num_steps)]


@given(schedule=schedules, num_steps=lengths)
def test_every_step_moves_and_none_beyond_the_peak(schedule, num_steps):
    assert all(0 < factor <= 1 for factor in factors(schedule, num_steps))


@given(schedule=schedules, num_steps=lengths)
def test_the_rate_rises_throughout_the_warmup(schedule, num_steps):
    num_rising = math.ceil(schedule.warmup_fraction * num_steps)
    rising = factors(schedule, num_steps)[:num_rising]
    assert all(earlier < later for earlier, later in itertools.pairwise(rising))


@given(schedule=schedules, num_steps=lengths)
def test_the_rate_never_rises_after_the_warmup(schedule, num_steps):
    num_rising = math.ceil(schedule.warmup_fraction * num_steps)
    rest = factors(schedule, num_steps)[num_rising:]
    assert all(earlier >= later for earlier, later in itertools.pairwise(rest))


@given(schedule=declining, num_steps=lengths)
def test_the_last_step_is_near_zero(schedule, num_steps):
    num_falling = num_steps * (1 - schedule.warmup_fraction)
    assume(num_falling >= 2)
    # The half cosine one step before its end, to second order: it is below that everywhere.
    assert factors(schedule, num_steps)[-1] <= 1.001 * (math.pi / (2 * num_falling)) ** 2


@given(num_steps=lengths)
def test_constant_is_constant(num_steps):
    assert factors(ScheduleConfig(name="constant"), num_steps) == [1.0] * num_steps


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("warmup_fraction", "peak"), [(0.25, 100), (0.5, 200)])
def test_the_peak_is_reached_where_the_warmup_ends(name, warmup_fraction, peak):
    schedule = ScheduleConfig(name=name, warmup_fraction=warmup_fraction)
    assert factors(schedule, 400)[peak] == 1.0


def test_one_cycle_has_to_rise():
    with pytest.raises(ValidationError, match="one-cycle rises first"):
        ScheduleConfig(name="one-cycle", warmup_fraction=0)


def test_one_cycle_starts_from_a_twenty_fifth():
    schedule = ScheduleConfig(name="one-cycle", warmup_fraction=0.5)
    assert learning_rate_factor(schedule, 0, 10_000) == pytest.approx(1 / 25, rel=1e-3)


def test_the_other_warmups_are_straight_lines():
    for name in ("constant", "cosine"):
        rising = factors(ScheduleConfig(name=name, warmup_fraction=0.5), 8)[:4]
        assert rising == pytest.approx([1 / 5, 2 / 5, 3 / 5, 4 / 5])
