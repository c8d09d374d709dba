"""What workers and driver tell each other; the actor as the plain object that it is."""

from __future__ import annotations

from typing import Any

import pytest

from distcnn.orchestration import mailbox as mailbox_module
from distcnn.orchestration.mailbox import Mailbox, PostingWatcher, WorkerProcess, relay
from distcnn.progress import EpochReport, StepReport

EPOCH = EpochReport(
    epoch=2, train_loss=0.5, val_loss=0.4, val_accuracy=0.9, is_best=True, train_seconds=30
)
STEP = StepReport(
    epoch=2, step=50, train_loss=0.5, images_per_second=9e3, seconds_left=61, train_seconds=9
)


class Handle:
    """Calls an actor's methods as its handle does, here and at once."""

    def __init__(self, actor: Mailbox) -> None:
        self._actor = actor

    def __getattr__(self, name: str) -> Any:
        class Method:
            remote = getattr(self._actor, name)

        return Method


class Heard:
    """A watcher that remembers."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: self.calls.append((name, arguments))


def worker(rank: int) -> WorkerProcess:
    return WorkerProcess(rank, f"host-{rank}", f"node-{rank}", 100 + rank)


def test_workers_meet_once_all_have_begun_and_the_address_is_known() -> None:
    mailbox = Mailbox()
    assert mailbox.meet() == ("", [])
    mailbox.begin(worker(1))
    mailbox.offer_address("10.0.0.1:4711")
    mailbox.begin(worker(0))
    assert mailbox.meet() == ("10.0.0.1:4711", [worker(0), worker(1)])


def test_the_driver_hears_each_message_once_in_order() -> None:
    mailbox = Mailbox()
    mailbox.post(("note", ("one",)))
    mailbox.post(("note", ("two",)), 7)
    assert mailbox.collect().messages == [("note", ("one",)), ("note", ("two",))]
    after = mailbox.collect()
    assert (after.messages, after.step) == ([], 7)


def test_who_is_silent_is_not_counted_as_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(mailbox_module.time, "monotonic", lambda: now)
    mailbox = Mailbox()
    mailbox.begin(worker(0))
    mailbox.begin(worker(1))
    assert mailbox.collect().alive == 2
    now += 4
    mailbox.beat(1)
    assert mailbox.collect().alive == 2
    now += 2
    assert mailbox.collect().alive == 1
    assert mailbox.collect().processes == [worker(0), worker(1)]


def test_a_wish_to_stop_is_the_answer_to_a_sign_of_life() -> None:
    mailbox = Mailbox()
    assert mailbox.beat(0) == ""
    mailbox.wish_to_stop("SIGTERM")
    assert mailbox.beat(0) == mailbox.beat(1) == "SIGTERM"


def test_what_the_first_worker_s_watcher_is_told_reaches_the_driver_s() -> None:
    mailbox, heard = Mailbox(), Heard()
    posting = PostingWatcher(Handle(mailbox))
    posting.begin(3, 100)
    posting.step(STEP)
    assert mailbox.collect().step == 150
    posting.begin(3, 100)
    posting.step(STEP)
    posting.epoch(EPOCH)
    posting.note("look")
    posting.end()
    digest = mailbox.collect()
    assert digest.step == 200
    relay(digest.messages, heard)
    assert heard.calls == [
        ("begin", (3, 100)),
        ("step", (STEP,)),
        ("epoch", (EPOCH,)),
        ("note", ("look",)),
        ("end", ()),
    ]
