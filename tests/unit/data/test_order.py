import hashlib
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distcnn.data.order import SampleOrder, permutation, split
from distcnn.division import even_slices
from distcnn.errors import UsageError

LABELS = np.tile(np.arange(10, dtype=np.uint8), 60)
numbers = st.integers(0, 2**32 - 1)


@given(seed=numbers, purpose=st.integers(1, 9), index=numbers, size=st.integers(0, 300))
def test_a_permutation_holds_each_number_once(seed, purpose, index, size):
    order = permutation(seed, purpose, index, size)
    np.testing.assert_array_equal(np.sort(order), np.arange(size))


@given(seed=numbers, purpose=st.integers(1, 9), index=numbers)
def test_a_permutation_is_a_function_of_its_arguments(seed, purpose, index):
    np.random.seed(seed)
    first = permutation(seed, purpose, index, 100)
    np.random.seed(0)
    np.testing.assert_array_equal(permutation(seed, purpose, index, 100), first)


@pytest.mark.parametrize(
    "arguments", [(1, 2, 0), (0, 1, 0), (0, 2, 1)], ids=["seed", "purpose", "index"]
)
def test_each_argument_changes_a_permutation(arguments):
    in_place = permutation(0, 2, 0, 10_000) == permutation(*arguments, 10_000)
    assert in_place.sum() < 10  # one is expected of unrelated ones


def test_the_order_is_that_of_every_earlier_version():
    order = permutation(0, 2, 0, 60_000).astype("<i8")
    assert (
        hashlib.sha256(order.tobytes()).hexdigest()
        == "38c417ea7273be0c3ee8ffd63885172ac238fadaa29aecab64fe5836692681ef"
    )


# The split.


@given(seed=numbers, num_val=st.integers(1, 300), num_train=st.integers(10, 300))
def test_a_split_is_disjoint_sorted_and_balanced(seed, num_val, num_train):
    parts = split(LABELS, seed, num_train, num_val)
    assert (len(parts.train), len(parts.val)) == (num_train, num_val)
    assert not np.intersect1d(parts.train, parts.val).size
    for part in (parts.train, parts.val):
        assert (np.diff(part) > 0).all()
        assert np.ptp(np.bincount(LABELS[part], minlength=10)) <= 1


def test_training_takes_all_that_validation_leaves():
    parts = split(LABELS, 0, None, 50)
    np.testing.assert_array_equal(np.union1d(parts.train, parts.val), np.arange(len(LABELS)))
    assert len(parts.train) == len(LABELS) - 50


def test_a_split_is_a_function_of_the_seed():
    np.testing.assert_array_equal(split(LABELS, 3, None, 50).val, split(LABELS, 3, None, 50).val)
    assert not np.array_equal(split(LABELS, 3, None, 50).val, split(LABELS, 4, None, 50).val)


def test_fewer_training_images_leave_validation_as_it_is():
    few, many = split(LABELS, 0, 100, 50), split(LABELS, 0, 200, 50)
    np.testing.assert_array_equal(few.val, many.val)
    assert np.isin(few.train, many.train).all()


def test_each_class_is_shuffled_by_itself():
    parts = split(LABELS, 0, None, 100)
    chosen = [set(parts.val[LABELS[parts.val] == label] // 10) for label in range(10)]
    assert len({frozenset(members) for members in chosen}) == 10


@pytest.mark.parametrize(
    ("num_train", "num_val"), [(None, 600), (None, 601), (300, 301), (1000, 10), (9, 10)]
)
def test_a_split_that_asks_for_too_much_names_both_fields(num_train, num_val):
    with pytest.raises(UsageError) as caught:
        split(LABELS, 0, num_train, num_val)
    assert f"data.num_val = {num_val} and data.num_train = {num_train}" in str(caught.value)


def test_fewer_images_than_classes_is_answered_with_the_right_remedy():
    with pytest.raises(UsageError, match="raise"):
        split(LABELS, 0, 9, 10)


# The order.


@pytest.fixture
def order():
    """Of 103 images with gaps between their numbers: 10 steps of 10, and 3 left over."""
    return SampleOrder(seed=7, train_ids=np.arange(0, 309, 3), global_batch_size=10)


def test_an_epoch_is_whole_steps_of_different_training_images(order):
    ids = order.epoch_ids(0)
    assert ids.shape == (10, 10) == (order.steps_per_epoch, order.global_batch_size)
    assert len(np.unique(ids)) == 100
    assert np.isin(ids, order.train_ids).all()


def test_what_is_left_over_differs_from_epoch_to_epoch(order):
    left_over = {tuple(np.setdiff1d(order.train_ids, order.epoch_ids(epoch))) for epoch in range(5)}
    assert len(left_over) == 5


def test_a_step_holds_its_row_of_the_epoch(order):
    for epoch in (0, 4):
        for step in range(order.steps_per_epoch):
            np.testing.assert_array_equal(
                order.sample_ids(epoch, step), order.epoch_ids(epoch)[step]
            )


def test_the_batch_size_cuts_the_same_order(order):
    twice = SampleOrder(order.seed, order.train_ids, 2 * order.global_batch_size)
    np.testing.assert_array_equal(
        twice.epoch_ids(3).ravel(), order.epoch_ids(3).ravel()[: twice.epoch_ids(3).size]
    )


def test_a_batch_larger_than_the_data_is_refused_with_a_remedy():
    with pytest.raises(UsageError, match=r"training\.global_batch_size = 11 exceeds the 10 "):
        SampleOrder(seed=0, train_ids=np.arange(10), global_batch_size=11)


# Shards.


@given(batch_size=st.integers(1, 1000), num_shards=st.integers(1, 64))
def test_shards_cover_a_batch_in_sizes_that_differ_by_one_at_most(batch_size, num_shards):
    batch = list(range(batch_size))
    shards = [batch[piece] for piece in even_slices(batch_size, num_shards)]
    assert len(shards) == num_shards
    assert list(itertools.chain(*shards)) == batch
    assert max(map(len, shards)) - min(map(len, shards)) <= 1
