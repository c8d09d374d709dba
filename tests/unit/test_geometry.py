import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from distcnn.geometry import (
    Block,
    GeometryError,
    Volume,
    convolution_output_size,
    layer_table,
    pooling_output_size,
)

IMAGE = Volume(size=28, depth=1)


def block(channels, **changes):
    """One of the article's blocks, but for `changes`."""
    values = {
        "kernel_size": 5,
        "stride": 1,
        "padding": 2,
        "pooling": "max",
        "pool_size": 2,
        "pool_stride": 2,
        "activation": "relu",
        "batch_norm": True,
    }
    return Block(channels=channels, **values | changes)


@pytest.fixture
def article():
    return layer_table(IMAGE, [block(16), block(32)], num_classes=10)


def test_the_article_s_layers_come_in_its_order(article):
    assert [layer.name for layer in article] == [
        "Conv 1",
        "Batch norm 1",
        "relu 1",
        "Pool 1",
        "Conv 2",
        "Batch norm 2",
        "relu 2",
        "Pool 2",
        "FC",
    ]


def test_the_article_s_volumes(article):
    volumes = {layer.name: f"{layer.input} -> {layer.output}" for layer in article}
    assert volumes["Conv 1"] == "28x28x1 -> 28x28x16"
    assert volumes["Pool 1"] == "28x28x16 -> 14x14x16"
    assert volumes["Conv 2"] == "14x14x16 -> 14x14x32"
    assert volumes["Pool 2"] == "14x14x32 -> 7x7x32"
    assert volumes["FC"] == "7x7x32 -> 1x1x10"


def test_the_article_s_parameters(article):
    parameters = {layer.name: layer.num_parameters for layer in article if layer.num_parameters}
    assert parameters == {
        "Conv 1": 5 * 5 * 1 * 16 + 16,
        "Batch norm 1": 2 * 16,
        "Conv 2": 5 * 5 * 16 * 32 + 32,
        "Batch norm 2": 2 * 32,
        "FC": 7 * 7 * 32 * 10 + 10,
    }
    assert sum(parameters.values()) == 29_034


def test_the_article_s_multiply_adds(article):
    multiply_adds = {layer.name: layer.multiply_adds for layer in article if layer.multiply_adds}
    assert multiply_adds == {
        "Conv 1": 28 * 28 * 16 * 5 * 5 * 1,
        "Conv 2": 14 * 14 * 32 * 5 * 5 * 16,
        "FC": 7 * 7 * 32 * 10,
    }


def test_without_batch_norm_its_rows_are_gone():
    layers = layer_table(IMAGE, [block(16, batch_norm=False)], num_classes=10)
    assert [layer.name for layer in layers] == ["Conv 1", "relu 1", "Pool 1", "FC"]


@given(
    size=st.integers(1, 40),
    kernel_size=st.integers(1, 9),
    stride=st.integers(1, 4),
    padding=st.integers(0, 4),
)
def test_a_convolution_s_size_is_torch_s_where_it_comes_out_whole(
    size, kernel_size, stride, padding
):
    span = size - kernel_size + 2 * padding
    if span < 0 or span % stride:
        with pytest.raises(GeometryError) as caught:
            convolution_output_size(size, kernel_size, stride, padding)
        assert f"({size} - {kernel_size} + 2*{padding})/{stride} + 1" in str(caught.value)
    else:
        image = torch.empty(1, 1, size, size, device="meta")
        kernel = torch.empty(1, 1, kernel_size, kernel_size, device="meta")
        maps = functional.conv2d(image, kernel, stride=stride, padding=padding)
        assert convolution_output_size(size, kernel_size, stride, padding) == maps.shape[-1]


@given(size=st.integers(1, 40), pool_size=st.integers(1, 9), stride=st.integers(1, 4))
def test_a_pooling_s_size_is_torch_s_where_it_comes_out_whole(size, pool_size, stride):
    if size < pool_size or (size - pool_size) % stride:
        with pytest.raises(GeometryError) as caught:
            pooling_output_size(size, pool_size, stride)
        assert f"({size} - {pool_size})/{stride} + 1" in str(caught.value)
    else:
        maps = functional.max_pool2d(
            torch.empty(1, 1, size, size, device="meta"), pool_size, stride
        )
        assert pooling_output_size(size, pool_size, stride) == maps.shape[-1]


@pytest.mark.parametrize(
    ("second_block", "message"),
    [
        ({"stride": 2}, "Conv 2: (W - F + 2P)/S + 1 = (14 - 5 + 2*2)/2 + 1 = 7.5 is not a whole"),
        ({"kernel_size": 19}, "Conv 2: (W - F + 2P)/S + 1 = (14 - 19 + 2*2)/1 + 1 leaves nothing"),
        ({"pool_size": 3}, "Pool 2: (W - F)/S + 1 = (14 - 3)/2 + 1 = 6.5 is not a whole"),
        ({"pool_size": 15}, "Pool 2: (W - F)/S + 1 = (14 - 15)/2 + 1 leaves nothing"),
    ],
)
def test_a_layer_that_does_not_fit_is_named_with_its_numbers(second_block, message):
    with pytest.raises(GeometryError) as caught:
        layer_table(IMAGE, [block(16), block(32, **second_block)], num_classes=10)
    assert str(caught.value).startswith(message)
