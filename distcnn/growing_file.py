"""A file that grows while a run goes on, safe at each `sync`; in an object store, put whole."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from pathlib import Path

from distcnn.files import write_atomically
from distcnn.location import Location
from distcnn.object_store import ObjectPath


class GrowingFile(ABC):
    """Written by one attempt, in spite of an earlier one that was taken for dead and is not.

    What such a one writes goes into its own old file; in an object store it may come between, until
    the next `sync` puts the whole again.
    """

    @abstractmethod
    def append(self, content: bytes) -> None:
        """Add to the end; safe after the next `sync`."""

    @abstractmethod
    def sync(self) -> None:
        """Make all of it safe; the caller has made sure that the run is still its own."""

    @abstractmethod
    def close(self) -> None:
        """End the writing, whoever owns the run now."""


def start_growing(path: Location, content: bytes) -> GrowingFile:
    """Replace what is at `path` by `content`, to go on from there."""
    if isinstance(path, Path):
        return _File(path, content)
    return _Object(path, content)


class _File(GrowingFile):
    def __init__(self, path: Path, content: bytes) -> None:
        write_atomically(path, content)
        # Held open: an attempt that was taken over writes into its own old file, not into ours.
        self._file = path.open("ab")

    def append(self, content: bytes) -> None:
        self._file.write(content)
        self._file.flush()

    def sync(self) -> None:
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class _Object(GrowingFile):
    def __init__(self, path: ObjectPath, content: bytes) -> None:
        self._path = path
        self._content = content
        self._version = path.put(content)
        self._is_synced = True

    def append(self, content: bytes) -> None:
        self._content += content
        self._is_synced = False

    def sync(self) -> None:
        if not self._is_synced:
            self._version = self._path.put(self._content)
            self._is_synced = True

    def close(self) -> None:
        if not self._is_synced:
            # Only over what we have put: a later attempt may have begun meanwhile.
            self._path.put_if(self._content, self._version)
            self._is_synced = True
