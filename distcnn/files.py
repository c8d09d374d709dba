"""Writing files so that a kill at any moment leaves the old content, the new one, or a leftover."""

from __future__ import annotations

import errno
import json
import os
import stat
import uuid
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from distcnn.errors import UsageError, UserError
from distcnn.location import Location
from distcnn.object_store import back_off

RESTORE = "Restore it from a backup"


class DamagedFileError(UserError):
    """A file does not hold what distcnn wrote into it."""

    def __init__(self, path: Location, remedy: str = RESTORE) -> None:
        """Name the file, and what the user can do without losing work."""
        super().__init__(f"{path} is damaged: its content is not what distcnn writes. {remedy}")


class NotARegularFileError(UsageError):
    """A path to be written names a directory, a device, a FIFO, a socket or a loop of links."""


# A leftover of a killed writer is recognised, and cleared, by this beginning of its name.
TEMPORARY_PREFIX = ".tmp-"


def write_atomically(path: Location, content: bytes) -> None:
    """Write aside, sync, then rename, or put: no reader ever sees half of `content`.

    A symbolic link stays, and the file that it points to is written. A file that is replaced
    passes its permissions on.

    Raises:
        NotARegularFileError: there is something other than a regular file at `path`.
    """
    if not isinstance(path, Path):
        path.put(content)
        return
    target = regular_file(path)
    with temporary_beside(target) as temporary:
        _write_synced(temporary, content)
        regular_file(path)  # Again: writing takes time, and a rename replaces anything.
        with suppress(FileNotFoundError):
            temporary.chmod(stat.S_IMODE(target.stat().st_mode))
        temporary.replace(target)
    sync_directory(target.parent)


def regular_file(path: Path) -> Path:
    """Return the file that a write to `path` creates or replaces, with symbolic links followed.

    Raises:
        NotARegularFileError: there is something other than a regular file.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return path.resolve()
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise _not_a_regular_file(path, "a loop of symbolic links") from None
    if not stat.S_ISREG(mode):
        kind = next((name for is_kind, name in _OTHER_KINDS if is_kind(mode)), "not a file")
        raise _not_a_regular_file(path, kind)
    return path.resolve()


_OTHER_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
)


def _not_a_regular_file(path: Path, kind: str) -> NotARegularFileError:
    return NotARegularFileError(
        f"cannot write {path}: it is {kind}. Give the path of a regular file, or one that does not"
        " exist yet"
    )


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def read_json(path: Location, remedy: str = RESTORE) -> Any:
    """Return the content of a JSON file.

    Raises:
        DamagedFileError: the file does not hold JSON; the message has the remedy.
    """
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(path, remedy) from error


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
    """Add a line to a file of lines, which other processes may add to as well.

    Raises:
        NotARegularFileError: there is something other than a regular file at `path`.
    """
    if not isinstance(path, Path):
        # Nothing can be appended to an object: it is replaced, unless another came first.
        while True:
            lines, version = path.read_versioned()
            if path.put_if(lines + _as_next_line(line, lines[-1:]), version) is not None:
                return
            back_off()
    with regular_file(path).open("ab+") as file:
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
