"""What workers do together comes out alike on all of them, whatever joins them."""

from __future__ import annotations

import gc
import os
from functools import reduce
from operator import add
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distcnn import collectives
from distcnn.collectives import GroupCollectives, HostCollectives, PeerError, host_memory_works
from distcnn.summation import InTurn
from tests.worker_processes import WorkerProcesses, fresh_store, join, pids_of

needs_memory = pytest.mark.skipif(
    not host_memory_works(), reason="no memory to share on this system"
)
WAYS = [GroupCollectives, *([HostCollectives] if host_memory_works() else [])]
NUM_CALLS = 20


def vector_of(rank: int, call: int, size: int, seed: int) -> torch.Tensor:
    """Numbers of very different sizes, whose sum depends on the order."""
    generator = torch.Generator().manual_seed(seed + 1000 * call + rank)
    magnitudes = 10 ** torch.randint(-6, 7, (size,), generator=generator).float()
    return torch.randn(size, generator=generator) * magnitudes


def sum_in_turn(count: int, call: int, size: int, seed: int) -> torch.Tensor:
    return reduce(add, [vector_of(rank, call, size, seed) for rank in range(count)])


def rows_of(rank: int, num_rows: int) -> torch.Tensor:
    return torch.randn(num_rows, 3, generator=torch.Generator().manual_seed(rank))


def labels_of(rank: int, num_rows: int) -> torch.Tensor:
    return torch.arange(num_rows) + 100 * rank


def gather(rank: int, count: int, way: type, sizes: list[int]) -> list[torch.Tensor]:
    together = join(way, rank, count)
    mine = rows_of(rank, sizes[rank]), labels_of(rank, sizes[rank])
    return [together.gather(rows) for rows in mine]


def broadcast(rank: int, count: int, way: type, content: bytes | None) -> bytes | None:
    together = join(way, rank, count)
    return together.broadcast(content if rank == 0 else b"of no interest")


def add_up(rank: int, count: int, way: type, size: int, seed: int) -> list[torch.Tensor]:
    together = join(way, rank, count)
    vectors = [vector_of(rank, call, size, seed) for call in range(NUM_CALLS)]
    return [together.add_up([vector], InTurn(count)).clone() for vector in vectors]


def use_and_drop(rank: int, count: int) -> list[str]:
    """What of the shared memory is still mapped or open once all have parted."""
    together = join(HostCollectives, rank, count)
    together.add_up([torch.ones(1000)], InTurn(count))
    together.gather(torch.ones(10))
    together.close()
    del together
    gc.collect()
    mapped = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    # The folder itself is open while it is listed, and no more afterwards.
    links = [link for link in Path("/proc/self/fd").iterdir() if os.path.lexists(link)]
    opened = [str(link.readlink()) for link in links]
    return [line for line in mapped + opened if "memfd:distcnn" in line]


def can_share(rank: int, count: int, odd_one: int | None) -> bool:
    """Whether all say that they can; `odd_one` runs where it is not known to work."""
    works = collectives.host_memory_works
    if rank == odd_one:
        collectives.host_memory_works = lambda: False
    try:
        return HostCollectives(fresh_store(), rank, pids_of(count)).can_share()
    finally:
        collectives.host_memory_works = works


def wait_for_the_last(rank: int, count: int) -> str:
    """All but the last worker add up; what they are told after a while."""
    together = join(HostCollectives, rank, count)
    together.add_up([torch.ones(10)], InTurn(count))
    if rank == count - 1:
        return ""
    patience, collectives.TIMEOUT_SECONDS = collectives.TIMEOUT_SECONDS, 0.5
    try:
        together.add_up([torch.ones(10)], InTurn(count))
    except PeerError as error:
        return str(error)
    finally:
        collectives.TIMEOUT_SECONDS = patience
    return "no error"


def say_and_hear(rank: int, count: int, said: str) -> str:
    """The first one reads what the others show, who say that it is under `said`."""
    store = fresh_store()
    together = HostCollectives(store, rank, pids_of(count))
    if rank == 0:
        try:
            together.broadcast(b"content")
        except PeerError as error:
            return str(error)
        return "no error"
    store.set(f"1/{rank}", said)
    store.get("1/0")
    return ""


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


@needs_memory
def test_shared_memory_leaves_nothing_behind(group: WorkerProcesses) -> None:
    assert group.call(use_and_drop) == [[]] * group.count


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_rows_are_gathered_in_the_order_of_ranks(
    group: WorkerProcesses, way: type, data: st.DataObject
) -> None:
    sizes = data.draw(st.lists(st.integers(0, 5), min_size=group.count, max_size=group.count))
    for rows, labels in group.call(gather, way, sizes):
        assert torch.equal(rows, torch.cat([rows_of(*pair) for pair in enumerate(sizes)]))
        assert torch.equal(labels, torch.cat([labels_of(*pair) for pair in enumerate(sizes)]))


@pytest.mark.parametrize("way", WAYS)
def test_nothing_at_all_can_be_gathered(group: WorkerProcesses, way: type) -> None:
    for rows, labels in group.call(gather, way, [0] * group.count):
        assert (rows.shape, labels.shape) == ((0, 3), (0,))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("content", [None, b"", bytes(range(256)) * 5000])
def test_the_first_worker_s_content_reaches_all(
    group: WorkerProcesses, way: type, content: bytes | None
) -> None:
    assert group.call(broadcast, way, content) == [content] * group.count


@needs_memory
@pytest.mark.parametrize("odd_one", [None, 0, 1])
def test_workers_agree_whether_they_can_share_memory(
    group: WorkerProcesses, odd_one: int | None
) -> None:
    assert group.call(can_share, odd_one) == [odd_one is None] * group.count


@needs_memory
def test_a_worker_that_takes_no_part_is_named(group: WorkerProcesses) -> None:
    *waiting, _ = group.call(wait_for_the_last)
    for told in waiting:
        assert f"worker {group.count - 1} has not taken part for 0 s: it is stuck" in told


@needs_memory
@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("100000", "is gone, with its memory"),  # It died after it had said so.
        ("../../etc/passwd", "is gone, with its memory"),
        ("1", "is not memory of a worker"),  # Its own standard output, or a file of the user's.
    ],
)
def test_only_memory_of_living_workers_is_opened(
    group: WorkerProcesses, said: str, told: str
) -> None:
    assert told in group.call(say_and_hear, said)[0]
