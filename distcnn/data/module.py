"""The LightningDataModule: whole batches cut out of images that lie in memory as bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytorch_lightning as pl
import torch

from distcnn.config import RunConfig
from distcnn.data.augmentation import augment, sample_bits
from distcnn.data.dataset import Dataset
from distcnn.data.order import Ids, SampleOrder, shard_slices, split

# Images evaluated at once: a constant, so that it never changes a result.
_EVALUATION_BATCH_SIZE = 1000
_MAX_PIXEL = 255


@dataclass
class Position:
    """How far training has come: the step that is next."""

    epoch: int = 0
    """From 0."""
    step: int = 0
    """Within the epoch, from 0."""


@dataclass(frozen=True)
class Images:
    """Images as bytes `(N, 1, 28, 28)` and labels `(N,)`, on the device that uses them."""

    pixels: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The bytes and labels of the samples `ids`."""
        return self.pixels.index_select(0, ids), self.labels.index_select(0, ids)


@dataclass(frozen=True)
class Shard:
    """A piece of a batch, ready for the network."""

    images: torch.Tensor
    """float32 in [0, 1], `(n, 1, 28, 28)`."""
    labels: torch.Tensor
    """int64, `(n,)`."""
    share: float
    """Of the batch's images."""


@dataclass(frozen=True)
class Batch:
    """One step's images, still as bytes; made ready shard by shard."""

    step: int
    """Since the start of the run, from 0."""
    pixels: torch.Tensor
    labels: torch.Tensor
    num_shards: int

    def __len__(self) -> int:
        return len(self.labels)

    def shards(self) -> Iterator[Shard]:
        """The shards in order, each made when it is asked for."""
        for piece in shard_slices(len(self), self.num_shards):
            labels = self.labels[piece]
            yield Shard(to_float(self.pixels[piece]), labels, len(labels) / len(self))


def to_float(pixels: torch.Tensor) -> torch.Tensor:
    """Bytes to numbers in [0, 1]."""
    return pixels.float().div_(_MAX_PIXEL)


def divide(dataset: Dataset, config: RunConfig) -> tuple[SampleOrder, Ids]:
    """The order of the training images, and the numbers of the validation images.

    Raises:
        UsageError: the config asks for more images than there are.
    """
    parts = split(dataset.train_labels, config.seed, config.data.num_train, config.data.num_val)
    order = SampleOrder(config.seed, parts.train, config.training.global_batch_size)
    return order, parts.val


class ImageDataModule(pl.LightningDataModule):
    """Training batches in the global order from `position` on; validation and test whole."""

    def __init__(self, dataset: Dataset, config: RunConfig, device: torch.device) -> None:
        """Divide the data; bring it to the device (on a CPU, it stays mapped from the file).

        Raises:
            UsageError: the config asks for more images than there are.
        """
        super().__init__()
        self._config = config
        self._device = device
        self._test = dataset.test_images, dataset.test_labels
        self._official_train = self._place(dataset.train_images, dataset.train_labels)
        self.order, val_ids = divide(dataset, config)
        self._val_ids = torch.from_numpy(val_ids).to(device)
        self.position = Position()

    def _place(self, images: object, labels: object) -> Images:
        pixels = torch.from_numpy(images).unsqueeze(1).to(self._device)
        return Images(pixels, torch.from_numpy(labels).long().to(self._device))

    def train_dataloader(self) -> EpochLoader:
        """What is left of the current epoch; asked for anew at each one."""
        return EpochLoader(self._batches(self.position.epoch, self.position.step))

    def _batches(self, epoch: int, first_step: int) -> Iterator[Batch]:
        """Cut out an epoch's batches from a step on; its order crosses to the device once."""
        data, order = self._config.data, self.order
        epoch_ids = torch.from_numpy(order.epoch_ids(epoch)).to(self._device)
        for step in range(first_step, order.steps_per_epoch):
            ids = epoch_ids[step]
            pixels, labels = self._official_train.take(ids)
            if data.flip or data.shift:
                bits = sample_bits(self._config.seed, epoch, ids)
                pixels = augment(pixels, bits, data.flip, data.shift)
            yield Batch(
                step=epoch * order.steps_per_epoch + step,
                pixels=pixels,
                labels=labels,
                num_shards=self._config.training.num_shards,
            )

    def val_dataloader(self) -> EvaluationLoader:
        """The validation images."""
        return EvaluationLoader(Images(*self._official_train.take(self._val_ids)))

    def test_dataloader(self) -> EvaluationLoader:
        """The official test images."""
        return EvaluationLoader(self._place(*self._test))

    def transfer_batch_to_device(
        self, batch: object, device: torch.device, dataloader_idx: int
    ) -> object:
        """Leave the batch alone: it was cut out on its device."""
        return batch


class EpochLoader:
    """One item, as Lightning counts: the batches of an epoch, each cut out when asked for.

    A list would not do: Lightning takes its members for several loaders.
    """

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches = batches

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[Iterator[Batch]]:
        yield self._batches


class EvaluationLoader:
    """Images in order, each once, as `(float32 (n, 1, 28, 28), int64 (n,))`."""

    def __init__(self, images: Images) -> None:
        self._images = images

    def __len__(self) -> int:
        return -(-len(self._images) // _EVALUATION_BATCH_SIZE)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for pixels, labels in zip(
            self._images.pixels.split(_EVALUATION_BATCH_SIZE),
            self._images.labels.split(_EVALUATION_BATCH_SIZE),
            strict=True,
        ):
            yield to_float(pixels), labels
