"""The data set of a run: Fashion-MNIST, or the synthetic set where nothing else is to be had."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from distcnn.data import fashion_mnist, synthetic
from distcnn.data.cache import (
    Array,
    cache_directory,
    exclusive,
    format_idx,
    map_array,
    place,
    store_array,
)

Source = Literal["auto", "fashion-mnist", "synthetic"]

_SYNTHETIC_FILES = ("train-images", "train-labels", "test-images", "test-labels")
_DIGESTS = "digests.json"


@dataclass(frozen=True)
class Dataset:
    """A train and a test split of 28 x 28 grey images, mapped from the user's cache.

    Attributes:
        name: `fashion-mnist` or `synthetic`.
        class_names: what label `i` stands for.
        sha256: identifies the four arrays, shapes included.
        train_images: uint8, `(N, 28, 28)`, 0 is background.
        train_labels: uint8, `(N,)`.
        test_images: uint8, `(M, 28, 28)`.
        test_labels: uint8, `(M,)`.
    """

    name: str
    class_names: tuple[str, ...]
    sha256: str
    train_images: Array
    train_labels: Array
    test_images: Array
    test_labels: Array


def class_names(name: str) -> tuple[str, ...]:
    """What the labels of a data set stand for, in their order; nothing of one that is not ours."""
    known = {
        fashion_mnist.NAME: fashion_mnist.CLASS_NAMES,
        synthetic.NAME: synthetic.CLASS_NAMES,
    }
    return known.get(name, ())


def combined_sha256(digests: Sequence[str]) -> str:
    """Return the SHA-256 of the concatenated hexadecimal digests."""
    return hashlib.sha256("".join(digests).encode()).hexdigest()


# Of the official files: known before they are on a machine.
FASHION_MNIST_SHA256 = combined_sha256([file.sha256 for file in fashion_mnist.FILES])


def unknown(name: str) -> Dataset:
    """What is known of data that somebody else loads: their name."""
    images, labels = np.empty((0, 28, 28), np.uint8), np.empty(0, np.uint8)
    return Dataset(name, (), "", images, labels, images, labels)


def load(source: Source, directory: Path | None, notify: Callable[[str], None]) -> Dataset:
    """Load the data set that `source` stands for.

    Args:
        source: `auto` takes Fashion-MNIST where it can be had, else the synthetic set with a
            banner; `fashion-mnist` takes nothing else.
        directory: where the four official `.gz` files may be, beside `DISTCNN_DATA_DIR`.
        notify: takes what the user should know, one message of one or more lines at a time.

    Raises:
        DataUnavailableError: `fashion-mnist` is asked for and is nowhere to be had.
        UserError: a file the user put in place is not the official one, or the cache cannot be
            written.
    """
    if source == "synthetic":
        return _load_synthetic(notify)
    try:
        return _load_fashion_mnist(directory, notify)
    except fashion_mnist.DataUnavailableError as error:
        if source == "fashion-mnist":
            raise
        notify(_banner(str(error)))
    return _load_synthetic(notify)


def _banner(reason: str) -> str:
    rule = "!" * 88
    return "\n".join(
        [
            rule,
            "NOT REAL DATA: this run uses the synthetic set, generated on this machine.",
            "Its accuracy says nothing about Fashion-MNIST.",
            "",
            reason,
            "To stop rather than fall back, set data.source=fashion-mnist.",
            "To use the synthetic set without this banner, set data.source=synthetic.",
            rule,
        ]
    )


def _load_fashion_mnist(directory: Path | None, notify: Callable[[str], None]) -> Dataset:
    arrays = fashion_mnist.load(directory, notify)
    name = fashion_mnist.NAME
    return Dataset(name, class_names(name), FASHION_MNIST_SHA256, *arrays)


def _load_synthetic(notify: Callable[[str], None]) -> Dataset:
    folder = cache_directory() / f"{synthetic.NAME}-{synthetic.VERSION}"
    digests = _read_digests(folder)
    arrays = _map_all(folder, digests)
    if arrays is None:
        with exclusive(folder) as scratch:
            digests = _read_digests(folder)
            arrays = _map_all(folder, digests)  # another process may have drawn it meanwhile
            if arrays is None:
                if (folder / _DIGESTS).exists():
                    notify(f"The synthetic set in {folder} is damaged and will be drawn again.")
                digests, arrays = _draw_synthetic(folder, scratch)
    return Dataset(
        synthetic.NAME,
        class_names(synthetic.NAME),
        combined_sha256([digests[name] for name in _SYNTHETIC_FILES]),
        *arrays,
    )


def _read_digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each stored array by file name; empty where there is no record."""
    try:
        record: dict[str, str] = json.loads((folder / _DIGESTS).read_bytes())
        return {name: record[name] for name in _SYNTHETIC_FILES}
    except (OSError, ValueError, KeyError, TypeError):  # missing, or damaged in one way or another
        return {}


def _map_all(folder: Path, digests: Mapping[str, str]) -> list[Array] | None:
    mapped = [map_array(folder / name, sha256) for name, sha256 in digests.items()]
    arrays = [array for array in mapped if array is not None]
    return arrays if len(arrays) == len(_SYNTHETIC_FILES) else None


def _draw_synthetic(folder: Path, scratch: Path) -> tuple[dict[str, str], list[Array]]:
    files = dict(zip(_SYNTHETIC_FILES, map(format_idx, synthetic.draw()), strict=True))
    digests = {name: hashlib.sha256(idx).hexdigest() for name, idx in files.items()}
    arrays = [
        store_array(scratch, folder / name, idx, digests[name]) for name, idx in files.items()
    ]
    place(scratch, folder / _DIGESTS, json.dumps(digests, indent=2).encode())
    return digests, arrays
