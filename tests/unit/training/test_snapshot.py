"""A checkpoint's content comes back bit for bit, and holds nothing that could run."""

from __future__ import annotations

import pickletools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distcnn.config import ModelConfig, OptimizerConfig
from distcnn.flat_weights import FlatWeights
from distcnn.module import build_optimizer
from distcnn.network import build_network
from distcnn.training.snapshot import (
    Counters,
    Snapshot,
    optimizer_tensors,
    restore_optimizer,
    weights_sha256,
)

FLOATS = st.floats(allow_nan=False, allow_infinity=False)


def network_in_use(seed: int) -> torch.nn.Module:
    """Laid out as in training: what is contiguous in memory differs from the default."""
    return build_network(ModelConfig(), seed).to(memory_format=torch.channels_last)  # pyright: ignore


def step(network: torch.nn.Module, weights: FlatWeights, optimizer: torch.optim.Optimizer) -> None:
    generator = torch.Generator().manual_seed(0)
    loss = network(torch.rand(8, 1, 28, 28, generator=generator)).square().mean()
    weights.vector.grad = weights.gradient(loss)
    optimizer.step()


@given(
    st.builds(
        Counters,
        epoch=st.integers(0, 10**6),
        step=st.integers(0, 10**6),
        train_seconds=FLOATS,
        best_accuracy=FLOATS,
        epoch_loss_sum=FLOATS,
        interval_losses=st.lists(FLOATS, max_size=60),
    )
)
def test_counters_come_back_to_the_last_bit(counters: Counters) -> None:
    content = Snapshot(counters, network={}, optimizer={}).encode({})
    assert Snapshot.decode(content).counters == counters


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_training_goes_on_with_the_same_bits(name: str) -> None:
    """A step after a save and a restore equals the step that was not interrupted."""
    config = OptimizerConfig.model_validate({"name": name, "lr": 0.01})
    network = network_in_use(seed=1)
    weights = FlatWeights(network)
    optimizer = build_optimizer(weights.vector, config)
    for _ in range(3):
        step(network, weights, optimizer)
    content = Snapshot(Counters(), network.state_dict(), optimizer_tensors(optimizer)).encode({})

    restored = network_in_use(seed=2)
    snapshot = Snapshot.decode(content)
    restored_weights = FlatWeights(restored)
    restored.load_state_dict(snapshot.network)
    restored_optimizer = build_optimizer(restored_weights.vector, config)
    restore_optimizer(restored_optimizer, snapshot.optimizer)

    for _ in range(2):
        step(network, weights, optimizer)
        step(restored, restored_weights, restored_optimizer)
    assert weights_sha256(restored.state_dict()) == weights_sha256(network.state_dict())


def test_the_content_is_no_pickle() -> None:
    content = Snapshot(Counters(), network_in_use(0).state_dict(), {}).encode({})
    with pytest.raises(ValueError, match="opcode"):
        list(pickletools.genops(content))


def test_the_digest_sees_every_bit_name_and_shape() -> None:
    weights = {"a": torch.arange(4.0), "b": torch.ones(2)}
    digest = weights_sha256(weights)
    assert weights_sha256(dict(reversed(weights.items()))) == digest
    one_bit_off = torch.arange(4.0)
    one_bit_off.view(torch.int32)[3] ^= 1
    others = [
        weights | {"a": one_bit_off},
        weights | {"a": torch.arange(4.0).reshape(2, 2)},
        weights | {"a": torch.arange(4.0).double()},
        {"c": weights["a"], "b": weights["b"]},
    ]
    assert len({digest, *map(weights_sha256, others)}) == 1 + len(others)


def test_the_digest_does_not_see_the_memory_format() -> None:
    weight = torch.rand(4, 3, 5, 5)
    laid_out_otherwise = weight.to(memory_format=torch.channels_last)
    assert weights_sha256({"w": weight}) == weights_sha256({"w": laid_out_otherwise})
