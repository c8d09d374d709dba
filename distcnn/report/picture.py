"""Numbers as pictures, which a page carries within itself."""

from __future__ import annotations

from base64 import b64encode
from io import BytesIO
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels: TypeAlias = NDArray[np.uint8]
Values: TypeAlias = NDArray[np.float32]


def png(pixels: Pixels) -> str:
    """A PNG as an address that holds it; of grey levels `(H, W)`, or of colours `(H, W, 4)`."""
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{b64encode(file.getvalue()).decode()}"


def sheet(maps: Values, columns: int) -> Pixels:
    """Maps `(N, H, W)` side by side, `columns` in a row, in colours `(..., 4)`.

    All share one scale: from black at 0 to white where nothing is below 0; else blue below 0,
    white at 0 and vermilion above, which people who cannot tell red from green can tell apart
    (Okabe and Ito, 2008).
    """
    count, height, width = maps.shape
    rows = -(-count // columns)
    pixels = np.zeros((rows * (height + 1) - 1, columns * (width + 1) - 1, 4), np.uint8)
    coloured = _coloured(maps)
    for index in range(count):
        row, column = divmod(index, columns)
        top, left = row * (height + 1), column * (width + 1)
        pixels[top : top + height, left : left + width] = coloured[index]
    return pixels


def _coloured(maps: Values) -> Pixels:
    most = float(np.abs(maps).max()) or 1.0
    share = (maps / most)[..., None]
    if maps.min() < 0:
        below, above = np.array([0, 114, 178]), np.array([213, 94, 0])
        colours = 255 + np.where(share < 0, (255 - below) * share, (above - 255) * share)
    else:
        colours = np.repeat(255 * share, 3, axis=-1)
    opaque = np.full((*maps.shape, 1), 255.0)
    return np.round(np.concatenate([colours, opaque], axis=-1)).astype(np.uint8)
