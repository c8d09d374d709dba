"""One reason is told of many errors, and what would only happen again is not tried again."""

from __future__ import annotations

import pickle

import pytest

from distcnn.config import RecoveryConfig
from distcnn.orchestration.failures import Budget, Failure, Kind, WorkerError, diagnose

LOST = Failure("lost", "worker 1 on a is gone", 7)


def budget(**values: int) -> Budget:
    return Budget(RecoveryConfig.model_validate(values))


def test_an_error_survives_its_travel() -> None:
    travelled = pickle.loads(pickle.dumps(WorkerError("out of memory", "worker 1: ...", 12)))
    assert isinstance(travelled, WorkerError)
    assert (travelled.kind, travelled.what, travelled.step) == (
        "out of memory",
        "worker 1: ...",
        12,
    )
    assert str(travelled) == "worker 1: ..."


@pytest.mark.parametrize(
    ("kinds", "telling"),
    [
        (["peer", "lost", "peer"], "lost"),
        (["peer", "peer"], "peer"),
        (["lost", "hung"], "hung"),
        (["error", "peer", "lost"], "error"),
        (["error", "out of memory"], "out of memory"),
        (["error", "user", "out of memory"], "user"),
    ],
)
def test_the_cause_is_told_and_not_what_followed_from_it(kinds: list[Kind], telling: Kind) -> None:
    errors = {rank: WorkerError(kind, f"worker {rank}: {kind}") for rank, kind in enumerate(kinds)}
    failure = diagnose(errors, step=30)
    assert failure.kind == telling
    assert failure.what == "; ".join(
        f"worker {rank}: {kind}" for rank, kind in enumerate(kinds) if kind == telling
    )


def test_what_several_say_alike_is_told_once_in_the_order_of_ranks() -> None:
    errors = {
        2: WorkerError("user", "the disk is full"),
        1: WorkerError("user", "no data here"),
        0: WorkerError("user", "the disk is full"),
    }
    assert diagnose(errors, step=0).what == "the disk is full; no data here"


def test_the_step_is_the_first_that_is_told_or_else_the_last_known() -> None:
    errors = {0: WorkerError("error", "a", 12), 1: WorkerError("error", "b", 11)}
    assert diagnose(errors, step=10).step == 11
    assert diagnose({0: WorkerError("lost", "a")}, step=10).step == 10
    assert diagnose({0: WorkerError("error", "a"), 1: WorkerError("peer", "b", 3)}, 10).step == 10


def test_the_headline_leaves_the_traceback_out() -> None:
    assert Failure("error", "worker 0: ValueError: x\nTraceback ...\n", 1).headline == (
        "worker 0: ValueError: x"
    )


@pytest.mark.parametrize("max_failures", [0, 1, 3])
def test_failures_are_granted_as_often_as_the_config_says(max_failures: int) -> None:
    left = budget(max_failures=max_failures)
    for _ in range(max_failures):
        assert left.refuse(LOST) is None
    refusal = left.refuse(LOST)
    assert refusal is not None
    assert refusal.startswith(LOST.what)
    assert f"That was failure {max_failures + 1}" in refusal
    assert f"recovery.max_failures = {max_failures}" in refusal


@pytest.mark.parametrize("max_preemptions", [0, 2])
def test_preemptions_have_a_budget_of_their_own(max_preemptions: int) -> None:
    left = budget(max_failures=1, max_preemptions=max_preemptions)
    assert left.refuse(LOST) is None
    for _ in range(max_preemptions):
        assert left.refuse_preemption() is None
    assert left.num_restarts == 1 + max_preemptions
    refusal = left.refuse_preemption()
    assert refusal is not None
    assert f"recovery.max_preemptions = {max_preemptions}" in refusal


def test_preemptions_use_up_no_failures() -> None:
    left = budget(max_failures=1, max_preemptions=5)
    for _ in range(5):
        assert left.refuse_preemption() is None
    assert left.refuse(LOST) is None
    assert left.refuse(LOST) is not None


def test_a_mistake_of_the_user_is_never_tried_again() -> None:
    assert budget().refuse(Failure("user", "no data here", 0)) == "no data here"


@pytest.mark.parametrize("kind", ["error", "out of memory"])
def test_the_same_error_at_the_same_step_is_tried_once_more_and_no_more(kind: Kind) -> None:
    left = budget(max_failures=9)
    first = Failure(kind, "worker 0: bad\nTraceback, at one address", 7)
    again = Failure(kind, "worker 0: bad\nTraceback, at another address", 7)
    assert left.refuse(first) is None
    assert left.refuse(LOST) is None
    refusal = left.refuse(again)
    assert refusal is not None
    assert refusal.startswith("twice at step 7, so it would happen again: worker 0: bad")


@pytest.mark.parametrize(
    "other",
    [
        Failure("error", "worker 0: bad", 8),
        Failure("error", "worker 0: worse", 7),
        Failure("out of memory", "worker 0: bad", 7),
    ],
)
def test_at_another_step_or_with_other_words_it_is_another_error(other: Failure) -> None:
    left = budget(max_failures=9)
    assert left.refuse(Failure("error", "worker 0: bad", 7)) is None
    assert left.refuse(other) is None


@pytest.mark.parametrize("kind", ["lost", "hung", "peer"])
def test_workers_may_be_lost_at_the_same_step_again(kind: Kind) -> None:
    left = budget(max_failures=2)
    assert left.refuse(Failure(kind, "gone", 7)) is None
    assert left.refuse(Failure(kind, "gone", 7)) is None
