"""Which sample is used when: the split, each epoch's order, and the shards of a batch.

Everything here is a pure function of the seed and the epoch, the same on every machine: it rests
on Philox's raw bits, whose stream numpy guarantees, and on integer sorting.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from distcnn.config import RunConfig
from distcnn.division import even_slices, share
from distcnn.errors import UsageError

Ids = NDArray[np.int64]


class _Purpose(IntEnum):
    """Keeps the random streams of one seed apart."""

    SPLIT = 1
    EPOCH = 2


def permutation(seed: int, purpose: int, index: int, size: int) -> Ids:
    """A random order of `range(size)`, a function of the first three arguments, `(size,)`."""
    bits = np.random.Philox(key=np.array([seed, purpose << 32 | index], np.uint64))
    return np.argsort(bits.random_raw(size), kind="stable")


@dataclass(frozen=True)
class Split:
    """Sample numbers of the training part and of the validation part, each sorted."""

    train: Ids
    val: Ids


def split(labels: NDArray[np.uint8], seed: int, num_train: int | None, num_val: int) -> Split:
    """Divide the samples, `labels` of shape `(N,)`, by a seeded choice with equal class shares.

    `num_train = None` takes all that validation leaves.

    Raises:
        UsageError: a class has too few samples for what is asked.
    """
    num_classes = int(labels.max()) + 1
    train: list[Ids] = []
    val: list[Ids] = []
    for label in range(num_classes):
        members = np.flatnonzero(labels == label)
        members = members[permutation(seed, _Purpose.SPLIT, label, len(members))]
        val_share = share(num_val, label, num_classes)
        train_share = (
            len(members) - val_share if num_train is None else share(num_train, label, num_classes)
        )
        if train_share < 1 or val_share + train_share > len(members):
            remedy = (
                "raise data.num_train"
                if num_train is not None and train_share < 1
                else ("lower one of them")
            )
            raise UsageError(
                f"data.num_val = {num_val} and data.num_train = {num_train} leave"
                f" {max(train_share, 0)} images of class {label} for training beside {val_share}"
                f" for validation, of {len(members)}; {remedy}"
            )
        val.append(members[:val_share])
        train.append(members[val_share : val_share + train_share])
    return Split(train=np.sort(np.concatenate(train)), val=np.sort(np.concatenate(val)))


@dataclass(frozen=True)
class SampleOrder:
    """The global order of training: which samples make up which step of which epoch."""

    seed: int
    train_ids: Ids
    global_batch_size: int

    def __post_init__(self) -> None:
        if self.steps_per_epoch == 0:
            raise UsageError(
                f"training.global_batch_size = {self.global_batch_size} exceeds the"
                f" {len(self.train_ids)} training images; lower it, or raise data.num_train"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch; what is left over differs from epoch to epoch."""
        return len(self.train_ids) // self.global_batch_size

    def epoch_ids(self, epoch: int) -> Ids:
        """The samples of an epoch in their order, `(steps_per_epoch, global_batch_size)`."""
        order = permutation(self.seed, _Purpose.EPOCH, epoch, len(self.train_ids))
        used = self.steps_per_epoch * self.global_batch_size
        return self.train_ids[order[:used]].reshape(self.steps_per_epoch, -1)

    def sample_ids(self, epoch: int, step: int) -> Ids:
        """The samples of one step of an epoch, `(global_batch_size,)`."""
        return self.epoch_ids(epoch)[step]


def divide(train_labels: NDArray[np.uint8], config: RunConfig) -> tuple[SampleOrder, Ids]:
    """The order of the training images, and the numbers of the validation images.

    Raises:
        UsageError: the config asks for more images than there are.
    """
    parts = split(train_labels, config.seed, config.data.num_train, config.data.num_val)
    order = SampleOrder(config.seed, parts.train, config.training.global_batch_size)
    return order, parts.val


@dataclass(frozen=True)
class Part:
    """What one worker has of each global batch."""

    images: slice
    """Of the batch's."""
    pieces: tuple[tuple[slice, ...], ...]
    """Its shards, as slices of its images. Those of a piece are added up in turn, and begin with
    what the one before has left in batch norm's statistics; each piece begins anew."""


def part_of(config: RunConfig, rank: int) -> Part:
    """The part of a worker, by its rank.

    Where runs are to be the same on any number of workers, it has whole shards of the batch, of
    which each is a piece. Else it has a share of the batch, cut into shards, in one piece.
    """
    size, num_workers = config.training.global_batch_size, config.workers.count
    if not config.training.is_same_on_any_workers:
        images = even_slices(size, num_workers)[rank]
        shards = even_slices(images.stop - images.start, config.num_shards_per_worker)
        return Part(images, (tuple(shards),))
    num_shards = config.training.shards
    shards = even_slices(size, num_shards)[even_slices(num_shards, num_workers)[rank]]
    first = shards[0].start
    own = [slice(shard.start - first, shard.stop - first) for shard in shards]
    return Part(slice(first, shards[-1].stop), tuple((shard,) for shard in own))
