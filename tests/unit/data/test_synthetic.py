import hashlib

import numpy as np
import pytest
import torch
from torch import nn

from distcnn.data import synthetic

# By VERSION, over the four arrays in the order of draw().
DIGESTS = {1: "b29e5d77ef6a3ed8b788a53d0c20d8353cb02518ae2217c4d58b769da90c586f"}


@pytest.fixture(scope="module")
def drawn():
    return synthetic.draw()


def test_shapes_and_types(drawn):
    assert [array.shape for array in drawn] == [(20000, 28, 28), (20000,), (5000, 28, 28), (5000,)]
    assert all(array.dtype == np.uint8 for array in drawn)


def test_the_pictures_are_the_same_bytes_everywhere(drawn):
    digest = hashlib.sha256(b"".join(array.tobytes() for array in drawn)).hexdigest()
    assert digest == DIGESTS[synthetic.VERSION], "raise VERSION and add the new digest"


def test_all_geometry_is_float32():
    # A stray float64 would still be deterministic, at half the speed.
    dice = synthetic.Dice(np.random.Philox(key=0), 3)
    for garment in synthetic._GARMENTS.values():
        canvas = synthetic._canvas(dice)
        for field in (canvas.x, canvas.y, *garment(canvas)):
            assert field.dtype == np.float32
            assert field.shape == (3, 28, 28)


def test_classes_are_those_of_fashion_mnist():
    fashion_mnist = pytest.importorskip("distcnn.data.fashion_mnist")
    assert synthetic.CLASS_NAMES == fashion_mnist.CLASS_NAMES


@pytest.mark.parametrize("split", ["train", "test"])
def test_classes_are_balanced_and_shuffled(drawn, split):
    labels = drawn[1] if split == "train" else drawn[3]
    assert np.bincount(labels).tolist() == [len(labels) // 10] * 10
    # In random order, one label in ten equals the one before it.
    assert np.mean(labels[1:] == labels[:-1]) == pytest.approx(0.1, abs=0.02)


def test_no_picture_occurs_twice(drawn):
    train, _, test, _ = drawn
    pictures = [picture.tobytes() for picture in (*train, *test)]
    assert len(set(pictures)) == len(pictures)


def test_nearest_class_mean_is_not_enough(drawn):
    train, train_labels, test, test_labels = drawn
    means = np.stack([train[train_labels == label].mean(0) for label in range(10)])
    # |x - m|^2 up to |x|^2, which is the same for every class
    flat_means, flat = means.reshape(10, -1), test.reshape(len(test), -1).astype(np.float64)
    nearest = ((flat_means**2).sum(1) - 2 * flat @ flat_means.T).argmin(1)
    assert 0.3 < np.mean(nearest == test_labels) < 0.65


def test_a_small_cnn_learns_what_a_linear_model_cannot(drawn):
    linear = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    assert _accuracy_after_training(linear, drawn) < 0.7

    cnn = nn.Sequential(
        nn.Conv2d(1, 8, 5, padding=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 5, padding=2),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(784, 10),
    )
    assert _accuracy_after_training(cnn, drawn) > 0.8


def _accuracy_after_training(model, drawn, num_train=8000, num_test=2000, batch_size=64):
    """One pass over the first training images; both models have seen the same."""
    torch.manual_seed(0)
    for layer in model:
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
    train, train_labels, test, test_labels = (torch.from_numpy(array) for array in drawn)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for start in range(0, num_train, batch_size):
        batch = slice(start, start + batch_size)
        logits = model(train[batch, None].float() / 255)
        loss = nn.functional.cross_entropy(logits, train_labels[batch].long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        guessed = model(test[:num_test, None].float() / 255).argmax(1)
    return (guessed == test_labels[:num_test]).float().mean().item()
