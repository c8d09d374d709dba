"""States, and the exit codes that stand for them."""

import pytest

from distcnn.cluster.status import State, Status


@pytest.mark.parametrize(
    ("exit_code", "state", "followed"),
    [
        (0, State.SUCCEEDED, 0),
        (1, State.FAILED, 1),
        (7, State.FAILED, 7),
        (137, State.FAILED, 137),
        (143, State.STOPPED, 3),
        (130, State.STOPPED, 3),
        (-9, State.FAILED, 137),
        (-15, State.STOPPED, 3),
    ],
)
def test_how_a_driver_ended(exit_code, state, followed):
    status = Status.ended(exit_code)
    assert (status.state, status.follow_exit_code) == (state, followed)
    assert status.exit_code == (exit_code if exit_code >= 0 else 128 - exit_code)


def test_only_success_is_followed_by_0():
    for state in State:
        if state.has_ended:
            assert (Status(state).follow_exit_code == 0) == (state is State.SUCCEEDED)
    assert Status(State.LOST).follow_exit_code == 4
