"""A network on a vector is the same network, and its gradient the same gradient."""

import pytest
import torch

from distcnn.config import ModelConfig
from distcnn.flat_weights import FlatWeights
from distcnn.network import build_network

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


@pytest.fixture(params=LAYOUTS)
def network(request):
    return build_network(ModelConfig(), 0).to(memory_format=LAYOUTS[request.param])


def loss_of(network):
    images = torch.rand(8, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    return network(images).square().mean()


def test_the_network_keeps_its_weights_and_their_layout(network):
    before = {name: weight.clone() for name, weight in network.named_parameters()}
    FlatWeights(network)
    for name, weight in network.named_parameters():
        assert torch.equal(weight, before[name]), name
        assert weight.stride() == before[name].stride(), name


def test_the_vector_holds_every_weight_and_nothing_else(network):
    weights = FlatWeights(network)
    assert weights.vector.shape == (29_034,)
    with torch.no_grad():
        weights.vector.fill_(7)
    assert all(bool((weight == 7).all()) for weight in network.parameters())


def test_the_gradient_is_laid_out_as_the_weights_are(network):
    loss_of(network).backward()
    expected = [weight.grad.clone() for weight in network.parameters()]
    before = [weight.detach().clone() for weight in network.parameters()]
    weights = FlatWeights(network)
    gradient = weights.gradient(loss_of(network))
    with torch.no_grad():
        weights.vector -= gradient
    for weight, old, its_gradient in zip(network.parameters(), before, expected, strict=True):
        assert torch.equal(weight, old - its_gradient)


def test_a_state_dict_is_loaded_into_the_vector(network):
    weights = FlatWeights(network)
    network.load_state_dict({name: value + 1 for name, value in network.state_dict().items()})
    flat = torch.cat([weight.detach().flatten() for weight in network.parameters()])
    assert torch.equal(weights.vector.sort().values, flat.sort().values)


# What workers average besides.


def statistics_of(network):
    return [
        value
        for name, value in network.named_buffers()
        if name.endswith(("running_mean", "running_var"))
    ]


def test_the_statistics_are_batch_norm_s_and_nothing_else():
    """Neither its count of batches nor what is constant, as distance-weighted pooling's weights."""
    network = build_network(
        ModelConfig(pooling="distance-weighted", pool_size=4, pool_stride=2, channels=(3,)), 0
    )
    constant = network.pool1.weights.clone()
    loss_of(network)
    before = torch.cat([value.flatten() for value in statistics_of(network)])
    weights = FlatWeights(network)
    assert weights.statistics.shape == (2 * 3,)
    assert torch.equal(weights.statistics, before)
    weights.statistics.fill_(7)
    assert all(bool((value == 7).all()) for value in statistics_of(network))
    assert torch.equal(network.pool1.weights, constant)
    assert network.norm1.num_batches_tracked == 1


def test_what_batch_norm_sees_arrives_in_the_statistics(network):
    weights = FlatWeights(network)
    before = weights.statistics.clone()
    loss_of(network)
    assert weights.statistics.shape == (2 * (16 + 32),)
    assert not torch.equal(weights.statistics, before)
    seen = torch.cat([value.flatten() for value in statistics_of(network)])
    assert torch.equal(weights.statistics, seen)


def test_without_batch_norm_there_are_no_statistics():
    network = build_network(ModelConfig(batch_norm=False), 0)
    assert FlatWeights(network).statistics.shape == (0,)
