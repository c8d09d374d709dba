"""What the workers of an attempt and its driver tell each other, over connections of their own.

The driver listens; each worker calls. Ray Train's own reports wait for all workers and for its
controller, these for nobody but the driver; and a Ray actor in between would be one process more
that takes time from the workers: an idle one wakes up a hundred times a second, which cost 1 % of
the throughput of two cores.

What is sent is JSON. Who calls has to know a key, which is never sent itself (HMAC).
"""

from __future__ import annotations

import json
import secrets
import socket
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from multiprocessing import AuthenticationError
from multiprocessing.connection import (
    Client,
    Connection,
    answer_challenge,
    deliver_challenge,
)
from typing import Any

from distcnn.progress import EpochReport, StepReport, Watcher

# A worker without a sign of life for so long is not counted as alive.
_SILENT_SECONDS = 5.0
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


@dataclass(frozen=True)
class MailboxAddress:
    """Where workers reach it, and what lets them in."""

    host: str
    port: int
    key: bytes = field(repr=False)


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
def opened(host: str, step: int = 0) -> Generator[tuple[Mailbox, MailboxAddress]]:
    """A mailbox that workers reach at this host's address, until the end of the block.

    They go on from `step`.
    """
    mailbox, key = Mailbox(step), secrets.token_bytes(32)
    with socket.create_server((host, 0), backlog=1024) as server:
        address = MailboxAddress(host, server.getsockname()[1], key)
        arguments = (server, mailbox, key)
        thread = threading.Thread(target=_accept, args=arguments, name="mailbox", daemon=True)
        thread.start()
        try:
            yield mailbox, address
        finally:
            server.shutdown(socket.SHUT_RDWR)  # Ends `accept`, which closing does not.
            thread.join()


def _accept(server: socket.socket, mailbox: Mailbox, key: bytes) -> None:
    while True:
        try:
            caller, _ = server.accept()
        except OSError:
            return
        # In a thread of its own from the start: somebody who calls and says nothing stops nobody.
        threading.Thread(target=_serve, args=(caller, mailbox, key), daemon=True).start()


def _serve(caller: socket.socket, mailbox: Mailbox, key: bytes) -> None:
    """Do what one worker calls for, until it is gone."""

    def begin(process: dict[str, Any]) -> None:
        mailbox.begin(WorkerProcess(**process))

    def meet() -> tuple[str, list[dict[str, Any]]]:
        address, processes = mailbox.meet()
        return address, [asdict(process) for process in processes]

    def post(method: str, arguments: dict[str, Any], step: int | None) -> None:
        mailbox.post(Message(method, arguments), step)

    calls: dict[str, Callable[..., Any]] = {
        "begin": begin,
        "offer_address": mailbox.offer_address,
        "meet": meet,
        "beat": mailbox.beat,
        "post": post,
    }
    # Somebody else may have called, or a worker may die while it does.
    with (
        Connection(caller.detach()) as connection,
        suppress(EOFError, OSError, AuthenticationError),
    ):
        deliver_challenge(connection, key)
        answer_challenge(connection, key)
        while True:
            name, arguments = json.loads(connection.recv_bytes())
            answer = calls[name](*arguments)
            if name != "post":
                connection.send_bytes(json.dumps(answer).encode())


class MailboxLine:
    """A worker's connection to the driver's mailbox.

    When the driver is gone, nothing is said any more: Ray ends the workers then.
    """

    def __init__(self, address: MailboxAddress) -> None:
        """Call the driver.

        Raises:
            OSError: it does not answer.
        """
        self._connection = Client((address.host, address.port), authkey=address.key)
        self._lock = threading.Lock()

    def begin(self, process: WorkerProcess) -> None:
        """Say that this worker has begun."""
        self._ask("begin", asdict(process))

    def offer_address(self, address: str) -> None:
        """Say where this worker waits for the others."""
        self._ask("offer_address", address)

    def meet(self) -> tuple[str, list[WorkerProcess]]:
        """See `Mailbox.meet`."""
        address, processes = self._ask("meet")
        return address, [WorkerProcess(**process) for process in processes]

    def beat(self, rank: int) -> str:
        """Give a sign of life; why the workers should stop, if they should.

        Raises:
            EOFError, OSError: the driver is gone.
        """
        wish: str = self._ask("beat", rank)
        return wish

    def post(self, method: str, arguments: dict[str, Any], step: int | None = None) -> None:
        """Leave a message, for which there is no answer."""
        content = json.dumps(["post", [method, arguments, step]]).encode()
        with suppress(OSError), self._lock:
            self._connection.send_bytes(content)

    def _ask(self, name: str, *arguments: Any) -> Any:
        with self._lock:
            self._connection.send_bytes(json.dumps([name, arguments]).encode())
            return json.loads(self._connection.recv_bytes())


class PostingWatcher:
    """The first worker's watcher: what it is told goes to the driver's."""

    def __init__(self, line: MailboxLine) -> None:
        self._line = line
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
