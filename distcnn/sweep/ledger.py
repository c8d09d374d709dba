"""The ledger of a sweep, `ledger.jsonl`: what was decided and what happened, replayed on resume."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, TypeAlias

from distcnn.files import DamagedFileError
from distcnn.growing_file import start_growing
from distcnn.location import Location
from distcnn.run_directory.lease import Fence

Event: TypeAlias = dict[str, Any]


def ledger_remedy(sweep: Location) -> str:
    """Return what to do about a ledger that cannot be read or is lost.

    Without it a sweep would train its trials' checkpoints on with other values.
    """
    return f"Restore it from a backup, or start a new sweep: distcnn tune {sweep / 'sweep.yaml'}"


def read_ledger(path: Location) -> Iterator[Event]:
    """The events, oldest first; a last line that a kill has torn is left out.

    Raises:
        DamagedFileError: a line before it is not JSON.
    """
    if not path.exists():
        return
    content = path.read_bytes()
    for line in content[: content.rfind(b"\n") + 1].splitlines():
        try:
            yield json.loads(line)
        except ValueError as error:
            raise DamagedFileError(path, ledger_remedy(path.parent)) from error


class Ledger:
    """Its writer: each event is durable when `append` returns."""

    def __init__(self, path: Location, events: list[Event], fence: Fence) -> None:
        """Go on after the events that are there, as long as the sweep is this driver's."""
        self._fence = fence
        fence.check()
        self._file = start_growing(path, b"".join(map(_encode, events)))

    def append(self, event: Event) -> None:
        """Add an event.

        Raises:
            LeaseLostError: another driver has taken the sweep over.
        """
        self._fence.check()
        self._file.append(_encode(event))
        self._file.sync()

    def close(self) -> None:
        """End the writing."""
        self._file.close()


def _encode(event: Event) -> bytes:
    return json.dumps(event).encode() + b"\n"
