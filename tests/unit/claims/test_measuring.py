"""What a network tells of each claim, on networks that are made to tell something known."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from distcnn.claims import dead_units, saturated_gradients, translation, zig_zag
from distcnn.claims.subject import Subject, gradients, outputs, validation_images
from distcnn.config import RunConfig
from distcnn.data.dataset import Dataset
from distcnn.data.order import divide
from distcnn.network import build_network


def subject(config: RunConfig, num_images: int = 64) -> Subject:
    source = torch.Generator().manual_seed(0)
    images = torch.rand(num_images, 1, 28, 28, generator=source)
    labels = torch.randint(0, 10, (num_images,), generator=source)
    return Subject(config, build_network(config.model, seed=0).eval(), images, labels)


@pytest.fixture
def plain(tiny_config: RunConfig) -> RunConfig:
    """Without batch norm, by plain gradient descent."""
    return tiny_config.with_values(
        model={"batch_norm": False}, optimizer={"name": "sgd", "lr": 0.1}
    )


def test_dead_kernels_are_counted(plain: RunConfig):
    examined = subject(plain)
    assert dead_units.measure(examined) == {"dead": {"block 1": 0.0, "block 2": 0.0}}
    first = examined.network.get_submodule("conv1")
    assert isinstance(first, nn.Conv2d) and first.bias is not None
    with torch.no_grad():
        first.bias[0] = -1e9
    assert dead_units.measure(examined)["dead"]["block 1"] == pytest.approx(1 / 3)


def test_larger_weights_drive_sigmoid_into_its_tails(plain: RunConfig):
    usual = plain.with_values(model={"activation": "sigmoid"})
    extreme = usual.with_values(model={"initial_scale": 100})
    before, after = (
        saturated_gradients.measure(subject(config, 16)) for config in (usual, extreme)
    )
    assert set(before["gradient_norms"]) == {"conv1", "conv2", "fc"}
    assert before["tails"][0] < 0.01 < 0.5 < after["tails"][0]


def test_after_sigmoid_gradients_share_their_sign(plain: RunConfig):
    found = {
        name: zig_zag.measure(subject(plain.with_values(model={"activation": name}), 200))
        for name in ("sigmoid", "tanh")
    }
    assert found["sigmoid"]["agreement"] > found["tanh"]["agreement"]
    assert all(0 <= each["turns"] <= 1 for each in found.values())


def test_a_network_that_sees_no_place_minds_no_shift(plain: RunConfig):
    examined = subject(plain)
    inside = torch.zeros_like(examined.images)
    inside[..., 10:18, 10:18] = examined.images[..., 10:18, 10:18]

    class Brightest(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.amax(dim=(2, 3)) * torch.linspace(0, 1, 10)

    blind = Subject(plain, nn.Sequential(Brightest()), inside, torch.full((64,), 9))
    assert translation.measure(blind) == {"shifts": [0, 1, 2, 3, 4], "accuracy": [1.0] * 5}


def test_gradients_are_those_of_the_mean_loss(plain: RunConfig):
    examined = subject(plain, 8)
    found = gradients(examined.network, examined.images, examined.labels)
    loss = nn.functional.cross_entropy(examined.network(examined.images), examined.labels)
    loss.backward()
    for name, gradient in found.items():
        expected = examined.network.get_submodule(name).weight.grad
        assert isinstance(expected, torch.Tensor)
        assert torch.equal(gradient, expected)


def test_the_last_output_is_the_networks(plain: RunConfig):
    examined = subject(plain, 8)
    with torch.inference_mode():
        expected = examined.network(examined.images)
    assert torch.equal(outputs(examined.network, examined.images)["fc"], expected)


def test_only_validation_images_are_looked_at(tiny_config: RunConfig, tiny_dataset: Dataset):
    images, labels = validation_images(tiny_config, tiny_dataset, most=4)
    _, ids = divide(tiny_dataset.train_labels, tiny_config)
    assert images.shape == (4, 1, 28, 28)
    assert labels.tolist() == tiny_dataset.train_labels[ids[:4]].tolist()
    assert torch.equal(
        (images[:, 0] * 255).round().byte(), torch.from_numpy(tiny_dataset.train_images[ids[:4]])
    )
