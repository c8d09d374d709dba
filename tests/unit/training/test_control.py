"""Requests come at any moment; answers are given at step boundaries."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from distcnn.training.control import Control, InterruptedNow
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
