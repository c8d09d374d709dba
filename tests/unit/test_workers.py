"""Workers stop together, and one that is alone needs nobody."""

from __future__ import annotations

import torch

from distcnn.collectives import GroupCollectives
from distcnn.summation import InTurn
from distcnn.workers import Workers
from tests.worker_processes import WorkerProcesses

NUM_CALLS = 4


def answers(rank: int, count: int, who: int, at_call: int) -> tuple[list[bool], list[torch.Tensor]]:
    """Whether the workers have agreed to stop, after each of some sums; and the last sums."""
    workers = Workers(rank, count, GroupCollectives())
    agreed = [workers.agree_to_stop()]
    sums: list[torch.Tensor] = []
    for call in range(NUM_CALLS):
        if (rank, call) == (who, at_call):
            workers.wish_to_stop()
        sums = workers.add_up([[torch.full((2, 3), float(rank)), torch.tensor(1.0)]], InTurn(count))
        agreed.append(workers.agree_to_stop())
    return agreed, sums


def test_a_wish_of_any_worker_is_agreed_on_by_all_at_the_same_call(group: WorkerProcesses) -> None:
    for who in range(group.count):
        at_call = who % (NUM_CALLS - 1) + 1
        expected = [False] * (at_call + 1) + [True] * (NUM_CALLS - at_call)
        for agreed, _ in group.call(answers, who, at_call):
            assert agreed == expected


def test_without_a_wish_nobody_stops_and_the_sums_are_in_their_shapes(
    group: WorkerProcesses,
) -> None:
    for agreed, (matrix, scalar) in group.call(answers, -1, -1):
        assert not any(agreed)
        assert torch.equal(matrix, torch.full((2, 3), float(sum(range(group.count)))))
        assert torch.equal(scalar, torch.tensor(float(group.count)))


def told_without_a_step(rank: int, count: int, way: type, who: int) -> list[bool]:
    """Whether the workers agree to stop between two steps: before the wish is told, and after."""
    workers = Workers(rank, count, way())
    workers.add_up([[torch.ones(1000)]], InTurn(count))
    if rank == who:
        workers.wish_to_stop()
    before = workers.agree_to_stop()
    workers.tell_wishes(torch.device("cpu"))
    after = workers.agree_to_stop()
    workers.add_up([[torch.ones(1000)]], InTurn(count))
    return [before, after, workers.agree_to_stop()]


def test_a_wish_is_told_between_two_steps_too(group: WorkerProcesses) -> None:
    for who in (*range(group.count), -1):
        for seen in group.call(told_without_a_step, GroupCollectives, who):
            assert seen == [False, who >= 0, who >= 0]


def test_a_worker_that_is_alone_needs_nobody() -> None:
    workers = Workers()
    rows = torch.rand(4, 2)
    assert workers.is_first
    assert workers.gather(rows) is rows
    assert torch.equal(workers.add_up([[rows]], InTurn(1))[0], rows)
    assert workers.broadcast(b"content") == b"content"
    assert not workers.agree_to_stop()
    workers.wish_to_stop()
    assert workers.agree_to_stop()
