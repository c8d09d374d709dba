"""Workers add up in the order of their ranks, whatever joins them: the same bits on each."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from functools import reduce
from operator import add
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distcnn.vector_sum import ProcessGroupSum, SharedMemorySum, choose, shared_memory_works
from tests.worker_processes import WorkerProcesses

WAYS = [ProcessGroupSum, *([SharedMemorySum] if shared_memory_works() else [])]
NUM_CALLS = 20


@pytest.fixture(scope="module", params=[2, 3, 4])
def group(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WorkerProcesses]:
    with WorkerProcesses(request.param, tmp_path_factory.mktemp("group")) as group:
        yield group


def vector_of(rank: int, call: int, size: int, seed: int) -> torch.Tensor:
    """Numbers of very different sizes, whose sum depends on the order."""
    generator = torch.Generator().manual_seed(seed + 1000 * call + rank)
    magnitudes = 10 ** torch.randint(-6, 7, (size,), generator=generator).float()
    return torch.randn(size, generator=generator) * magnitudes


def sum_in_turn(count: int, call: int, size: int, seed: int) -> torch.Tensor:
    return reduce(add, [vector_of(rank, call, size, seed) for rank in range(count)])


def add_up(rank: int, count: int, way: type, size: int, seed: int) -> list[torch.Tensor]:
    vector_sum = way(count)
    return [vector_sum(vector_of(rank, call, size, seed)).clone() for call in range(NUM_CALLS)]


def use_and_drop(rank: int, count: int) -> list[str]:
    """What of the shared memory is still mapped or open once the sum is forgotten."""
    SharedMemorySum(count)(torch.ones(1000))
    gc.collect()
    mapped = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    # The folder itself is open while it is listed, and no more afterwards.
    links = [link for link in Path("/proc/self/fd").iterdir() if os.path.lexists(link)]
    opened = [str(link.readlink()) for link in links]
    return [line for line in mapped + opened if "memfd:distcnn" in line]


def chosen(rank: int, count: int, share_memory: bool) -> str:
    return type(choose(count, share_memory=share_memory)).__name__


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.equal(one.view(torch.int32), other.view(torch.int32))


@pytest.mark.parametrize("way", WAYS)
# The processes are the same for all examples; each makes sums of its own.
@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    size=st.sampled_from([1, 2, 3, 5, 1023, 4097]) | st.integers(1, 3000), seed=st.integers(0, 9)
)
def test_every_worker_has_the_sum_in_the_order_of_ranks(
    group: WorkerProcesses, way: type, size: int, seed: int
) -> None:
    expected = [sum_in_turn(group.count, call, size, seed) for call in range(NUM_CALLS)]
    for sums in group.call(add_up, way, size, seed):
        assert all(map(same_bits, sums, expected))


def test_the_order_matters_for_these_numbers() -> None:
    """Else the test above would show nothing."""
    vectors = [vector_of(rank, 0, 1000, 0) for rank in range(3)]
    assert not same_bits(reduce(add, vectors), reduce(add, reversed(vectors)))


@pytest.mark.skipif(not shared_memory_works(), reason="no memory to share on this system")
def test_shared_memory_leaves_nothing_behind(group: WorkerProcesses) -> None:
    assert group.call(use_and_drop) == [[]] * group.count


def test_memory_is_shared_only_where_it_is_said_to_be(group: WorkerProcesses) -> None:
    shared = "SharedMemorySum" if shared_memory_works() else "ProcessGroupSum"
    assert set(group.call(chosen, True)) == {shared}
    assert set(group.call(chosen, False)) == {"ProcessGroupSum"}
