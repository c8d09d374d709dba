"""What the workers of an attempt and its driver tell each other, by way of one small Ray actor.

Ray Train's own reports wait for all workers and for its controller; these wait for nobody.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ray

from distcnn.progress import EpochReport, StepReport, Watcher

# A worker without a sign of life for so long is not counted as alive.
_SILENT_SECONDS = 5.0
# Between two signs of life of a worker.
BEAT_SECONDS = 0.5

Message = tuple[str, tuple[Any, ...]]
"""A method of `Watcher` and its arguments."""


@dataclass(frozen=True)
class WorkerProcess:
    """Where a worker runs."""

    rank: int
    host: str
    node_id: str
    pid: int


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
    """The actor. Its methods return at once."""

    def __init__(self) -> None:
        self._messages: list[Message] = []
        self._processes: dict[int, WorkerProcess] = {}
        self._last_beat: dict[int, float] = {}
        self._address = ""
        self._wish = ""
        self._step = 0

    def begin(self, process: WorkerProcess) -> None:
        """A worker has begun."""
        self._processes[process.rank] = process
        self.beat(process.rank)

    def offer_address(self, address: str) -> None:
        """Where the first worker waits for the others."""
        self._address = address

    def meet(self) -> tuple[str, list[WorkerProcess]]:
        """That address, empty until it is known, and the workers that have begun, by rank."""
        return self._address, self._by_rank()

    def beat(self, rank: int) -> str:
        """A sign of life; why the workers should stop, if they should."""
        self._last_beat[rank] = time.monotonic()
        return self._wish

    def post(self, message: Message, step: int | None = None) -> None:
        """A message for whoever watches the driver."""
        self._messages.append(message)
        if step is not None:
            self._step = step

    def wish_to_stop(self, reason: str) -> None:
        """The driver wants the workers to save and stop."""
        self._wish = reason

    def _by_rank(self) -> list[WorkerProcess]:
        return [process for _, process in sorted(self._processes.items())]

    def collect(self) -> Digest:
        """Hand the driver what it has not heard yet."""
        now = time.monotonic()
        messages, self._messages = self._messages, []
        return Digest(
            messages=messages,
            processes=self._by_rank(),
            alive=sum(now - beat < _SILENT_SECONDS for beat in self._last_beat.values()),
            step=self._step,
        )


def open_mailbox() -> Any:
    """Start one, on the driver's node."""
    node_id = ray.get_runtime_context().get_node_id()
    actor = ray.remote(num_cpus=0, label_selector={"ray.io/node-id": node_id})(Mailbox)
    return actor.remote()


class PostingWatcher:
    """The first worker's watcher: what it is told goes to the driver's."""

    def __init__(self, mailbox: Any) -> None:
        self._mailbox = mailbox
        self._steps_per_epoch = 0

    def begin(self, num_epochs: int, steps_per_epoch: int) -> None:
        """Training starts, or goes on."""
        self._steps_per_epoch = steps_per_epoch
        self._post("begin", num_epochs, steps_per_epoch)

    def step(self, report: StepReport) -> None:
        """Some steps are done."""
        step = (report.epoch - 1) * self._steps_per_epoch + report.step
        self._mailbox.post.remote(("step", (report,)), step)

    def epoch(self, report: EpochReport) -> None:
        """An epoch is done and validated."""
        self._mailbox.post.remote(("epoch", (report,)), report.epoch * self._steps_per_epoch)

    def note(self, message: str) -> None:
        """Something the user should know."""
        self._post("note", message)

    def end(self) -> None:
        """Training is over, in whatever way."""
        self._post("end")

    def _post(self, method: str, *arguments: Any) -> None:
        self._mailbox.post.remote((method, arguments))


def relay(messages: list[Message], watcher: Watcher) -> None:
    """Tell a watcher what was posted for it."""
    methods: dict[str, Callable[..., None]] = {
        "begin": watcher.begin,
        "step": watcher.step,
        "epoch": watcher.epoch,
        "note": watcher.note,
        "end": watcher.end,
    }
    for method, arguments in messages:
        methods[method](*arguments)
