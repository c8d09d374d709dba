"""In which order vectors are added up: sums of floating-point numbers depend on it.

A worker first adds up what it can alone, to a few rows; then each adds up the rows of all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Protocol

import torch

from distcnn.division import even_slices

Span = tuple[int, int]
"""Consecutive shards: the first one, and the one after the last."""


class Summation(Protocol):
    """One order."""

    @property
    def num_rows(self) -> list[int]:
        """How many rows each worker is left with, by rank."""
        ...

    def add_own(self, rank: int, vectors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
        """The rows of a worker, by the vectors that it has, each taken when it is needed."""
        ...

    def add_all(self, rows: Iterable[torch.Tensor]) -> torch.Tensor:
        """The sum, by the rows of all workers in the order of their ranks."""
        ...


class InTurn:
    """One vector of each worker, from the first to the last."""

    def __init__(self, num_workers: int) -> None:
        self.num_rows = [1] * num_workers

    def add_own(self, rank: int, vectors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
        """There is nothing to add."""
        [vector] = vectors
        return [vector]

    def add_all(self, rows: Iterable[torch.Tensor]) -> torch.Tensor:
        """The sum."""
        first, second, *others = rows
        total = first + second
        for row in others:
            total += row
        return total


class OverTree:
    """One vector of each shard, by a balanced tree over all shards, whoever has which.

    The workers have consecutive shards, in the order of their ranks. What a worker can add alone
    are the subtrees that it has whole; the tree above them is added by all. So every addition is of
    the same two vectors, whatever the number of workers, and the sum has the same bits.
    """

    def __init__(self, num_shards: int, num_workers: int) -> None:
        self._num_shards = num_shards
        self._roots = [
            list(_roots((own.start, own.stop), (0, num_shards)))
            for own in even_slices(num_shards, num_workers)
        ]
        self.num_rows = [len(roots) for roots in self._roots]

    def add_own(self, rank: int, vectors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
        """The sums of the largest subtrees that a worker has whole."""
        leaves = {(shard, shard + 1) for shard in range(self._num_shards)}
        in_order = iter(vectors)
        return [_add(root, leaves, in_order) for root in self._roots[rank]]

    def add_all(self, rows: Iterable[torch.Tensor]) -> torch.Tensor:
        """The sum of the whole tree."""
        leaves = {root for roots in self._roots for root in roots}
        return _add((0, self._num_shards), leaves, iter(rows))


def _roots(span: Span, tree: Span) -> Iterator[Span]:
    """The largest subtrees of a tree that lie within a span, from left to right."""
    if span[0] <= tree[0] and tree[1] <= span[1]:
        yield tree
    elif tree[0] < span[1] and span[0] < tree[1]:
        for half in _halves(tree):
            yield from _roots(span, half)


def _add(tree: Span, leaves: Collection[Span], vectors: Iterator[torch.Tensor]) -> torch.Tensor:
    """The sum of a tree, whose leaves' vectors come from left to right."""
    if tree in leaves:
        return next(vectors)
    left, right = _halves(tree)
    total = _add(left, leaves, vectors)
    return total + _add(right, leaves, vectors)


def _halves(tree: Span) -> tuple[Span, Span]:
    first, last = tree
    middle = (first + last) // 2
    return (first, middle), (middle, last)
