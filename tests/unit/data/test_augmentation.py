import hashlib
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distcnn.data.augmentation import augment, sample_bits

SHIFT = 2
SHIFTS = tuple(itertools.product(range(-SHIFT, SHIFT + 1), repeat=2))


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(1, 256, (40, 1, 28, 28), dtype=np.uint8))


def bits_of(ids, seed=0, epoch=0):
    return sample_bits(seed, epoch, torch.as_tensor(ids))


def moved(image, down, right):
    """The image shifted within its frame; zeros come in."""
    size = image.shape[-1]
    result = torch.zeros_like(image)
    result[..., max(down, 0) : size + min(down, 0), max(right, 0) : size + min(right, 0)] = image[
        ..., max(-down, 0) : size + min(-down, 0), max(-right, 0) : size + min(-right, 0)
    ]
    return result


def applied_shift(image, augmented):
    [shift] = [shift for shift in SHIFTS if torch.equal(moved(image, *shift), augmented)]
    return shift


# Random bits.


def splitmix64(value):
    """One number of the reference implementation (Vigna, 2015), from the state `value`."""
    value = (value + 0x9E3779B97F4A7C15) % 2**64
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    value = (value ^ value >> 27) * 0x94D049BB133111EB % 2**64
    return value ^ value >> 31


def test_the_reference_gives_its_published_numbers():
    assert splitmix64(1234567) == 6457827717110365317


@given(seed=st.integers(0, 2**32 - 1), epoch=st.integers(0, 10**6), sample=st.integers(0, 10**6))
def test_the_bits_are_those_of_exact_arithmetic(seed, epoch, sample):
    exact = splitmix64(splitmix64(splitmix64(seed) ^ epoch) ^ sample) % 2**63
    assert bits_of([sample], seed, epoch).tolist() == [exact]


def test_the_bits_are_those_of_every_earlier_version():
    bits = bits_of(range(60_000)).numpy().astype("<i8")
    assert (
        hashlib.sha256(bits.tobytes()).hexdigest()
        == "8fe1d6ca94e663fac6378703f486896e38ab45b4c6fd312a4326b7b9279df3c6"
    )


@pytest.mark.parametrize("other", [{"seed": 1}, {"epoch": 1}])
def test_seed_and_epoch_change_the_bits(other):
    assert not (bits_of(range(1000)) == bits_of(range(1000), **other)).any()


def test_no_two_samples_share_their_bits():
    assert len(bits_of(range(60_000)).unique()) == 60_000


# What is done to an image.


@settings(max_examples=25)
@given(order=st.permutations(range(40)), size=st.integers(1, 40))
def test_a_sample_s_augmentation_does_not_depend_on_its_batch(images, order, size):
    alone = [augment(images[[i]], bits_of([i]), flip=True, shift=SHIFT) for i in order[:size]]
    together = augment(images[order[:size]], bits_of(order[:size]), flip=True, shift=SHIFT)
    assert torch.equal(torch.cat(alone), together)


def test_augmented_images_are_those_of_every_earlier_version():
    images = (torch.arange(1000 * 28 * 28) % 251).to(torch.uint8).reshape(1000, 1, 28, 28)
    augmented = augment(images, bits_of(range(1000)), flip=True, shift=SHIFT)
    assert hashlib.sha256(augmented.numpy().tobytes()).hexdigest() == (
        "42d5e6207ff74e7abc81d7e251ac00403685cf98f8cd9ee859f26286d6ab97bb"
    )


def test_without_flip_and_shift_nothing_is_done(images):
    assert torch.equal(augment(images, bits_of(range(40)), flip=False, shift=0), images)


def test_the_images_given_are_left_as_they_were(images):
    before = images.clone()
    augment(images, bits_of(range(40)), flip=True, shift=SHIFT)
    assert torch.equal(images, before)


def test_each_image_is_mirrored_left_to_right_or_left_alone(images):
    augmented = augment(images, bits_of(range(40)), flip=True, shift=0)
    is_mirrored = [torch.equal(a, i.flip(-1)) for a, i in zip(augmented, images, strict=True)]
    is_same = [torch.equal(a, i) for a, i in zip(augmented, images, strict=True)]
    assert all(mirrored != same for mirrored, same in zip(is_mirrored, is_same, strict=True))


def test_each_image_is_shifted_within_bounds_and_zeros_come_in(images):
    augmented = augment(images, bits_of(range(40)), flip=False, shift=SHIFT)
    shifts = [applied_shift(*pair) for pair in zip(images, augmented, strict=True)]
    assert len(set(shifts)) > 10


@pytest.mark.parametrize("shift", [1, 27])
def test_the_largest_shift_is_reached_in_both_directions(shift):
    # Each row is as bright as its number, from 1.
    rows = torch.arange(1, 29, dtype=torch.uint8)[:, None].expand(20_000, 1, 28, 28)
    shifted = augment(rows, bits_of(range(20_000)), flip=False, shift=shift)
    top, bottom = shifted[:, 0, 0].amax(dim=1), shifted[:, 0, -1].amax(dim=1)
    assert top.max() == 1 + shift  # moved up by all of it
    assert bottom[bottom > 0].min() == 28 - shift  # moved down by all of it


def test_mirrors_and_shifts_are_uniform_and_independent():
    num_samples = 50_000
    # So far left of the middle that no shift takes a mirrored pixel where another one may be.
    pixel = torch.zeros(1, 1, 13, 13, dtype=torch.uint8)
    pixel[0, 0, 6, 3] = 255
    augmented = augment(
        pixel.expand(num_samples, -1, -1, -1), bits_of(range(num_samples)), flip=True, shift=SHIFT
    )
    places, counts = augmented.flatten(1).argmax(dim=1).unique(return_counts=True)
    num_outcomes = 2 * len(SHIFTS)
    assert len(places) == num_outcomes
    expected = num_samples / num_outcomes
    chi_square = ((counts - expected) ** 2 / expected).sum().item()
    assert chi_square < 85.4  # the 99.9th percentile with 49 degrees of freedom
