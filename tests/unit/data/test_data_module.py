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


@pytest.mark.parametrize("num_shards", [1, 5, 12])
def test_the_shards_in_order_are_the_batch(build, num_shards):
    [batch, *_] = batches_from(build(training={"num_shards": num_shards}))
    shards = list(batch.shards())
    assert len(shards) == num_shards
    assert torch.equal(torch.cat([shard.images for shard in shards]), to_float(batch.pixels))
    assert torch.equal(torch.cat([shard.labels for shard in shards]), batch.labels)


def test_a_shard_s_share_is_that_of_its_images(build):
    [batch, *_] = batches_from(build(training={"num_shards": 5}))
    assert [shard.share for shard in batch.shards()] == [3 / 12, 3 / 12, 2 / 12, 2 / 12, 2 / 12]


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
