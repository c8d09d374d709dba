"""What a person sees while a job is followed: its log, and on a terminal live lines below it."""

from __future__ import annotations

import re
import sys
import time
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from distcnn.cluster.status import Status
from distcnn.wording import duration

# What a driver prints every few seconds while it trains: news for a moment.
_MOMENTARY = re.compile(r"epoch \d+/\d+  step \d+/\d+  ")
_COLORS = {"RUNNING": "green", "SUCCEEDED": "green", "FAILED": "red", "LOST": "red"}


class JobView(Protocol):
    """Whoever is told how a followed job goes."""

    def status(self, status: Status) -> None:
        """How it is now."""

    def log(self, chunk: bytes) -> None:
        """What its driver has printed since."""

    def trouble(self, message: str) -> None:
        """Why nothing is heard of it for the moment; empty once that is over."""

    def end(self) -> None:
        """Nothing more will come."""


def job_view(name: str) -> JobView:
    """The one that fits this process's output.

    Args:
        name: the job's, for people.
    """
    return TerminalView(name) if sys.stdout.isatty() else PlainView(name)


class PlainView:
    """The log as it is on stdout, what is known of the job on stderr."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._last = ""
        self._trouble = ""

    def status(self, status: Status) -> None:
        """A line for each change."""
        line = _status_text(status)
        if line != self._last:
            self._last = line
            self._say(line)

    def log(self, chunk: bytes) -> None:
        """The bytes."""
        sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()

    def trouble(self, message: str) -> None:
        """A line for each change."""
        if message != self._trouble:
            self._trouble = message
            self._say(message or "it answers again")

    def end(self) -> None:
        """Nothing is left open."""

    def _say(self, message: str) -> None:
        sys.stdout.flush()
        print(f"[{self._name}] {message}", file=sys.stderr, flush=True)


class TerminalView:
    """The log scrolls; below it stand the state, since when, and the last figures."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._state = ""
        self._detail = ""
        self._since = time.monotonic()
        self._figures = ""
        self._trouble = ""
        self._unfinished = b""
        self._console = Console(highlight=False)
        self._live = Live(
            get_renderable=self._render, console=self._console, transient=True, refresh_per_second=4
        )
        self._live.start()

    def _render(self) -> Group:
        state = Text(overflow="ellipsis", no_wrap=True)
        state.append(f"{self._state or '...'} ", style=f"bold {_COLORS.get(self._state, 'yellow')}")
        state.append(f"{duration(time.monotonic() - self._since)}  {self._name}")
        state.append(f"  {self._trouble}" if self._trouble else "")
        state.append("  (Ctrl-C detaches)", style="dim")
        latest = self._figures or self._detail
        return Group(state, *([Text(latest, overflow="ellipsis", no_wrap=True)] if latest else []))

    def status(self, status: Status) -> None:
        """Show it in the line; changes are left behind."""
        if status.state != self._state:
            self._state, self._since = str(status.state), time.monotonic()
            self._console.print(f"[{self._name}] {_status_text(status)}", markup=False)
        self._detail = status.detail

    def log(self, chunk: bytes) -> None:
        """Whole lines scroll; figures of the moment take each other's place."""
        *lines, self._unfinished = (self._unfinished + chunk).split(b"\n")
        for line in lines:
            text = line.decode(errors="replace").rstrip("\r")
            if _MOMENTARY.match(text):
                self._figures = text
            else:
                self._console.print(text, markup=False, soft_wrap=True)

    def trouble(self, message: str) -> None:
        """Show it in the line."""
        self._trouble = message

    def end(self) -> None:
        """Show what was printed last, and take the live lines away."""
        if self._unfinished:
            self.log(b"\n")
        self._live.stop()


def _status_text(status: Status) -> str:
    return f"{status.state}: {status.detail}" if status.detail else str(status.state)
