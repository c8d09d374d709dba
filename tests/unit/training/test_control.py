"""Requests come at any moment; answers are given at step boundaries."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence

import pytest
import torch

from distcnn.collectives import GroupCollectives
from distcnn.summation import InTurn, Summation
from distcnn.training.control import CONTINUE, Control, Decision, InterruptedNow
from distcnn.workers import Workers


def test_it_goes_on_unless_asked() -> None:
    control = Control(Workers())
    assert {control.decide(step).action for step in range(1, 100)} == {"continue"}


def test_it_saves_at_the_steps_that_the_config_names() -> None:
    control = Control(Workers(), checkpoint_every_steps=7)
    saved = [step for step in range(1, 30) if control.decide(step).action == "save"]
    assert saved == [7, 14, 21, 28]


def test_a_request_to_stop_goes_before_a_save() -> None:
    control = Control(Workers(), checkpoint_every_steps=1)
    control.request_stop("enough")
    decision = control.decide(1)
    assert (decision.action, decision.reason) == ("stop", "enough")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_a_request(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    control = Control(Workers())
    with control.listening():
        os.kill(os.getpid(), number)
        decision = control.decide(1)
    assert (decision.action, decision.signal_number) == ("stop", number)
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_means_now() -> None:
    control = Control(Workers())
    with control.listening():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(InterruptedNow):
            os.kill(os.getpid(), signal.SIGINT)


def test_where_ray_is_called_it_means_at_the_next_decision() -> None:
    control = Control(Workers())
    with control.listening(raises_anywhere=False):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(InterruptedNow):
            control.decide(0)


def test_it_can_be_used_off_the_main_thread() -> None:
    """As a Ray worker does; there, no handler can be set and none is."""
    before = signal.getsignal(signal.SIGTERM)
    seen: list[object] = []

    def listen() -> None:
        with Control(Workers()).listening():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert seen == [before]


# Several workers: the wish of any travels with the sums.


class Summed(GroupCollectives):
    """Of two workers, of which so many wish to stop."""

    def __init__(self, num_wishing: int) -> None:
        self._num_wishing = num_wishing

    def add_up(self, rows: Sequence[torch.Tensor], summation: Summation) -> torch.Tensor:
        return rows[0].new_tensor([2.0, float(self._num_wishing)])

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        return rows.new_tensor([float(rank < self._num_wishing) for rank in range(2)])


def two_workers_after_a_step(*wishing: int, listen_every_steps: int = 1) -> tuple[Control, Control]:
    """The controls of two workers that have added up, once some were asked to stop."""
    controls: list[Control] = []
    for rank in range(2):
        workers = Workers(rank, 2, Summed(len(wishing)))
        control = Control(workers, listen_every_steps=listen_every_steps)
        if rank in wishing:
            control.request_stop("SIGTERM", signal.SIGTERM)
            assert control.decide(0).action == "continue"  # The others do not know of it yet.
        workers.add_up([[torch.ones(1)]], InTurn(2))
        controls.append(control)
    return controls[0], controls[1]


def test_without_a_wish_two_workers_go_on() -> None:
    assert {control.decide(1) for control in two_workers_after_a_step()} == {CONTINUE}


def test_one_worker_s_wish_stops_the_other_which_says_so() -> None:
    asked, other = two_workers_after_a_step(0)
    assert asked.decide(1) == Decision("stop", "SIGTERM", signal.SIGTERM)
    assert other.decide(1) == Decision("stop", "another worker was asked to")


def test_workers_that_listen_now_and_then_stop_at_the_same_step() -> None:
    for control in two_workers_after_a_step(1, listen_every_steps=50):
        stopped = [step for step in range(1, 201) if control.decide(step).action == "stop"]
        assert stopped == [50, 100, 150, 200]


def test_after_an_epoch_a_wish_counts_at_once_however_seldom_the_workers_listen() -> None:
    for wishing, expected in (((), ["continue"] * 2), ((1,), ["stop"] * 2)):
        controls = [
            Control(Workers(rank, 2, Summed(len(wishing))), listen_every_steps=50)
            for rank in range(2)
        ]
        for rank in wishing:
            controls[rank].request_stop("the trial is stopped early")
        decisions = [control.decide_after_epoch(torch.device("cpu")) for control in controls]
        assert [decision.action for decision in decisions] == expected
