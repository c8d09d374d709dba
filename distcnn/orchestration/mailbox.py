"""What the workers of an attempt and its driver tell each other, over connections of their own.

The driver listens; each worker calls. Ray Train's own reports wait for all workers and for its
controller, these for nobody but the driver; and a Ray actor in between would be one process more
that takes time from the workers: an idle one wakes up a hundred times a second, which cost 1 % of
the throughput of two cores.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from distcnn.orchestration.line import Line, LineAddress, served
from distcnn.progress import EpochReport, StepReport, Watcher
from distcnn.training.control import Control

# A worker without a sign of life for so long is not counted as alive.
_SILENT_SECONDS = 5.0
_ASK_AGAIN_SECONDS = 0.05
# Between two signs of life of a worker.
BEAT_SECONDS = 0.5


@dataclass(frozen=True)
class WorkerProcess:
    """Where a worker runs."""

    rank: int
    host: str
    node_id: str
    pid: int


@dataclass(frozen=True)
class Message:
    """A call of one of `Watcher`'s methods, for whoever watches the driver."""

    method: str
    arguments: dict[str, Any]


@dataclass
class Digest:
    """What the driver has not heard yet."""

    messages: list[Message] = field(default_factory=list[Message])
    processes: list[WorkerProcess] = field(default_factory=list[WorkerProcess])
    """All that have begun, by rank."""
    alive: int = 0
    step: int = 0
    """The last one that is known to be done, since the start of the run."""


class Mailbox:
    """The driver's; its methods return at once, in any thread."""

    def __init__(self, step: int = 0) -> None:
        """Args: the step from which the workers go on."""
        self._lock = threading.Lock()
        self._messages: list[Message] = []
        self._processes: dict[int, WorkerProcess] = {}
        self._last_beat: dict[int, float] = {}
        self._address = ""
        self._wish = ""
        self._step = step
        self._settled_epoch = 0

    def begin(self, process: WorkerProcess) -> None:
        """A worker has begun."""
        with self._lock:
            self._processes[process.rank] = process
            self._last_beat[process.rank] = time.monotonic()

    def offer_address(self, address: str) -> None:
        """Where the first worker waits for the others."""
        self._address = address

    def meet(self) -> tuple[str, list[WorkerProcess]]:
        """That address, empty until it is known, and the workers that have begun, by rank."""
        with self._lock:
            return self._address, self._by_rank()

    def beat(self, rank: int) -> str:
        """A sign of life; why the workers should stop, if they should."""
        with self._lock:
            self._last_beat[rank] = time.monotonic()
            return self._wish

    def post(self, message: Message, step: int | None = None) -> None:
        """A message for whoever watches the driver."""
        with self._lock:
            self._messages.append(message)
            if step is not None:
                self._step = step

    def wish_to_stop(self, reason: str) -> None:
        """The driver wants the workers to save and stop."""
        self._wish = reason

    def settle(self, epoch: int) -> None:
        """The driver has heard of an epoch, and wishes whatever it makes it wish."""
        self._settled_epoch = epoch

    def answer(self, epoch: int) -> tuple[bool, str]:
        """Whether the driver has heard of an epoch; and why the workers should stop, if so."""
        return self._settled_epoch >= epoch, self._wish

    def collect(self) -> Digest:
        """Hand the driver what it has not heard yet."""
        with self._lock:
            now = time.monotonic()
            messages, self._messages = self._messages, []
            return Digest(
                messages=messages,
                processes=self._by_rank(),
                alive=sum(now - beat < _SILENT_SECONDS for beat in self._last_beat.values()),
                step=self._step,
            )

    def _by_rank(self) -> list[WorkerProcess]:
        return [process for _, process in sorted(self._processes.items())]


@contextmanager
def opened(host: str, step: int = 0) -> Generator[tuple[Mailbox, LineAddress]]:
    """A mailbox that workers reach at this host's address, until the end of the block.

    They go on from `step`.
    """
    mailbox = Mailbox(step)

    def begin(process: dict[str, Any]) -> None:
        mailbox.begin(WorkerProcess(**process))

    def meet() -> tuple[str, list[dict[str, Any]]]:
        address, processes = mailbox.meet()
        return address, [asdict(process) for process in processes]

    def post(method: str, arguments: dict[str, Any], step: int | None) -> None:
        mailbox.post(Message(method, arguments), step)

    calls = {
        "begin": begin,
        "offer_address": mailbox.offer_address,
        "meet": meet,
        "beat": mailbox.beat,
        "answer": mailbox.answer,
        "post": post,
    }
    with served(host, calls, unanswered=("post",)) as address:
        yield mailbox, address


class MailboxLine:
    """A worker's connection to the driver's mailbox.

    When the driver is gone, nothing is said any more: Ray ends the workers then.
    """

    def __init__(self, address: LineAddress) -> None:
        """Call the driver.

        Raises:
            LineLostError: it does not answer.
        """
        self._line = Line(address)

    def begin(self, process: WorkerProcess) -> None:
        """Say that this worker has begun."""
        self._line.ask("begin", asdict(process))

    def offer_address(self, address: str) -> None:
        """Say where this worker waits for the others."""
        self._line.ask("offer_address", address)

    def meet(self) -> tuple[str, list[WorkerProcess]]:
        """See `Mailbox.meet`."""
        address, processes = self._line.ask("meet")
        return address, [WorkerProcess(**process) for process in processes]

    def beat(self, rank: int) -> str:
        """Give a sign of life; why the workers should stop, if they should.

        Raises:
            LineLostError: the driver is gone.
        """
        wish: str = self._line.ask("beat", rank)
        return wish

    def answer(self, epoch: int) -> str:
        """Wait until the driver has heard of an epoch; why the workers should stop, if they should.

        Raises:
            LineLostError: the driver is gone.
        """
        while True:
            is_heard, wish = self._line.ask("answer", epoch)
            if is_heard:
                return wish
            time.sleep(_ASK_AGAIN_SECONDS)

    def post(self, method: str, arguments: dict[str, Any], step: int | None = None) -> None:
        """Leave a message, for which there is no answer."""
        self._line.tell("post", method, arguments, step)


class PostingWatcher:
    """The first worker's watcher: what it is told goes to the driver's.

    In a sweep's trial an epoch's end waits for the driver, who may have the trial stop: it then
    trains no step more.
    """

    def __init__(self, line: MailboxLine, trial: Control | None = None) -> None:
        """Args: the line to the driver; the control of a sweep's trial."""
        self._line, self._trial = line, trial
        self._steps_per_epoch = 0

    def begin(self, num_epochs: int, steps_per_epoch: int) -> None:
        """Training starts, or goes on."""
        self._steps_per_epoch = steps_per_epoch
        arguments = {"num_epochs": num_epochs, "steps_per_epoch": steps_per_epoch}
        self._line.post("begin", arguments)

    def step(self, report: StepReport) -> None:
        """Some steps are done."""
        step = (report.epoch - 1) * self._steps_per_epoch + report.step
        self._line.post("step", asdict(report), step)

    def epoch(self, report: EpochReport) -> None:
        """An epoch is done and validated."""
        self._line.post("epoch", asdict(report), report.epoch * self._steps_per_epoch)
        if self._trial is not None and (wish := self._line.answer(report.epoch)):
            self._trial.request_stop(wish)

    def note(self, message: str) -> None:
        """Something the user should know."""
        self._line.post("note", {"message": message})

    def end(self) -> None:
        """Training is over, in whatever way."""
        self._line.post("end", {})


def relay(messages: list[Message], watcher: Watcher) -> None:
    """Tell a watcher what was posted for it."""
    for message in messages:
        match message.method:
            case "begin":
                watcher.begin(**message.arguments)
            case "step":
                watcher.step(StepReport(**message.arguments))
            case "epoch":
                watcher.epoch(EpochReport(**message.arguments))
            case "note":
                watcher.note(**message.arguments)
            case _:
                watcher.end()
