"""The volumes, parameters and multiply-adds of a convolutional network, without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

Pooling = Literal["max", "average", "l2", "distance-weighted"]
Activation = Literal["relu", "tanh", "sigmoid"]


class GeometryError(ValueError):
    """A layer's output does not come out whole, or shrinks to nothing."""


class Volume(NamedTuple):
    """A square stack of feature maps, `size` x `size` x `depth`."""

    size: int
    depth: int

    @property
    def num_values(self) -> int:
        """How many numbers the volume holds."""
        return self.size * self.size * self.depth

    def __str__(self) -> str:
        return f"{self.size}x{self.size}x{self.depth}"


@dataclass(frozen=True)
class Block:
    """One block: convolution, batch norm (or not), activation, pooling. Lengths in pixels."""

    channels: int
    kernel_size: int
    stride: int
    padding: int
    pooling: Pooling
    pool_size: int
    pool_stride: int
    activation: Activation
    batch_norm: bool


@dataclass(frozen=True)
class Layer:
    """One row of the article's table."""

    name: str
    hyperparameters: str
    input: Volume
    output: Volume
    num_parameters: int = 0
    multiply_adds: int = 0


def convolution_output_size(size: int, kernel_size: int, stride: int, padding: int) -> int:
    """Width of a convolution's output, `(W - F + 2P)/S + 1` (the article's formula).

    Raises:
        GeometryError: the result is not a whole number, or below 1.
    """
    return _output_size(
        size - kernel_size + 2 * padding,
        stride,
        f"(W - F + 2P)/S + 1 = ({size} - {kernel_size} + 2*{padding})/{stride} + 1",
    )


def pooling_output_size(size: int, pool_size: int, stride: int) -> int:
    """Width of a pooling's output, `(W - F)/S + 1` (the article's formula).

    Raises:
        GeometryError: the result is not a whole number, or below 1.
    """
    return _output_size(
        size - pool_size, stride, f"(W - F)/S + 1 = ({size} - {pool_size})/{stride} + 1"
    )


def _output_size(span: int, stride: int, formula: str) -> int:
    if span < 0:
        raise GeometryError(f"{formula} leaves nothing: the window is larger than its input")
    if span % stride:
        raise GeometryError(f"{formula} = {span / stride + 1:g} is not a whole number")
    return span // stride + 1


def layer_table(image: Volume, blocks: Sequence[Block], num_classes: int) -> list[Layer]:
    """Every layer from the image to the class scores, in order.

    Raises:
        GeometryError: a layer does not fit; the message names it and its numbers.
    """
    rows: list[Layer] = []
    volume = image
    for number, block in enumerate(blocks, start=1):
        rows += _block_layers(number, volume, block)
        volume = rows[-1].output
    rows.append(
        Layer(
            name="FC",
            hyperparameters=f"{volume.num_values} -> {num_classes}",
            input=volume,
            output=Volume(1, num_classes),
            num_parameters=(volume.num_values + 1) * num_classes,
            multiply_adds=volume.num_values * num_classes,
        )
    )
    return rows


def _block_layers(number: int, volume: Volume, block: Block) -> list[Layer]:
    convolution = _convolution_layer(f"Conv {number}", volume, block)
    maps = convolution.output
    rows = [convolution]
    if block.batch_norm:
        rows.append(Layer(f"Batch norm {number}", "", maps, maps, 2 * maps.depth))
    rows.append(Layer(f"{block.activation} {number}", "", maps, maps))
    rows.append(_pooling_layer(f"Pool {number}", maps, block))
    return rows


def _convolution_layer(name: str, volume: Volume, block: Block) -> Layer:
    try:
        size = convolution_output_size(volume.size, block.kernel_size, block.stride, block.padding)
    except GeometryError as error:
        raise GeometryError(f"{name}: {error}") from None
    weights_per_kernel = block.kernel_size**2 * volume.depth
    output = Volume(size, block.channels)
    return Layer(
        name=name,
        hyperparameters=(
            f"k={block.channels} F={block.kernel_size} S={block.stride} P={block.padding}"
        ),
        input=volume,
        output=output,
        num_parameters=(weights_per_kernel + 1) * block.channels,
        multiply_adds=weights_per_kernel * output.num_values,
    )


def _pooling_layer(name: str, volume: Volume, block: Block) -> Layer:
    try:
        size = pooling_output_size(volume.size, block.pool_size, block.pool_stride)
    except GeometryError as error:
        raise GeometryError(f"{name}: {error}") from None
    return Layer(
        name=name,
        hyperparameters=f"{block.pooling} F={block.pool_size} S={block.pool_stride}",
        input=volume,
        output=Volume(size, volume.depth),
    )
