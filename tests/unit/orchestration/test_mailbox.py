"""What workers and driver tell each other, over real connections."""

from __future__ import annotations

import socket
import threading
from multiprocessing import AuthenticationError
from typing import Any

import pytest

from distcnn.orchestration import mailbox as mailbox_module
from distcnn.orchestration.line import LineAddress, LineLostError
from distcnn.orchestration.mailbox import (
    Mailbox,
    MailboxLine,
    Message,
    PostingWatcher,
    WorkerProcess,
    opened,
    relay,
)
from distcnn.progress import EpochReport, StepReport
from distcnn.training.control import Control
from distcnn.workers import Workers

EPOCH = EpochReport(
    epoch=2, train_loss=0.5, val_loss=0.4, val_accuracy=0.9, is_best=True, train_seconds=30
)
STEP = StepReport(
    epoch=2, step=50, train_loss=0.5, images_per_second=9e3, seconds_left=61, train_seconds=9
)


class Heard:
    """A watcher that remembers."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments, **named: self.calls.append((name, (*arguments, *named.values())))


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
    one, two = (Message("note", {"message": text}) for text in ("one", "two"))
    mailbox.post(one)
    mailbox.post(two, 7)
    assert mailbox.collect().messages == [one, two]
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
    heard = Heard()
    with opened("127.0.0.1") as (mailbox, address):
        line = MailboxLine(address)
        posting = PostingWatcher(line)
        posting.begin(3, 100)
        posting.step(STEP)
        line.beat(0)  # Answered after what was posted before it.
        assert mailbox.collect().step == 150
        posting.begin(3, 100)
        posting.step(STEP)
        posting.epoch(EPOCH)
        posting.note("look")
        posting.end()
        line.beat(0)
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


def test_workers_meet_over_their_lines() -> None:
    with opened("127.0.0.1") as (mailbox, address):
        first, second = MailboxLine(address), MailboxLine(address)
        first.begin(worker(0))
        second.begin(worker(1))
        first.offer_address("10.0.0.1:4711")
        assert second.meet() == ("10.0.0.1:4711", [worker(0), worker(1)])
        mailbox.wish_to_stop("SIGTERM")
        assert second.beat(1) == "SIGTERM"


def test_who_has_not_the_key_is_not_let_in() -> None:
    with opened("127.0.0.1") as (_, address):
        with pytest.raises(AuthenticationError):
            MailboxLine(LineAddress(address.host, address.port, b"guessed"))
        socket.create_connection((address.host, address.port)).close()
        assert MailboxLine(address).beat(0) == ""  # Others still are.
    assert "key" not in repr(address)


def test_a_driver_that_is_gone_breaks_no_worker() -> None:
    with opened("127.0.0.1") as (_, address):
        line = MailboxLine(address)
        line.beat(0)
    with pytest.raises(LineLostError, match="out of reach"):
        MailboxLine(address)
    line.post("note", {"message": "nobody hears this"})


def test_a_trials_epoch_waits_for_the_driver_who_may_have_it_stop() -> None:
    control = Control(Workers())
    with opened("127.0.0.1") as (mailbox, address):
        watcher = PostingWatcher(MailboxLine(address), trial=control)
        thread = threading.Thread(target=watcher.epoch, args=(EPOCH,), daemon=True)
        thread.start()
        mailbox.settle(EPOCH.epoch - 1)
        thread.join(0.3)
        assert thread.is_alive(), "the driver has not heard of this epoch yet"
        mailbox.wish_to_stop("stopped early")
        mailbox.settle(EPOCH.epoch)
        thread.join(10)
        assert not thread.is_alive()
    assert control.decide(1).reason == "stopped early"
