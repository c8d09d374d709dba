"""The LightningDataModule: whole batches cut out of images that lie in memory as bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytorch_lightning as pl
import torch

from distcnn.config import RunConfig
from distcnn.data.augmentation import augment, sample_bits
from distcnn.data.dataset import Dataset
from distcnn.data.order import Part, divide, part_of
from distcnn.division import even_slices
from distcnn.workers import Workers

# Images evaluated at once: a constant, so that neither a machine nor the number of workers, which
# share whole batches out, ever changes a result.
_EVALUATION_BATCH_SIZE = 500
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
    """Of the global batch's images."""


@dataclass(frozen=True)
class Piece:
    """Shards that are added up in turn."""

    shards: Iterator[Shard]
    """In order, each made when it is asked for."""
    share: float
    """Of the global batch's images."""


@dataclass(frozen=True)
class Batch:
    """A worker's part of one step's images, still as bytes; made ready shard by shard."""

    step: int
    """Since the start of the run, from 0."""
    pixels: torch.Tensor
    labels: torch.Tensor
    part: Part
    """What of the global batch this is, and how it is cut into shards."""
    global_size: int
    """Images of this step over all workers."""

    def pieces(self) -> Iterator[Piece]:
        """The pieces in order."""
        for shards in self.part.pieces:
            num_images = shards[-1].stop - shards[0].start
            yield Piece(map(self._shard, shards), num_images / self.global_size)

    def _shard(self, images: slice) -> Shard:
        labels = self.labels[images]
        return Shard(to_float(self.pixels[images]), labels, len(labels) / self.global_size)


def to_float(pixels: torch.Tensor) -> torch.Tensor:
    """Bytes to numbers in [0, 1]."""
    return pixels.float().div_(_MAX_PIXEL)


class ImageDataModule(pl.LightningDataModule):
    """Training batches in the global order from `position` on; validation and test whole.

    Of several workers, each cuts its own part out of every batch, and evaluates whole batches of
    its own: every image is trained on, or counted, by exactly one of them.
    """

    def __init__(
        self, dataset: Dataset, config: RunConfig, device: torch.device, workers: Workers
    ) -> None:
        """Divide the data; bring it to the device (on a CPU, it stays mapped from the file).

        Raises:
            UsageError: the config asks for more images than there are.
        """
        super().__init__()
        self._config = config
        self._device = device
        self._workers = workers
        self._test = dataset.test_images, dataset.test_labels
        self._official_train = self._place(dataset.train_images, dataset.train_labels)
        self.order, val_ids = divide(dataset.train_labels, config)
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
        part = part_of(self._config, self._workers.rank)
        epoch_ids = torch.from_numpy(order.epoch_ids(epoch)[:, part.images]).to(self._device)
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
                part=part,
                global_size=order.global_batch_size,
            )

    def val_dataloader(self) -> EvaluationLoader:
        """The validation images."""
        return EvaluationLoader(Images(*self._official_train.take(self._val_ids)), self._workers)

    def test_dataloader(self) -> EvaluationLoader:
        """The official test images."""
        return EvaluationLoader(self._place(*self._test), self._workers)

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
    """A worker's images in order, each once, as `(float32 (n, 1, 28, 28), int64 (n,))`."""

    def __init__(self, images: Images, workers: Workers) -> None:
        pixels = images.pixels.split(_EVALUATION_BATCH_SIZE)
        labels = images.labels.split(_EVALUATION_BATCH_SIZE)
        mine = even_slices(len(pixels), workers.count)[workers.rank]
        self._batches = list(zip(pixels[mine], labels[mine], strict=True))
        if not self._batches:  # Lightning skips an evaluation without batches, its end included.
            self._batches = [(images.pixels[:0], images.labels[:0])]

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for pixels, labels in self._batches:
            yield to_float(pixels), labels
