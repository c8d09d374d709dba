"""Fashion-MNIST: the four official files, where they are looked for, and what proves them right."""

import gzip
import hashlib
import os
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from threading import Thread

import numpy as np

from distcnn.data.cache import (
    Array,
    cache_directory,
    exclusive,
    explained,
    map_array,
    parse_idx,
    store_array,
)
from distcnn.errors import UserError

NAME = "fashion-mnist"

CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


@dataclass(frozen=True)
class OfficialFile:
    """One published file: its name without `.gz`, and the SHA-256 of it packed and unpacked."""

    name: str
    shape: tuple[int, ...]
    gz_sha256: str
    sha256: str

    @property
    def gz_name(self) -> str:
        """The name it is published under."""
        return f"{self.name}.gz"


# The packed files were checked against the MD5 sums in the publisher's README
# (https://github.com/zalandoresearch/fashion-mnist) when these digests were taken.
FILES = (
    OfficialFile(
        name="train-images-idx3-ubyte",
        shape=(60_000, 28, 28),
        gz_sha256="3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        sha256="c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    ),
    OfficialFile(
        name="train-labels-idx1-ubyte",
        shape=(60_000,),
        gz_sha256="a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        sha256="bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    ),
    OfficialFile(
        name="t10k-images-idx3-ubyte",
        shape=(10_000, 28, 28),
        gz_sha256="346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        sha256="5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    ),
    OfficialFile(
        name="t10k-labels-idx1-ubyte",
        shape=(10_000,),
        gz_sha256="67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        sha256="0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
)

MIRRORS = (
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
    "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
)

# All mirrors are asked at once, so this is what a closed network costs in all. `requests` alone
# bounds neither name resolution nor the number of addresses it tries in turn.
PROBE_SECONDS = 4.0
STALL_SECONDS = 10.0  # a transfer that brings nothing for so long is given up
_CHUNK_BYTES = 1 << 16


class DataUnavailableError(UserError):
    """Fashion-MNIST is neither on this machine nor to be had from any mirror."""


def load(directory: Path | None, notify: Callable[[str], None]) -> tuple[Array, ...]:
    """Return the four arrays in the order of `FILES`, downloaded and unpacked if need be.

    A file is taken from `DISTCNN_DATA_DIR`, else from `directory` (`data.directory`), else from
    the user's cache, else from the first mirror that delivers it. A damaged file in the cache is
    replaced; one in a folder that the user named is refused.

    Raises:
        DataUnavailableError: a file is nowhere to be had.
        UserError: a file in a named folder is not the official one, or the cache cannot be
            written.
    """
    folders = _named_folders(directory)
    given = _given_files(folders, notify)
    folder = cache_directory() / NAME
    arrays = _cached(folder)
    mirrors = _Mirrors()
    if _missing(arrays, given):
        mirrors.probe()  # before the lock, so that on a closed network nobody waits in line
    if len(arrays) < len(FILES):
        with exclusive(folder) as scratch:
            arrays = _cached(folder)  # another process may have filled it meanwhile
            for file in FILES:
                if file.name in arrays:
                    continue
                target = folder / file.name
                if target.exists():
                    notify(f"{target} is damaged and will be replaced.")
                gz = given.get(file.name) or mirrors.fetch(file, scratch, notify)
                if gz is None:
                    places = [*folders, f"the cache {folder}"]
                    raise _unavailable(_missing(arrays, given), places, mirrors.failures)
                idx = gzip.decompress(gz)
                arrays[file.name] = store_array(scratch, target, idx, file.sha256)
    return tuple(arrays[file.name] for file in FILES)


def is_at_hand(directory: Path | None = None) -> bool:
    """Whether all files are on this machine, verified; nothing is downloaded or written.

    Raises:
        UserError: a file in a named folder is not the official one.
    """
    given = _given_files(_named_folders(directory), notify=lambda _: None)
    return not _missing(_cached(cache_directory() / NAME), given)


def reachable_mirror() -> str | None:
    """A mirror that answers from this machine; None where none does."""
    mirrors = _Mirrors()
    mirrors.probe()
    return next((mirror for mirror in MIRRORS if mirror not in mirrors.failures), None)


def _missing(arrays: Mapping[str, Array], given: Mapping[str, bytes]) -> list[str]:
    """Return the packed names of the files that are neither in the cache nor given."""
    return [file.gz_name for file in FILES if file.name not in arrays and file.name not in given]


def _cached(folder: Path) -> dict[str, Array]:
    mapped = {file.name: map_array(folder / file.name, file.sha256) for file in FILES}
    return {name: array for name, array in mapped.items() if array is not None}


def _named_folders(directory: Path | None) -> dict[str, Path]:
    """Map what a message calls a folder that the user named to the folder, in search order."""
    folders = {
        "DISTCNN_DATA_DIR": os.environ.get("DISTCNN_DATA_DIR"),
        "data.directory": directory,
    }
    return {f"{word}={path}": Path(path).expanduser() for word, path in folders.items() if path}


def _given_files(folders: Mapping[str, Path], notify: Callable[[str], None]) -> dict[str, bytes]:
    """Read the packed files in the user's folders, by name; the first folder that has one wins."""
    given: dict[str, bytes] = {}
    for title, folder in folders.items():
        for file in FILES:
            if file.name not in given and (gz := _read_verified(file, folder)) is not None:
                given[file.name] = gz
        lacking = [file.gz_name for file in FILES if file.name not in given]
        if not lacking:
            break
        trouble = f"lacks {', '.join(lacking)}" if folder.is_dir() else "is not an existing folder"
        notify(f"{title} {trouble}; looking elsewhere for what is missing.")
    return given


def _read_verified(file: OfficialFile, folder: Path) -> bytes | None:
    """Read the packed file in `folder`, or return None where there is none."""
    path = folder / file.gz_name
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(
            f"{path} cannot be read: {error.strerror}. Make it readable, or name another folder"
            " with DISTCNN_DATA_DIR."
        ) from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != file.gz_sha256:
        raise UserError(
            f"{path} is not the official {file.gz_name}: {_fault(file, content, digest)}. "
            "Name a folder with the official files in DISTCNN_DATA_DIR, or unset it to have them"
            " downloaded."
        )
    return content


def _fault(file: OfficialFile, content: bytes, digest: str) -> str:
    """Say in what way `content`, which has another digest, differs from the official file."""
    for other in FILES:
        if digest == other.gz_sha256:
            return f"it is really {other.gz_name}"
    try:
        array = parse_idx(np.frombuffer(gzip.decompress(content), dtype=np.uint8))
    except EOFError:
        return f"it is truncated, its {len(content):,} bytes end within the compressed data"
    except (gzip.BadGzipFile, zlib.error) as error:
        return f"it is not an intact gzip file ({error})"
    except ValueError as error:
        return f"what it unpacks to is not one IDX array ({error})"
    if array.shape != file.shape:
        return f"it holds an array of shape {array.shape}, not {file.shape}"
    return f"its content was altered, its SHA-256 is {digest} and not {file.gz_sha256}"


class _Mirrors:
    """The publisher's mirrors; one that failed once is not asked again.

    Attributes:
        failures: what went wrong, by mirror.
    """

    def __init__(self) -> None:
        self.failures: dict[str, str] = {}

    def probe(self) -> None:
        """Ask all mirrors at once whether they answer, within `PROBE_SECONDS` in all."""
        import requests

        outcomes: dict[str, str | None] = {}

        def ask(mirror: str) -> None:
            try:
                requests.head(mirror + FILES[0].gz_name, timeout=PROBE_SECONDS)
                outcomes[mirror] = None
            except requests.RequestException as error:
                outcomes[mirror] = _root_cause(error)

        # Daemons, because a name resolution that hangs cannot be stopped and must not keep the
        # process from ending.
        threads = [Thread(target=ask, args=(mirror,), daemon=True) for mirror in MIRRORS]
        deadline = time.monotonic() + PROBE_SECONDS
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        for mirror in MIRRORS:
            failure = outcomes.get(mirror, f"no answer within {PROBE_SECONDS:g} s")
            if failure is not None:
                self.failures[mirror] = failure

    def fetch(
        self, file: OfficialFile, scratch: Path, notify: Callable[[str], None]
    ) -> bytes | None:
        """Download a packed file by way of `scratch`; None where no mirror delivers it."""
        # 0.2 s to import, and a warm start never gets here
        import pooch  # pyright: ignore[reportMissingTypeStubs]
        import requests

        pooch.get_logger().setLevel("WARNING")  # `notify` already tells
        downloader = pooch.HTTPDownloader(
            progressbar=sys.stderr.isatty(),
            chunk_size=_CHUNK_BYTES,
            timeout=(PROBE_SECONDS, STALL_SECONDS),
        )
        for mirror in MIRRORS:
            if mirror in self.failures:
                continue
            notify(f"Downloading {mirror}{file.gz_name}")
            with explained(scratch.parent, num_bytes=prod(file.shape)):
                try:
                    path = pooch.retrieve(  # pyright: ignore[reportUnknownMemberType]
                        mirror + file.gz_name,
                        known_hash=file.gz_sha256,
                        fname=file.gz_name,
                        path=scratch,
                        downloader=downloader,  # pyright: ignore[reportArgumentType]
                    )
                    return Path(path).read_bytes()
                except (requests.RequestException, ValueError) as error:
                    self.failures[mirror] = _root_cause(error)
        return None


def _root_cause(error: BaseException) -> str:
    """Return the system's own words, which `requests` buries under three exceptions of its own."""
    while error.__context__ is not None:
        error = error.__context__
    return str(error)


def _unavailable(
    missing: Iterable[str], places: Iterable[str], failures: Mapping[str, str]
) -> DataUnavailableError:
    lines = [
        "Fashion-MNIST is not complete on this machine and could not be downloaded.",
        "Missing:",
        *(f"  {name}" for name in missing),
        "Looked in:",
        *(f"  {place}" for place in places),
        "Mirrors tried:",
        *(f"  {mirror}: {failure}" for mirror, failure in failures.items()),
        "Put the four official .gz files into a folder and name it in DISTCNN_DATA_DIR or "
        "data.directory.",
    ]
    return DataUnavailableError("\n".join(lines))
