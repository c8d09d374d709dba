"""What workers say to each other arrives whole, in order, and alike on all."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distcnn.vector_sum import choose
from distcnn.workers import Workers
from tests.worker_processes import WorkerProcesses

NUM_CALLS = 4


@pytest.fixture(scope="module", params=[2, 3, 4])
def group(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WorkerProcesses]:
    with WorkerProcesses(request.param, tmp_path_factory.mktemp("group")) as group:
        yield group


def rows_of(rank: int, num_rows: int) -> torch.Tensor:
    return torch.randn(num_rows, 3, generator=torch.Generator().manual_seed(rank))


def labels_of(rank: int, num_rows: int) -> torch.Tensor:
    return torch.arange(num_rows) + 100 * rank


def gather(rank: int, count: int, sizes: list[int]) -> list[torch.Tensor]:
    workers = Workers(rank, count)
    mine = rows_of(rank, sizes[rank]), labels_of(rank, sizes[rank])
    return [workers.gather(rows) for rows in mine]


def broadcast(rank: int, count: int, content: bytes | None) -> bytes | None:
    return Workers(rank, count).broadcast(content if rank == 0 else b"of no interest")


def answers(
    rank: int, count: int, who: int, at_call: int, share_memory: bool
) -> tuple[list[bool], list[torch.Tensor]]:
    """Whether the workers have agreed to stop, after each of some sums; and the last sums."""
    workers = Workers(rank, count, choose(count, share_memory=share_memory))
    agreed = [workers.agree_to_stop()]
    sums: list[torch.Tensor] = []
    for call in range(NUM_CALLS):
        if (rank, call) == (who, at_call):
            workers.wish_to_stop()
        sums = workers.add_up([torch.full((2, 3), float(rank)), torch.tensor(1.0)])
        agreed.append(workers.agree_to_stop())
    return agreed, sums


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_rows_are_gathered_in_the_order_of_ranks(
    group: WorkerProcesses, data: st.DataObject
) -> None:
    sizes = data.draw(st.lists(st.integers(0, 5), min_size=group.count, max_size=group.count))
    for rows, labels in group.call(gather, sizes):
        assert torch.equal(rows, torch.cat([rows_of(*pair) for pair in enumerate(sizes)]))
        assert torch.equal(labels, torch.cat([labels_of(*pair) for pair in enumerate(sizes)]))


def test_nothing_at_all_can_be_gathered(group: WorkerProcesses) -> None:
    for rows, labels in group.call(gather, [0] * group.count):
        assert (rows.shape, labels.shape) == ((0, 3), (0,))


@pytest.mark.parametrize("content", [None, b"", bytes(range(256)) * 5000])
def test_the_first_worker_s_content_reaches_all(
    group: WorkerProcesses, content: bytes | None
) -> None:
    assert group.call(broadcast, content) == [content] * group.count


@pytest.mark.parametrize("share_memory", [False, True])
def test_a_wish_of_any_worker_is_agreed_on_by_all_at_the_same_call(
    group: WorkerProcesses, share_memory: bool
) -> None:
    for who in range(group.count):
        at_call = who % (NUM_CALLS - 1) + 1
        expected = [False] * (at_call + 1) + [True] * (NUM_CALLS - at_call)
        for agreed, _ in group.call(answers, who, at_call, share_memory):
            assert agreed == expected


def test_without_a_wish_nobody_stops_and_the_sums_are_in_their_shapes(
    group: WorkerProcesses,
) -> None:
    for agreed, (matrix, scalar) in group.call(answers, -1, -1, True):
        assert not any(agreed)
        assert torch.equal(matrix, torch.full((2, 3), float(sum(range(group.count)))))
        assert torch.equal(scalar, torch.tensor(float(group.count)))


def test_a_worker_that_is_alone_needs_nobody() -> None:
    workers = Workers()
    rows = torch.rand(4, 2)
    assert workers.is_first
    assert workers.gather(rows) is rows
    assert workers.add_up([rows]) == [rows]
    assert workers.broadcast(b"content") == b"content"
    assert not workers.agree_to_stop()
    workers.wish_to_stop()
    assert workers.agree_to_stop()
