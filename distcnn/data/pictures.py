"""Anybody's pictures as the network knows them: small, grey, bright on a dark ground, centred."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from distcnn.errors import UsageError, UserError

_SIZE = 28
_WHITE = 255
# Darker than this, a pixel counts as ground when the thing in a picture is looked for.
_GROUND = 12


def find_pictures(paths: Iterable[Path]) -> Iterator[Path]:
    """The files that were named, and those in folders that were, in the order of their names.

    Raises:
        UsageError: there is no such file, or a folder holds no picture.
    """
    known = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    for path in paths:
        if path.is_dir():
            inside = sorted(each for each in path.iterdir() if each.suffix.lower() in known)
            if not inside:
                raise UsageError(f"{path} holds no picture: no file named *.png, *.jpg, ...")
            yield from inside
        elif path.is_file():
            yield path
        else:
            raise UsageError(f"there is no picture {path}")


def read_picture(path: Path) -> NDArray[np.uint8]:
    """A picture file as `(28, 28)` grey levels, as in Fashion-MNIST: 0 is the ground.

    What is transparent is ground. A picture with a bright edge is taken for one on a bright ground,
    and inverted. One of another size is cut to what is on it, made smaller with its proportions
    kept, and put in the middle.

    Raises:
        UserError: it cannot be read as a picture.
    """
    try:
        with Image.open(path) as file:
            grey = _grey(ImageOps.exif_transpose(file))
    except Exception as error:  # Decoders raise of all kinds where a file is damaged.
        raise UserError(f"{path} cannot be read as a picture: {error}") from error
    if grey.size == (_SIZE, _SIZE):
        return np.array(grey)
    return _fitted(grey)


def _grey(picture: Image.Image) -> Image.Image:
    """Grey levels, bright on a dark ground."""
    if picture.mode[0] in "IF":  # 16 bits, 32, or fractions: of what greatest value, nobody says.
        levels = np.array(picture, dtype=np.float64)
        picture = Image.fromarray((levels * (_WHITE / max(levels.max(), 1e-9))).astype(np.uint8))
    with_alpha = picture.convert("RGBA")
    alpha = with_alpha.getchannel("A")
    grey = with_alpha.convert("L")
    levels, opaque = np.array(grey), np.array(alpha) > 0
    edge = _edge(levels)[_edge(opaque)]
    # A ground that is seen is bright; or there is none, and what is on it is dark.
    is_inverse = np.median(edge) > _WHITE / 2 if edge.size else _is_dark(levels[opaque])
    if is_inverse:
        grey = ImageOps.invert(grey)
    return Image.composite(grey, Image.new("L", grey.size, 0), alpha)


def _is_dark(levels: NDArray[np.uint8]) -> bool:
    return bool(levels.size) and float(np.median(levels)) < _WHITE / 2


def _edge(levels: NDArray[Any]) -> NDArray[Any]:
    """The outermost pixels."""
    return np.concatenate([levels[0], levels[-1], levels[:, 0], levels[:, -1]])


def _fitted(grey: Image.Image) -> NDArray[np.uint8]:
    levels = np.array(grey)
    rows, columns = (np.flatnonzero((levels > _GROUND).any(axis=axis)) for axis in (1, 0))
    if rows.size:  # Else there is nothing on it.
        grey = grey.crop((int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1))
    scale = _SIZE / max(grey.size)
    width, height = (max(1, round(length * scale)) for length in grey.size)
    inside = grey.resize((width, height), Image.Resampling.LANCZOS)
    return np.array(ImageOps.pad(inside, (_SIZE, _SIZE), color=0))
