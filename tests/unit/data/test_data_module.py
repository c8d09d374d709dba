import numpy as np
import pytest
import torch

from distcnn.data.augmentation import augment, sample_bits
from distcnn.data.module import ImageDataModule, Position, to_float
from distcnn.workers import Workers

CPU = torch.device("cpu")


@pytest.fixture
def build(tiny_dataset, tiny_config):
    """Builds the data module, with some fields of the config replaced."""

    def build(**sections):
        return ImageDataModule(tiny_dataset, tiny_config.with_values(**sections), CPU, Workers())

    return build


def batches_from(data, epoch=0, step=0):
    data.position = Position(epoch, step)
    [batches] = data.train_dataloader()
    return list(batches)


def assert_same_batches(actual, expected):
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected, strict=True):
        assert one.step == other.step
        assert torch.equal(one.pixels, other.pixels)
        assert torch.equal(one.labels, other.labels)


def test_the_batches_hold_the_images_of_the_global_order(build, tiny_dataset):
    data = build()
    for step, batch in enumerate(batches_from(data, epoch=2)):
        ids = data.order.sample_ids(2, step)
        np.testing.assert_array_equal(batch.pixels.squeeze(1), tiny_dataset.train_images[ids])
        np.testing.assert_array_equal(batch.labels, tiny_dataset.train_labels[ids])


def test_steps_are_counted_from_the_start_of_the_run(build):
    assert [batch.step for batch in batches_from(build(), epoch=2)] == [8, 9, 10, 11]


@pytest.mark.parametrize("augmentation", [{}, {"flip": True, "shift": 3}])
@pytest.mark.parametrize("step", [0, 1, 3])
def test_from_a_position_on_comes_the_rest_of_the_epoch(build, augmentation, step):
    data = build(data=augmentation)
    whole = batches_from(data, epoch=1)
    assert_same_batches(batches_from(data, epoch=1, step=step), whole[step:])


@pytest.mark.parametrize("epoch", [0, 1])
def test_each_sample_is_augmented_by_seed_epoch_and_its_number(build, tiny_config, epoch):
    data = build(data={"flip": True, "shift": 3})
    for batch, plain in zip(batches_from(data, epoch), batches_from(build(), epoch), strict=True):
        step = batch.step % data.order.steps_per_epoch
        ids = torch.from_numpy(data.order.sample_ids(epoch, step))
        bits = sample_bits(tiny_config.seed, epoch, ids)
        assert torch.equal(batch.pixels, augment(plain.pixels, bits, flip=True, shift=3))


def test_the_number_of_shards_does_not_change_the_batches(build):
    augmentation = {"flip": True, "shift": 3}
    assert_same_batches(
        batches_from(build(data=augmentation, training={"num_shards": 5})),
        batches_from(build(data=augmentation)),
    )


def shards_of(batch):
    return [shard for piece in batch.pieces() for shard in piece.shards]


@pytest.mark.parametrize("reproducible", ["same-workers", "across-workers"])
@pytest.mark.parametrize("num_shards", [1, 5, 12])
def test_the_shards_in_order_are_the_batch(build, num_shards, reproducible):
    training = {"num_shards": num_shards, "reproducible": reproducible}
    [batch, *_] = batches_from(build(training=training))
    shards = shards_of(batch)
    assert len(shards) == num_shards
    assert torch.equal(torch.cat([shard.images for shard in shards]), to_float(batch.pixels))
    assert torch.equal(torch.cat([shard.labels for shard in shards]), batch.labels)


def test_a_shard_s_share_is_that_of_its_images(build):
    [batch, *_] = batches_from(build(training={"num_shards": 5}))
    assert [shard.share for shard in shards_of(batch)] == [3 / 12, 3 / 12, 2 / 12, 2 / 12, 2 / 12]


def test_each_shard_is_a_piece_where_a_run_is_reproducible_across_workers(build):
    training = {"num_shards": 5, "reproducible": "across-workers"}
    [batch, *_] = batches_from(build(training=training))
    assert [piece.share for piece in batch.pieces()] == [3 / 12, 3 / 12, 2 / 12, 2 / 12, 2 / 12]
    [ordinary, *_] = batches_from(build(training={"num_shards": 5}))
    assert [piece.share for piece in ordinary.pieces()] == [1.0]


def test_bytes_become_numbers_from_0_to_1():
    assert to_float(torch.tensor([0, 51, 255], dtype=torch.uint8)).tolist() == pytest.approx(
        [0, 0.2, 1]
    )


def test_validation_holds_each_of_its_images_once_and_none_of_training(build, tiny_dataset):
    data = build(data={"flip": True, "shift": 3})
    images = torch.cat([images for images, _ in data.val_dataloader()])
    labels = torch.cat([labels for _, labels in data.val_dataloader()])
    rest = np.setdiff1d(np.arange(60), data.order.train_ids)
    assert images.shape == (10, 1, 28, 28)
    np.testing.assert_array_equal(
        images.squeeze(1), to_float(torch.from_numpy(tiny_dataset.train_images[rest]))
    )
    np.testing.assert_array_equal(labels, tiny_dataset.train_labels[rest])


def test_the_test_split_is_read_whole_in_its_order(build, tiny_dataset):
    loader = build().test_dataloader()
    batches = list(loader)
    assert len(loader) == len(batches) == 3
    images = torch.cat([images for images, _ in batches])
    np.testing.assert_array_equal(
        images.squeeze(1), to_float(torch.from_numpy(tiny_dataset.test_images))
    )
    np.testing.assert_array_equal(
        torch.cat([labels for _, labels in batches]), tiny_dataset.test_labels
    )


# Several workers.


@pytest.fixture
def build_all(tiny_dataset, tiny_config):
    """Builds the data module of each of `count` workers."""

    def build_all(count, **sections):
        config = tiny_config.with_values(**{"workers": {"count": count}, **sections})
        return [
            ImageDataModule(tiny_dataset, config, CPU, Workers(rank, count))
            for rank in range(count)
        ]

    return build_all


@pytest.mark.parametrize("count", [2, 3, 4, 5, 12])
@pytest.mark.parametrize("step", [0, 2])
def test_the_workers_parts_in_order_are_the_batch(build, build_all, count, step):
    augmentation = {"flip": True, "shift": 3}
    whole = batches_from(build(data=augmentation), epoch=1, step=step)
    of_each = [
        batches_from(data, epoch=1, step=step) for data in build_all(count, data=augmentation)
    ]
    for batch, *parts in zip(whole, *of_each, strict=True):
        assert {part.step for part in parts} == {batch.step}
        assert {part.global_size for part in parts} == {12}
        sizes = [len(part.labels) for part in parts]
        assert max(sizes) - min(sizes) <= 1
        shares = [piece.share for part in parts for piece in part.pieces()]
        assert sum(shares) == pytest.approx(1)
        assert torch.equal(torch.cat([part.pixels for part in parts]), batch.pixels)
        assert torch.equal(torch.cat([part.labels for part in parts]), batch.labels)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_the_workers_shards_together_weigh_one(build_all, count):
    training = {"global_batch_size": 17, "num_shards": 4}
    firsts = [batches_from(data)[0] for data in build_all(count, training=training)]
    shards = [shards_of(batch) for batch in firsts]
    assert {len(of_worker) for of_worker in shards} == {-(-4 // count)}
    every = [shard for of_worker in shards for shard in of_worker]
    assert all(shard.share == len(shard.labels) / 17 for shard in every)
    assert sum(len(shard.labels) for shard in every) == 17


@pytest.mark.parametrize("count", [1, 2, 3, 8])
@pytest.mark.parametrize("split", ["val", "test"])
def test_each_image_is_evaluated_by_one_worker_in_the_batches_of_one(
    build, build_all, count, split
):
    """Whole batches: what stands beside an image can change its scores' last digits."""
    whole = list(getattr(build(), f"{split}_dataloader")())
    loaders = [getattr(data, f"{split}_dataloader")() for data in build_all(count)]
    shared_out = [batch for loader in loaders for batch in loader if len(batch[1])]
    assert all(len(loader) >= 1 for loader in loaders)  # Lightning skips an empty one.
    assert len(shared_out) == len(whole)
    for (images, labels), (all_images, all_labels) in zip(shared_out, whole, strict=True):
        assert torch.equal(images, all_images)
        assert torch.equal(labels, all_labels)
