import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distcnn.config import ModelConfig
from distcnn.network import DistanceWeightedPool2d, L2Pool2d, build_network

POOLINGS = ("max", "average", "l2", "distance-weighted")
ACTIVATIONS = ("relu", "tanh", "sigmoid")


@st.composite
def models(draw):
    """Any networks of up to three blocks whose volumes come out whole."""
    size = 28
    convolutions, poolings = [], []
    for _ in range(draw(st.integers(1, 3))):
        fitting = [
            (kernel_size, stride, padding)
            for kernel_size in (1, 2, 3, 5, 7)
            for stride in (1, 2, 3)
            for padding in (0, 1, 2)
            if size + 2 * padding >= kernel_size
            and (size + 2 * padding - kernel_size) % stride == 0
        ]
        kernel_size, stride, padding = draw(st.sampled_from(fitting))
        convolutions.append((kernel_size, stride, padding))
        size = (size + 2 * padding - kernel_size) // stride + 1
        fitting = [
            (pool_size, stride)
            for pool_size in (1, 2, 3)
            for stride in (1, 2, 3)
            if size >= pool_size and (size - pool_size) % stride == 0
        ]
        poolings.append(draw(st.sampled_from(fitting)))
        size = (size - poolings[-1][0]) // poolings[-1][1] + 1
    kernel_sizes, strides, paddings = zip(*convolutions, strict=True)
    pool_sizes, pool_strides = zip(*poolings, strict=True)
    one_per_block = [st.integers(1, 4) for _ in convolutions]
    return ModelConfig(
        channels=draw(st.tuples(*one_per_block)),
        kernel_size=kernel_sizes,
        stride=strides,
        padding=paddings,
        pooling=draw(st.tuples(*[st.sampled_from(POOLINGS) for _ in convolutions])),
        pool_size=pool_sizes,
        pool_stride=pool_strides,
        activation=draw(st.sampled_from(ACTIVATIONS)),
        batch_norm=draw(st.booleans()),
    )


def naive_pooling(maps, pool_size, stride, summarize):
    """`summarize` of each window of `(N, C, H, W)`, one after another."""
    size = (maps.shape[-1] - pool_size) // stride + 1
    pooled = np.empty((*maps.shape[:2], size, size))
    for row in range(size):
        for column in range(size):
            top, left = row * stride, column * stride
            window = maps[:, :, top : top + pool_size, left : left + pool_size]
            pooled[:, :, row, column] = summarize(window)
    return pooled


def l2_norm(window):
    return np.sqrt((window**2).sum(axis=(2, 3)))


def distance_weighted_average(window):
    size = window.shape[-1]
    centre = ((size - 1) / 2, (size - 1) / 2)
    weights = np.array(
        [
            [1 / (1 + math.dist(centre, (row, column))) for column in range(size)]
            for row in range(size)
        ]
    )
    return (window * weights).sum(axis=(2, 3)) / weights.sum()


@settings(max_examples=50)
@given(model=models())
def test_each_layer_has_the_parameters_and_the_output_of_the_table(model):
    network = build_network(model, seed=0)
    seen = []
    for name, layer in network.named_children():
        if name != "flatten":
            layer.register_forward_hook(
                lambda layer, _, output: seen.append(
                    (sum(weight.numel() for weight in layer.parameters()), output.shape[1:].numel())
                )
            )
    network(torch.zeros(2, 1, 28, 28))
    assert seen == [(layer.num_parameters, layer.output.num_values) for layer in model.layers]


def test_the_article_s_network():
    network = build_network(ModelConfig(), seed=0)
    assert list(dict(network.named_children())) == [
        "conv1",
        "norm1",
        "activation1",
        "pool1",
        "conv2",
        "norm2",
        "activation2",
        "pool2",
        "flatten",
        "fc",
    ]
    assert sum(weight.numel() for weight in network.parameters()) == 29_034
    assert network(torch.zeros(3, 1, 28, 28)).shape == (3, 10)


@pytest.mark.parametrize(
    ("pool", "summarize"),
    [(L2Pool2d, l2_norm), (DistanceWeightedPool2d, distance_weighted_average)],
)
@settings(max_examples=40)
@given(
    size=st.integers(4, 9),
    pool_size=st.integers(1, 4),
    stride=st.integers(1, 4),
    seed=st.integers(0, 1000),
)
def test_pooling_agrees_with_a_naive_computation(pool, summarize, size, pool_size, stride, seed):
    maps = np.random.default_rng(seed).normal(size=(2, 3, size, size))
    pooled = pool(pool_size, stride)(torch.from_numpy(maps).float())
    expected = naive_pooling(maps, pool_size, stride, summarize)
    np.testing.assert_allclose(pooled, expected, rtol=1e-4, atol=1e-5)


def test_a_pixel_nearer_to_the_centre_weighs_more():
    weights = DistanceWeightedPool2d(3, 3).weights
    assert weights[1, 1] > weights[0, 1] > weights[0, 0]
    assert weights.sum().item() == pytest.approx(1)


def test_pooling_weights_are_not_part_of_the_state_that_is_saved():
    assert not DistanceWeightedPool2d(3, 3).state_dict()


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_are_finite_where_everything_is_zero(pooling, activation):
    network = build_network(ModelConfig(pooling=pooling, activation=activation), seed=0)
    with torch.no_grad():
        network.conv1.bias.zero_()
        network.conv2.bias.zero_()
    network(torch.zeros(4, 1, 28, 28)).square().sum().backward()
    assert all(weight.grad.isfinite().all() for weight in network.parameters())


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("relu", lambda x: np.maximum(0, x)),
        ("tanh", lambda x: (np.exp(x) - np.exp(-x)) / (np.exp(x) + np.exp(-x))),
        ("sigmoid", lambda x: 1 / (1 + np.exp(-x))),
    ],
)
def test_activations_follow_their_formulas(name, formula):
    network = build_network(ModelConfig(activation=name), seed=0)
    values = np.linspace(-8, 8, 101)
    for activation in (network.activation1, network.activation2):
        np.testing.assert_allclose(
            activation(torch.from_numpy(values)), formula(values), atol=1e-12
        )


def weights_of(seed):
    return build_network(ModelConfig(), seed).state_dict()


def test_the_weights_are_a_function_of_the_seed():
    first = weights_of(seed=5)
    torch.rand(1)
    for name, weight in weights_of(seed=5).items():
        assert torch.equal(weight, first[name]), name


def test_another_seed_gives_other_weights():
    assert not torch.equal(weights_of(seed=5)["conv1.weight"], weights_of(seed=6)["conv1.weight"])


def test_the_global_generator_is_left_as_it_was():
    before = torch.get_rng_state()
    build_network(ModelConfig(), seed=5)
    assert torch.equal(torch.get_rng_state(), before)
