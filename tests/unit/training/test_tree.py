"""A workload's state comes back bit for bit, or what cannot be kept is named."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distcnn.errors import UserError
from distcnn.training.snapshot import Counters
from distcnn.training.tree import TreeSnapshot

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
)
STATES = st.recursive(
    LEAVES,
    lambda inside: (
        st.lists(inside, max_size=3)
        | st.lists(inside, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers(0, 9), inside, max_size=3)
    ),
    max_leaves=12,
)


def restored(state: dict[str, Any]) -> dict[str, Any]:
    return TreeSnapshot.decode(TreeSnapshot(Counters(), state).encode({})).state


@given(STATES)
def test_plain_values_come_back(state: Any):
    assert restored({"state": state}) == {"state": state}


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.bfloat16, torch.int8, torch.bool, torch.complex64]
)
def test_tensors_come_back_with_their_bits_and_their_own_memory(dtype: torch.dtype):
    tensor = torch.arange(12).reshape(3, 4).to(dtype)
    back = restored({"whole": tensor, "part": tensor.T[1:], "none": tensor[:0]})
    assert back["whole"].equal(tensor)
    assert back["part"].equal(tensor.T[1:])
    assert back["none"].shape == (0, 4)
    assert {part.dtype for part in back.values()} == {dtype}


def test_a_dict_of_another_kind_comes_back_as_a_dict():
    assert type(restored({"ordered": OrderedDict(a=1)})["ordered"]) is dict


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (object(), r"hyper\.made is of type object"),
        (torch.eye(3).to_sparse(), r"hyper\.made is a tensor of layout torch.sparse_coo"),
        ({1, 2}, r"hyper\.made is of type set"),
    ],
)
def test_what_cannot_be_kept_is_named(value: Any, told: str):
    with pytest.raises(UserError, match=told):
        restored({"hyper": {"made": value}})


def test_a_hyperparameter_that_cannot_be_kept_is_told_with_what_to_type():
    with pytest.raises(UserError, match=r'save_hyperparameters\(ignore=\["config"\]\)'):
        restored({"hyper_parameters": {"config": object()}})
