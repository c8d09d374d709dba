"""What the network of a run takes people's own pictures for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distcnn.data.module import to_float
from distcnn.data.pictures import read_picture
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
    """

    picture: Path
    guesses: Sequence[tuple[str, float]]

    def __str__(self) -> str:
        """On a line, for people."""
        guesses = ", ".join(f"{label} {100 * share:.1f} %" for label, share in self.guesses)
        return f"{self.picture}: {guesses}"

    @property
    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        guesses = [{"label": label, "probability": share} for label, share in self.guesses]
        return {"picture": str(self.picture), "guesses": guesses}


def predict(run: RunDirectory, pictures: Sequence[Path]) -> Iterator[Prediction]:
    """What the run's chosen network takes each picture for, in their order.

    Raises:
        UserError: a picture cannot be read, or the run has chosen none yet.
    """
    provenance = run.read_provenance() or {}
    names: list[str] = provenance["data"]["class_names"]
    network = chosen_network(run)
    for start in range(0, len(pictures), _AT_A_TIME):
        some = pictures[start : start + _AT_A_TIME]
        images = torch.from_numpy(np.stack([read_picture(picture) for picture in some]))
        with torch.inference_mode():
            probabilities = network.probabilities(to_float(images)[:, None])
        shares, classes = probabilities.topk(_NUM_GUESSES)
        for picture, of_picture, which in zip(some, shares.tolist(), classes.tolist(), strict=True):
            yield Prediction(
                picture, [(names[c], share) for c, share in zip(which, of_picture, strict=True)]
            )
