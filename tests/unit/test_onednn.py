"""The fast way gives what the plain way gives."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from distcnn import onednn
from distcnn.config import ModelConfig
from distcnn.network import build_network
from tests.unit.needs import needs_bfloat16

LABELS = torch.arange(12) % 10


def learn(network: nn.Sequential, scores: torch.Tensor) -> dict[str, torch.Tensor]:
    """Gradients and buffers after one backward pass."""
    functional.cross_entropy(scores.float(), LABELS).backward()
    found = {name: weight.grad for name, weight in network.named_parameters()}
    assert all(gradient is not None for gradient in found.values())
    return {**found, **dict(network.named_buffers())}  # pyright: ignore[reportReturnType]


@pytest.mark.parametrize("pooling", ["max", "average", "l2", "distance-weighted"])
@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid"])
@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("channels", [(4, 8), (16, 24)])
def test_gradients_and_statistics_equal_those_of_the_modules(
    pooling: str, activation: str, batch_norm: bool, channels: tuple[int, int]
) -> None:
    model = ModelConfig.model_validate(
        {
            "channels": channels,
            "pooling": pooling,
            "activation": activation,
            "batch_norm": batch_norm,
        }
    )
    # With seed 0, (16, 24) has a pixel of nearly 0, where the L2 norm's gradient is not defined.
    plain = build_network(model, seed=1)
    fast = copy.deepcopy(plain)
    images = torch.rand(12, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    expected = learn(plain, plain(images))
    seen = learn(fast, onednn.run(fast, images, torch.float32))
    assert seen.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(seen[name], value, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("pooling", ["max", "average", "l2", "distance-weighted"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [
        (torch.float32, {}),
        pytest.param(torch.bfloat16, {"rtol": 0.05, "atol": 0.05}, marks=needs_bfloat16),
    ],
)
def test_evaluation_equals_that_of_the_modules(
    pooling: str, dtype: torch.dtype, tolerance: dict[str, float]
) -> None:
    model = ModelConfig.model_validate({"pooling": pooling})
    network = build_network(model, seed=0).eval()
    images = torch.rand(12, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        scores = onednn.run(network, images, dtype)
        torch.testing.assert_close(scores, network(images), **tolerance)


@needs_bfloat16
@pytest.mark.parametrize("pooling", ["max", "average", "l2", "distance-weighted"])
def test_bfloat16_gradients_are_close(pooling: str) -> None:
    model = ModelConfig.model_validate({"pooling": pooling})
    plain = build_network(model, seed=0)
    fast = copy.deepcopy(plain)
    images = torch.rand(12, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    expected = learn(plain, plain(images))
    seen = learn(fast, onednn.run(fast, images, torch.bfloat16))
    for name in ("conv1.weight", "conv2.weight", "fc.weight", "norm1.weight"):
        error = (seen[name] - expected[name]).norm() / expected[name].norm()
        assert error < 0.15, name
