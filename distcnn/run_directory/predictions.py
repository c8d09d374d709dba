"""`predictions.safetensors`: what the chosen network says of each test image, and some of these.

With it a report needs neither the data nor the test split again.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

_NUM_MISTAKES = 24


@dataclass(frozen=True)
class Predictions:
    """Of N images in the order of the test split.

    Attributes:
        probabilities: of each class, float32 `(N, classes)`.
        labels: uint8 `(N,)`.
        mistakes: which images were taken for something else with the most confidence, the worst
            first, int64 `(M,)`.
        mistake_images: these, uint8 `(M, 28, 28)`.
        example: which image is the first that was recognised, int64 `(1,)`.
        example_image: this one, uint8 `(28, 28)`.
    """

    probabilities: NDArray[np.float32]
    labels: NDArray[np.uint8]
    mistakes: NDArray[np.int64]
    mistake_images: NDArray[np.uint8]
    example: NDArray[np.int64]
    example_image: NDArray[np.uint8]

    @classmethod
    def of(
        cls,
        probabilities: NDArray[np.float32],
        labels: NDArray[np.uint8],
        images: NDArray[np.uint8],
    ) -> Self:
        """Choose the images to keep among all, `(N, 28, 28)`."""
        taken_for = probabilities.argmax(axis=1)
        wrong = np.flatnonzero(taken_for != labels)
        worst_first = np.argsort(-probabilities[wrong, taken_for[wrong]], kind="stable")
        mistakes = wrong[worst_first][:_NUM_MISTAKES]
        example = np.argmax(taken_for == labels).reshape(1)
        return cls(
            probabilities=probabilities,
            labels=labels,
            mistakes=mistakes,
            mistake_images=np.ascontiguousarray(images[mistakes]),
            example=example,
            example_image=np.ascontiguousarray(images[example[0]]),
        )

    def encode(self) -> bytes:
        """As the file holds them."""
        return save(asdict(self))

    @classmethod
    def decode(cls, content: bytes) -> Self:
        """As `encode` has made it."""
        return cls(**load(content))
