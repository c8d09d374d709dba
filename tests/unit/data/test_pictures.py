"""People's pictures, made into what the network knows: each drawn here as its name says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from distcnn.data.pictures import read_picture

BOX = (60, 20, 140, 180)  # What is on a picture of 200 by 200: twice as high as wide.


def drawn(mode: str, ground: int | tuple[int, ...], thing: int | tuple[int, ...]) -> Image.Image:
    picture = Image.new(mode, (200, 200), ground)
    ImageDraw.Draw(picture).rectangle(BOX, fill=thing)
    return picture


PICTURES: dict[str, Callable[[], Image.Image]] = {
    "bright on dark": lambda: drawn("L", 0, 255),
    "dark on bright": lambda: drawn("L", 255, 0),
    "coloured on white": lambda: drawn("RGB", (255, 255, 255), (20, 10, 60)),
    "dark on transparent": lambda: drawn("RGBA", (0, 0, 0, 0), (10, 10, 10, 255)),
    "bright on transparent": lambda: drawn("LA", (0, 0), (250, 255)),
    "16 bits": lambda: drawn("I;16", 0, 60000),
    "black and white": lambda: drawn("1", 1, 0),
    "palette": lambda: drawn("RGB", (255, 255, 255), (0, 0, 0)).convert("P"),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_what_is_on_a_picture_is_bright_on_dark_whole_and_in_the_middle(kind: str, tmp_path: Path):
    PICTURES[kind]().save(tmp_path / "picture.png")
    image = read_picture(tmp_path / "picture.png")
    assert image.shape == (28, 28)
    assert image.dtype == np.uint8
    columns = np.flatnonzero((image > 127).all(axis=0))
    assert (columns[0], columns[-1]) == (7, 20), "half as wide as high, in the middle"
    assert image[:, :6].max() < 13
    assert image[:, 22:].max() < 13


def test_a_picture_of_the_right_size_is_left_as_it_is(tmp_path: Path):
    levels = np.zeros((28, 28), np.uint8)
    levels[3:9, 4:11] = 77
    Image.fromarray(levels).save(tmp_path / "picture.png")
    assert (read_picture(tmp_path / "picture.png") == levels).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1)])
def test_a_picture_with_nothing_on_it_is_ground(size: tuple[int, int], tmp_path: Path):
    Image.new("L", size, 0).save(tmp_path / "picture.png")
    assert not read_picture(tmp_path / "picture.png").any()
