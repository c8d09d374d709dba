"""The decision at a step boundary: go on, save, or stop. Nothing acts at any other moment."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Literal

import torch

from distcnn.workers import Workers

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Decision:
    """What happens after a step."""

    action: Literal["continue", "save", "stop"]
    reason: str = ""
    signal_number: int | None = None
    """The signal that asked to stop, if one did."""


CONTINUE = Decision("continue")


class InterruptedNow(BaseException):
    """The second Ctrl-C: nothing more is saved. Lightning would swallow a KeyboardInterrupt."""


class Control:
    """Collects requests at any moment; answers at step boundaries, alike on all workers."""

    def __init__(
        self,
        workers: Workers,
        checkpoint_every_steps: int | None = None,
        listen_every_steps: int = 1,
    ) -> None:
        """Begin without a request.

        Args:
            workers: which have to agree to stop.
            checkpoint_every_steps: how often to save; None for never between epochs.
            listen_every_steps: how often the workers look whether they agree to stop, which waits
                for the device.
        """
        self._workers = workers
        self._checkpoint_every_steps = checkpoint_every_steps
        self._listen_every_steps = listen_every_steps
        self._stop: Decision | None = None
        self._raises_anywhere = True
        self._is_to_leave_now = False

    def request_stop(self, reason: str, signal_number: int | None = None) -> None:
        """Have the run saved and stopped at the next step boundary."""
        self._stop = Decision("stop", reason, signal_number)
        self._workers.wish_to_stop()

    def decide(self, step: int) -> Decision:
        """The decision after `step` steps since the start of the run.

        Raises:
            InterruptedNow: see `listening`.
        """
        if self._is_to_leave_now:
            raise InterruptedNow
        if step % self._listen_every_steps == 0 and self._workers.agree_to_stop():
            return self._agreed
        if self._checkpoint_every_steps and step % self._checkpoint_every_steps == 0:
            return Decision("save", "checkpoint_every_steps")
        return CONTINUE

    def decide_after_epoch(self, device: torch.device) -> Decision:
        """The decision after an epoch, which is saved anyway: a wish until now counts at once.

        Args:
            device: where the workers' tensors are.
        """
        self._workers.tell_wishes(device)
        return self._agreed if self._workers.agree_to_stop() else CONTINUE

    @property
    def _agreed(self) -> Decision:
        return self._stop or Decision("stop", "another worker was asked to")

    @contextmanager
    def listening(self, *, raises_anywhere: bool = True) -> Generator[None]:
        """Turn Ctrl-C and SIGTERM into requests, until the end of the block.

        Args:
            raises_anywhere: whether the second Ctrl-C raises InterruptedNow at once, wherever the
                main thread is; else `decide` does, the next time that it is called. Calls into
                Ray take an exception in their midst for an error of their own.
        """
        self._raises_anywhere = raises_anywhere
        if threading.current_thread() is not threading.main_thread():
            yield  # Signals belong to the main thread; whoever runs us elsewhere passes them on.
            return
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        try:
            for number in _SIGNALS:
                signal.signal(number, self._on_signal)
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._stop is not None and number == signal.SIGINT:
            self._is_to_leave_now = True
            if self._raises_anywhere:
                raise InterruptedNow
            return
        self.request_stop(signal.Signals(number).name, number)
