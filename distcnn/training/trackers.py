"""Experiment trackers that people use: what `metrics.csv` tells, told to them as well.

A tracker is somebody else's server: training neither waits for it nor fails with it.
"""

from __future__ import annotations

import json
import re
import threading
import uuid
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from queue import Queue
from typing import Any, Protocol

from distcnn.config import RunConfig, TrackerName
from distcnn.errors import UserError
from distcnn.files import read_json, write_atomically
from distcnn.location import Location
from distcnn.run_directory.metrics_log import Row
from distcnn.run_directory.run import RunDirectory

# For what has not been told when training, or the run, ends.
_PATIENCE_SECONDS = 10.0
# Of a server's address, which errors are fond of telling.
_CREDENTIALS = re.compile(r"//[^/\s]*@")

Notify = Callable[[str], None]


class Tracker(Protocol):
    """A run as a tracker has it: begun, or gone on with, when it is made."""

    def __init__(self, run: RunDirectory, config: RunConfig) -> None: ...

    def row(self, row: Row) -> None:
        """Add the measures of one row."""

    def end(self, results: dict[str, Any]) -> None:
        """Tell how the run ended, and what was measured then."""

    def close(self) -> None:
        """Nothing more is told for now."""


class Trackers:
    """All trackers that a config names, each told in the background, in its own time."""

    def __init__(self, run: RunDirectory, config: RunConfig, notify: Notify) -> None:
        """Begin to tell them, which are installed."""
        self._told = [_InBackground(name, run, config, notify) for name in config.training.trackers]

    def row(self, row: Row) -> None:
        """Add the measures of one row."""
        for told in self._told:
            told.put(lambda tracker: tracker.row(row))

    def end(self, results: dict[str, Any]) -> None:
        """Tell how the run ended."""
        for told in self._told:
            told.put(lambda tracker: tracker.end(results))

    def close(self) -> None:
        """Wait a while for what is still to be told."""
        for told in self._told:
            told.close()


def check_installed(config: RunConfig) -> None:
    """Refuse to train where a tracker could not be told.

    Raises:
        UserError: a tracker's package is not installed.
    """
    for name in config.training.trackers:
        if find_spec(name) is None:
            raise UserError(
                f"training.trackers names {name}, which is not installed here:"
                f" pip install 'distcnn[{name}]'"
            )


def _find(name: TrackerName) -> type[Tracker]:
    return import_module(f"distcnn.training.{name}_tracker").TRACKER


class _InBackground:
    """A tracker that is told by a thread; what it does not take is said once, and left."""

    def __init__(
        self,
        name: TrackerName,
        run: RunDirectory,
        config: RunConfig,
        notify: Notify,
    ) -> None:
        self._name: TrackerName = name
        self._notify = notify
        self._calls: Queue[Callable[[Tracker], None] | None] = Queue()
        self._thread = threading.Thread(
            target=self._tell, args=(run, config), name=f"{name} tracker", daemon=True
        )
        self._thread.start()

    def put(self, call: Callable[[Tracker], None]) -> None:
        self._calls.put(call)

    def close(self) -> None:
        self._calls.put(None)
        self._thread.join(_PATIENCE_SECONDS)
        if self._thread.is_alive():
            self._notify(f"{self._name} has not answered in time, and has not been told all")

    def _tell(self, run: RunDirectory, config: RunConfig) -> None:
        try:
            tracker = _find(self._name)(run, config)
            while (call := self._calls.get()) is not None:
                call(tracker)
            tracker.close()
        except Exception as error:  # noqa: BLE001 - a tracker's trouble is none of the training's
            what = _CREDENTIALS.sub("//", str(error).partition("\n")[0])
            self._notify(f"{self._name} is told no more ({type(error).__name__}: {what})")


def own_mark(path: Location) -> str:
    """What a tracker knows a run by, made before it is told: a kill in between leaves one run."""
    if not path.exists():
        write_atomically(path, json.dumps({"run": uuid.uuid4().hex}).encode())
    return read_json(path, "Delete it: the tracker then gets a new run")["run"]


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by their dotted names."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def measures_of(results: dict[str, Any]) -> dict[str, float]:
    """The numbers that a run is known by: `test/accuracy`, `val/loss`, ..."""
    return {
        f"{split}/{name}": results[split][name]
        for split in ("val", "test")
        for name in ("accuracy", "loss")
        if name in results.get(split, {})
    }
