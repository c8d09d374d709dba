"""Sums whose bits do not depend on who adds what."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distcnn.division import even_slices
from distcnn.summation import InTurn, OverTree

SIZE = 50


def vectors_of(num_shards: int, seed: int = 0) -> list[torch.Tensor]:
    """Numbers of very different sizes, whose sum depends on the order."""
    generator = torch.Generator().manual_seed(seed)
    magnitudes = 10 ** torch.randint(-6, 7, (num_shards, SIZE), generator=generator).float()
    return list(torch.randn(num_shards, SIZE, generator=generator) * magnitudes)


def over_tree(vectors: list[torch.Tensor], num_workers: int) -> torch.Tensor:
    """The sum as so many workers come to it."""
    summation = OverTree(len(vectors), num_workers)
    rows: list[torch.Tensor] = []
    for rank, own in enumerate(even_slices(len(vectors), num_workers)):
        mine = summation.add_own(rank, iter(vectors[own]))
        assert len(mine) == summation.num_rows[rank]
        rows += mine
    return summation.add_all(rows)


def balanced(vectors: list[torch.Tensor]) -> torch.Tensor:
    """The tree, written out."""
    if len(vectors) == 1:
        return vectors[0]
    middle = len(vectors) // 2
    return balanced(vectors[:middle]) + balanced(vectors[middle:])


@given(
    num_shards=st.integers(1, 70),
    num_workers=st.integers(1, 70),
    seed=st.integers(0, 99),
)
def test_any_number_of_workers_has_the_bits_of_one(
    num_shards: int, num_workers: int, seed: int
) -> None:
    vectors = vectors_of(num_shards, seed)
    total = over_tree(vectors, min(num_workers, num_shards))
    assert torch.equal(total, over_tree(vectors, 1))
    assert torch.allclose(total.double(), torch.stack(vectors).double().sum(0), rtol=1e-3, atol=10)


@given(num_shards=st.integers(1, 20))
def test_the_tree_is_balanced(num_shards: int) -> None:
    vectors = vectors_of(num_shards)
    assert torch.equal(over_tree(vectors, 1), balanced(vectors))


def test_other_orders_have_other_bits() -> None:
    """Else the tests above would show nothing."""
    vectors = vectors_of(8)
    total = over_tree(vectors, 3)
    in_turn = InTurn(8).add_all(vectors)
    exchanged = over_tree([vectors[2], vectors[1], vectors[0], *vectors[3:]], 3)
    for other in (in_turn, exchanged):
        assert not torch.equal(other, total)


@pytest.mark.parametrize(
    ("num_shards", "num_workers", "num_rows"),
    [
        (8, 1, [1]),
        (8, 2, [1, 1]),
        (8, 4, [1] * 4),
        (8, 8, [1] * 8),
        (4, 3, [1, 1, 1]),
        (8, 3, [2, 2, 1]),
        (6, 2, [1, 1]),
    ],
)
def test_workers_are_left_with_the_subtrees_that_they_have_whole(
    num_shards: int, num_workers: int, num_rows: list[int]
) -> None:
    assert OverTree(num_shards, num_workers).num_rows == num_rows


@given(num_shards=st.integers(2, 5000), num_workers=st.integers(2, 1024))
def test_there_are_few_of_them(num_shards: int, num_workers: int) -> None:
    num_workers = min(num_shards, num_workers)
    longest = -(-num_shards // num_workers)
    assert max(OverTree(num_shards, num_workers).num_rows) <= 2 * longest.bit_length()
