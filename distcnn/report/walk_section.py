"""A picture's way through the network, as the pictures that a page shows of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from distcnn.config import RunConfig
from distcnn.report.picture import png, sheet
from distcnn.report.walk import Walk, walk
from distcnn.run_directory.predictions import Predictions
from distcnn.run_directory.run import RunDirectory

_COLUMNS = 8
_MOST_MAPS = 32
_MOST_KERNELS = 8


@dataclass(frozen=True)
class Step:
    """What the page shows of a layer.

    Attributes:
        name: the layer's.
        told: its hyperparameters, and what it gives out.
        alt: what is to be seen.
        maps: its feature maps, as a picture's address; empty of a layer that has none.
        kernels: what it has learned, as a picture's address; empty of one that has no kernels.
        kernels_told: how to read that picture.
    """

    name: str
    told: str
    alt: str
    maps: str = ""
    kernels: str = ""
    kernels_told: str = ""


@dataclass(frozen=True)
class WalkSection:
    """What the page shows of a picture's way.

    Attributes:
        number: which picture of the test split, from 0.
        label: its class.
        pixels: its grey levels, row by row.
        picture: its address.
        steps: each layer but the last.
        last: the last layer's name.
        classes: each class with its score and its probability.
    """

    number: int
    label: str
    pixels: list[list[int]]
    picture: str
    steps: list[Step]
    last: Step
    classes: list[tuple[str, float, float]]

    @classmethod
    def of(
        cls, run: RunDirectory, config: RunConfig, predictions: Predictions, names: Sequence[str]
    ) -> Self:
        """Send the run's example through the network that the run has left."""
        number, image = int(predictions.example[0]), predictions.example_image
        walked = walk(config, run.weights_path.read_bytes(), image)
        layers = config.model.layers
        told = [f"{layer.hyperparameters} {layer.output}".strip() for layer in layers]
        *steps, last = (_step(walked, index, told[index]) for index in range(len(walked.stages)))
        scores = walked.stages[-1].output.tolist()
        return cls(
            number=number,
            label=names[int(predictions.labels[number])],
            pixels=image.tolist(),
            picture=png(image),
            steps=steps,
            last=last,
            classes=list(zip(names, scores, walked.probabilities.tolist(), strict=True)),
        )


def _step(walked: Walk, index: int, told: str) -> Step:
    stage = walked.stages[index]
    if stage.output.ndim == 1:
        return Step(stage.name, told, "")
    shown = stage.output[:_MOST_MAPS]
    if len(shown) < len(stage.output):
        told += f", the first {len(shown)} of its {len(stage.output)} maps"
    alt = f"{len(shown)} feature maps after {stage.name}"
    kernels, kernels_told = _kernels(walked, stage.name)
    return Step(stage.name, told, alt, png(sheet(shown, _COLUMNS)), kernels, kernels_told)


def _kernels(walked: Walk, name: str) -> tuple[str, str]:
    learned = walked.kernels.get(name)
    if learned is None:
        return "", ""
    count, depth = learned.shape[:2]
    shown = learned[: _MOST_MAPS if depth == 1 else _MOST_KERNELS]
    which = "" if len(shown) == count else f", {len(shown)} of {count}"
    if depth == 1:
        return png(sheet(shown[:, 0], _COLUMNS)), f"The learned kernels{which}, map by map"
    flat = shown.reshape(-1, *shown.shape[2:])
    return png(sheet(flat, depth)), (
        f"The learned kernels{which}, each a row with a slice for every map that comes in"
    )
