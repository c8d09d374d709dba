"""Writing files so that a kill at any moment leaves the old content, the new one, or a leftover."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distcnn.errors import UserError
from distcnn.location import Location
from distcnn.object_store import back_off


class DamagedFileError(UserError):
    """A file of a run is not what distcnn wrote."""

    def __init__(self, path: Location) -> None:
        super().__init__(
            f"{path} is damaged: it is not what this distcnn writes there. If nothing else writes"
            " it, move that file away"
        )


# A leftover of a killed writer is recognised, and cleared, by this beginning of its name.
TEMPORARY_PREFIX = ".tmp-"


def write_atomically(path: Location, content: bytes) -> None:
    """Write aside, sync, then rename, or put: no reader ever sees half of `content`."""
    if not isinstance(path, Path):
        path.put(content)
        return
    with temporary_beside(path) as temporary:
        _write_synced(temporary, content)
        temporary.replace(path)
    sync_directory(path.parent)


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def read_json(path: Location) -> Any:
    """What a JSON file of ours holds.

    Raises:
        DamagedFileError: it holds no JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise DamagedFileError(path) from error


def read_from(path: Path, offset: int) -> bytes:
    """What a file holds from so many bytes on; nothing where there is no file."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read()
    except FileNotFoundError:
        return b""


def create_exclusively(path: Location, content: bytes) -> bool:
    """Create `path` with its whole content unless it exists; whether this call created it.

    Of several processes, on several hosts, exactly one gets True.
    """
    if not isinstance(path, Path):
        return path.put_if(content, version=None) is not None
    with temporary_beside(path) as temporary:
        _write_synced(temporary, content)
        try:
            path.hardlink_to(temporary)
        except FileExistsError:
            return False
    sync_directory(path.parent)
    return True


def append_line(path: Location, line: bytes) -> None:
    """Add a line to a file of lines, which other processes may add to as well."""
    if not isinstance(path, Path):
        # Nothing can be appended to an object: it is replaced, unless another came first.
        while True:
            lines, version = path.read_versioned()
            if path.put_if(lines + _as_next_line(line, lines[-1:]), version) is not None:
                return
            back_off()
    with path.open("ab+") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 1))
        # One byte: more is what others have added since.
        file.write(_as_next_line(line, file.read(1)))


def _as_next_line(line: bytes, last_byte: bytes) -> bytes:
    """A whole line even after half of one, which a kill has left."""
    is_torn = last_byte not in (b"", b"\n")
    return b"\n" * is_torn + line + b"\n"


@contextmanager
def temporary_beside(path: Path) -> Generator[Path]:
    """A name for a file to be written in the folder of `path`; gone at the end in any case."""
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{path.name}-{uuid.uuid4().hex[:12]}")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def clear_leftovers(directory: Location) -> None:
    """Remove what writers that were killed have left; only for who knows that none is alive."""
    for leftover in directory.glob(f"{TEMPORARY_PREFIX}*"):
        leftover.unlink(missing_ok=True)


def sync_directory(directory: Path) -> None:
    """Make the names in a directory survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
