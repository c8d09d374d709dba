"""Restarts are counted with the time that they cost; what lies between two commands is not."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distcnn.run_directory.events import Restarts, count_restarts

BEGAN = datetime(2025, 1, 31, 23, 59, tzinfo=UTC)
DAY = 86400


def history(*lines: tuple[float, str, int]) -> Iterable[dict[str, Any]]:
    """Events at some seconds: kind and attempt; `failure` and `preemption` are restarts."""
    for seconds, kind, attempt in lines:
        event: dict[str, Any] = {
            "time": (BEGAN + timedelta(seconds=seconds)).isoformat(timespec="milliseconds"),
            "event": kind,
            "attempt": attempt,
        }
        if kind in ("failure", "preemption"):
            event |= {"event": "restart", "cause": kind}
        yield event


FIRST = ((0, "attempt", 1), (1, "first_step", 1))


def test_a_run_that_was_left_alone_has_no_restart() -> None:
    assert count_restarts([]) == Restarts()
    whole = history(*FIRST, (5, "checkpoint", 1), (9, "completed", 1))
    assert count_restarts(whole) == Restarts()


def test_a_failure_costs_the_time_from_the_last_checkpoint_to_the_next_step() -> None:
    events = history(
        *FIRST,
        (5, "checkpoint", 1),
        (8, "attempt_failed", 1),
        (8.5, "failure", 2),
        (10, "attempt", 2),
        (11.25, "first_step", 2),
        (20, "completed", 2),
    )
    assert count_restarts(events) == Restarts(failures=1, seconds_lost=6.25)


def test_without_a_checkpoint_all_since_the_first_step_is_lost() -> None:
    events = history(*FIRST, (8, "failure", 2), (9, "attempt", 2), (11, "first_step", 2))
    assert count_restarts(events) == Restarts(failures=1, seconds_lost=10)


def test_without_a_first_step_there_was_nothing_to_lose_before() -> None:
    events = history((0, "attempt", 1), (3, "failure", 2), (4, "attempt", 2), (5, "first_step", 2))
    assert count_restarts(events) == Restarts(failures=1, seconds_lost=2)


def test_restarts_one_after_the_other_lose_their_time_once() -> None:
    events = history(
        *FIRST,
        (5, "checkpoint", 1),
        (8, "failure", 2),
        (9, "attempt", 2),
        (10, "preemption", 3),
        (12, "failure", 4),
        (13, "attempt", 4),
        (15, "first_step", 4),
    )
    assert count_restarts(events) == Restarts(failures=2, preemptions=1, seconds_lost=10)


def test_a_preemption_that_saves_loses_only_the_time_to_start_again() -> None:
    events = history(
        *FIRST,
        (6, "checkpoint", 1),
        (6.5, "stopped", 1),
        (7, "preemption", 2),
        (8, "attempt", 2),
        (9, "first_step", 2),
    )
    assert count_restarts(events) == Restarts(preemptions=1, seconds_lost=3)


def test_the_time_until_a_user_resumes_is_not_lost() -> None:
    events = history(
        *FIRST,
        (5, "checkpoint", 1),
        (6, "stopped", 1),
        (DAY, "attempt", 2),
        (DAY + 1, "first_step", 2),
        (DAY + 4, "failure", 3),
        (DAY + 5, "attempt", 3),
        (DAY + 7, "first_step", 3),
    )
    assert count_restarts(events) == Restarts(failures=1, seconds_lost=6)


@pytest.mark.parametrize("last_sign", ["attempt", "attempt_failed"])
def test_nor_is_it_where_the_resumed_attempt_fails_before_its_first_step(last_sign: str) -> None:
    """Its workers may have died before they could write anything."""
    events = history(
        *FIRST,
        (5, "checkpoint", 1),
        (6, "stopped", 1),
        (DAY, last_sign, 2),
        (DAY + 1, "failure", 3),
        (DAY + 2, "attempt", 3),
        (DAY + 4, "first_step", 3),
    )
    assert count_restarts(events) == Restarts(failures=1, seconds_lost=3)


def test_nor_is_it_where_the_driver_was_killed_while_it_started_again() -> None:
    events = history(
        *FIRST,
        (5, "failure", 2),
        # Here the driver was killed.
        (DAY, "attempt", 3),
        (DAY + 1, "first_step", 3),
    )
    assert count_restarts(events) == Restarts(failures=1)


def test_a_worker_that_was_replaced_and_does_not_know_it_yet_changes_nothing() -> None:
    events = history(
        *FIRST,
        (5, "failure", 2),
        (6, "attempt", 2),
        (7, "checkpoint", 1),
        (8, "first_step", 1),
        (11, "first_step", 2),
    )
    assert count_restarts(events) == Restarts(failures=1, seconds_lost=10)


@given(
    st.lists(
        st.tuples(
            st.floats(0, 100),
            st.sampled_from(
                ["next", "failure", "preemption", "first_step", "checkpoint", "stopped"]
            ),
        )
    )
)
def test_whatever_happened_no_more_is_lost_than_the_time_that_passed(
    moves: list[tuple[float, str]],
) -> None:
    """`next` is a user who resumes, wherever the history was torn off before."""
    now, attempt = 0.0, 1
    lines = [(now, "attempt", attempt)]
    idle = 0.0
    for seconds, kind in moves:
        now += seconds
        if kind == "next":
            idle += seconds
        attempt += kind in ("next", "failure", "preemption")
        lines.append((now, "attempt" if kind == "next" else kind, attempt))
    restarts = count_restarts(history(*lines))
    kinds = [kind for _, kind in moves]
    assert restarts.failures == kinds.count("failure")
    assert restarts.preemptions == kinds.count("preemption")
    assert 0 <= restarts.seconds_lost <= now - idle + 0.1
