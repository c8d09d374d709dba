"""A text that grows while a run goes on, safe at each `sync`: a file, or an object put whole."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from pathlib import Path

from distcnn.files import write_atomically
from distcnn.location import Location
from distcnn.object_store import ObjectPath


class GrowingFile(ABC):
    """Written by one attempt; one that was taken over can no longer spoil it."""

    @abstractmethod
    def append(self, text: str) -> None:
        """Add to the end; safe after the next `sync`."""

    @abstractmethod
    def sync(self) -> None:
        """Make all of it safe; the caller has made sure that the run is still its own."""

    @abstractmethod
    def close(self) -> None:
        """End the writing, whoever owns the run now."""


def start_growing(path: Location, text: str) -> GrowingFile:
    """Replace what is at `path` by `text`, to go on from there."""
    if isinstance(path, Path):
        return _File(path, text)
    return _Object(path, text)


class _File(GrowingFile):
    def __init__(self, path: Path, text: str) -> None:
        write_atomically(path, text.encode())
        # Held open: an attempt that was taken over writes into its own old file, not into ours.
        self._file = path.open("a", encoding="utf-8", newline="")

    def append(self, text: str) -> None:
        self._file.write(text)
        self._file.flush()

    def sync(self) -> None:
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class _Object(GrowingFile):
    def __init__(self, path: ObjectPath, text: str) -> None:
        self._path = path
        self._text = text
        self._version = path.put(text.encode())
        self._is_synced = True

    def append(self, text: str) -> None:
        self._text += text
        self._is_synced = False

    def sync(self) -> None:
        if not self._is_synced:
            self._version = self._path.put(self._text.encode())
            self._is_synced = True

    def close(self) -> None:
        if not self._is_synced:
            # Only over what we have put: a later attempt may have begun meanwhile.
            self._path.put_if(self._text.encode(), self._version)
            self._is_synced = True
