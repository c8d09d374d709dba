"""The user's cache: one verified copy of each array per machine, mapped by all its processes.

An array is kept as an uncompressed IDX file, the format Fashion-MNIST is published in
(http://yann.lecun.com/exdb/mnist/): its bytes can be mapped as they are, and one SHA-256 covers the
shape as well as the content.
"""

import errno
import hashlib
import os
import shutil
import socket
import struct
from collections.abc import Generator
from contextlib import contextmanager
from math import prod
from pathlib import Path

import numpy as np
import platformdirs
from numpy.typing import NDArray

from distcnn.errors import UserError

Array = NDArray[np.uint8]

_IDX_UINT8 = 0x08
_FULL = (errno.ENOSPC, errno.EDQUOT)


def cache_directory() -> Path:
    """`DISTCNN_CACHE_DIR`, or else the platform's cache folder of this user; it may not exist."""
    chosen = os.environ.get("DISTCNN_CACHE_DIR")
    return Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("distcnn")


@contextmanager
def exclusive(folder: Path) -> Generator[Path]:
    """Create `folder`, hold this machine's lock on it, and yield an empty scratch folder inside it.

    What a killed process left in the scratch folder is removed first. The operating system
    releases the lock of a process that dies. Lock and scratch folder bear the machine's name: over
    a shared file system, where locks cannot be relied on, each machine fills the folder by itself.

    Raises:
        UserError: the folder cannot be written.
    """
    from filelock import FileLock  # 0.1 s to import, and a warm start never gets here

    host = socket.gethostname()
    scratch = folder / f"partial-{host}"
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f".lock-{host}")
        lock.acquire()
    try:
        with explained(folder):
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir()
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        lock.release()


@contextmanager
def explained(folder: Path, num_bytes: int = 0) -> Generator[None]:
    """Turn the `OSError` of writing `num_bytes` into `folder` into a `UserError` with a remedy."""
    remedy = "set DISTCNN_CACHE_DIR to another folder"
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            need = f" and {num_bytes:,} bytes are needed" if num_bytes else ""
            raise UserError(
                f"The disk of the cache folder {folder} is full{need}. "
                f"Free some space, or {remedy}."
            ) from error
        raise UserError(
            f"The cache folder {folder} cannot be written: {error.strerror or error}. "
            f"Make it writable, or {remedy}."
        ) from error


def place(scratch: Path, target: Path, content: bytes) -> None:
    """Write `target` whole or not at all, by way of `scratch` on the same file system.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    with explained(target.parent, len(content)):
        partial = scratch / target.name
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)


def store_array(scratch: Path, target: Path, idx: bytes, sha256: str) -> Array:
    """Place an IDX file at `target` and map it.

    Raises:
        UserError: the disk is full, the folder cannot be written, or it does not give back what
            was written.
    """
    place(scratch, target, idx)
    array = map_array(target, sha256)
    if array is None:
        raise UserError(
            f"{target} does not read back as it was written; its disk may be failing. "
            "Set DISTCNN_CACHE_DIR to a folder on another disk."
        )
    return array


def map_array(path: Path, sha256: str) -> Array | None:
    """Map the IDX file at `path`, or return None where it is missing or its digest is another.

    The mapping is copy-on-write: the pages are shared between processes, yet the array counts as
    writable, so `torch.from_numpy` takes it without a warning. What is hashed is the mapping
    itself, so a file replaced meanwhile cannot slip in.
    """
    try:
        content = np.memmap(path, dtype=np.uint8, mode="c")
    except (OSError, ValueError):  # not there or not readable; ValueError where it is empty
        return None
    return parse_idx(content) if hashlib.sha256(content.data).hexdigest() == sha256 else None


def parse_idx(content: Array) -> Array:
    """Return the uint8 array held by the bytes of an IDX file, as a view of them.

    The file is two zero bytes, the element type, the number of dimensions, then each dimension as
    a big-endian 32-bit number, then the elements in C order.

    Raises:
        ValueError: the bytes are anything but exactly one uint8 array of at least one dimension.
    """
    magic = content[:4].tobytes()
    if len(magic) < 4 or magic[:3] != bytes([0, 0, _IDX_UINT8]) or magic[3] == 0:
        raise ValueError(f"magic number {magic.hex(' ') or 'missing'}, not that of uint8 IDX")
    header_bytes = 4 + 4 * magic[3]
    if len(content) < header_bytes:
        raise ValueError(f"{len(content)} bytes, less than the header's {header_bytes}")
    shape = struct.unpack(f">{magic[3]}I", content[4:header_bytes].tobytes())
    if len(content) != header_bytes + prod(shape):
        raise ValueError(
            f"{len(content):,} bytes, but shape {shape} needs {header_bytes + prod(shape):,}"
        )
    return content[header_bytes:].reshape(shape)


def format_idx(array: Array) -> bytes:
    """Return the bytes of the IDX file that holds `array`; the inverse of `parse_idx`."""
    magic = bytes([0, 0, _IDX_UINT8, array.ndim])
    return magic + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
