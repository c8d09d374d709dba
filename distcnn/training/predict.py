"""What the network of a run takes people's own pictures for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distcnn.data.dataset import class_names
from distcnn.data.module import to_float
from distcnn.data.pictures import read_picture
from distcnn.errors import UserError
from distcnn.module import ImageClassifier
from distcnn.run_directory.run import RunDirectory
from distcnn.training.chosen import chosen_network

_NUM_GUESSES = 3
_AT_A_TIME = 256


@dataclass(frozen=True)
class Prediction:
    """What a picture was taken for.

    Attributes:
        picture: its file.
        guesses: the likeliest classes with their probabilities, the likeliest first.
        error: why it cannot be read, and there are no guesses; None where it can.
    """

    picture: Path
    guesses: Sequence[tuple[str, float]] = ()
    error: str | None = None

    def __str__(self) -> str:
        """On a line, for people."""
        guesses = ", ".join(f"{label} {100 * share:.1f} %" for label, share in self.guesses)
        return f"{self.picture}: {guesses}"

    @property
    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        if self.error is not None:
            return {"picture": str(self.picture), "error": self.error}
        guesses = [{"label": label, "probability": share} for label, share in self.guesses]
        return {"picture": str(self.picture), "guesses": guesses}


def predict(run: RunDirectory, pictures: Sequence[Path]) -> Iterator[Prediction]:
    """What the run's chosen network takes each picture for, in their order.

    Raises:
        UserError: the run has chosen no network yet.
    """
    names = class_names(run.read_config().data.source)
    network = chosen_network(run)
    for start in range(0, len(pictures), _AT_A_TIME):
        some = pictures[start : start + _AT_A_TIME]
        read = [_read(picture) for picture in some]
        images = [each for each in read if not isinstance(each, str)]
        guesses = iter(_guess(network, np.stack(images), names) if images else ())
        for picture, image in zip(some, read, strict=True):
            if isinstance(image, str):
                yield Prediction(picture, error=image)
            else:
                yield Prediction(picture, next(guesses))


def _read(picture: Path) -> NDArray[np.uint8] | str:
    """The picture, or why it cannot be read."""
    try:
        return read_picture(picture)
    except UserError as error:
        return str(error)


def _guess(
    network: ImageClassifier, images: NDArray[np.uint8], names: Sequence[str]
) -> list[list[tuple[str, float]]]:
    """Of images `(N, 28, 28)`, each one's likeliest classes."""
    with torch.inference_mode():
        probabilities = network.probabilities(to_float(torch.from_numpy(images))[:, None])
    shares, classes = probabilities.topk(_NUM_GUESSES)
    return [
        [(names[int(c)], share) for c, share in zip(which, of_image, strict=True)]
        for of_image, which in zip(shares.tolist(), classes.tolist(), strict=True)
    ]
