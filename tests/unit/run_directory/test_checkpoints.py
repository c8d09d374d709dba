"""Checkpoints: committed whole, kept as promised, out of a late writer's reach."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distcnn.files import TEMPORARY_PREFIX, write_atomically
from distcnn.location import Location
from distcnn.run_directory.checkpoints import (
    CheckpointDamagedError,
    CheckpointRecord,
    CheckpointWriter,
    best,
    read_checkpoint,
    read_index,
)
from distcnn.run_directory.lease import Lease, LeaseLostError

# (step, validation accuracy or None in the middle of an epoch), in growing steps.
Commit = tuple[int, float | None]
COMMITS = st.lists(
    st.tuples(st.integers(1, 3), st.none() | st.sampled_from([0.1, 0.5, 0.5, 0.9])), max_size=12
)


@pytest.fixture
def lease(place: Location) -> Iterator[Lease]:
    lease = Lease.acquire(place / "lease", print)
    yield lease
    lease.release()


def commit(writer: CheckpointWriter, step: int, accuracy: float | None = None) -> CheckpointRecord:
    return writer.commit(
        f"content of {step}".encode(),
        epoch=step // 10,
        step=step,
        weights_sha256="",
        val_accuracy=accuracy,
    )


def test_what_is_committed_is_read_back(place: Location, lease: Lease) -> None:
    writer = CheckpointWriter(place / "checkpoints", lease.fence, num_kept=2)
    record = commit(writer, 7)
    assert read_index(place / "checkpoints") == [record]
    content = read_checkpoint(place / "checkpoints", record)
    assert content == b"content of 7"
    assert record.sha256 == hashlib.sha256(content).hexdigest()


@given(commits=COMMITS, num_kept=st.integers(1, 3))
def test_the_newest_and_the_best_are_kept(
    tmp_path_factory: pytest.TempPathFactory, commits: list[Commit], num_kept: int
) -> None:
    directory = tmp_path_factory.mktemp("run")
    lease = Lease.acquire(directory / "lease", print)
    writer = CheckpointWriter(directory / "checkpoints", lease.fence, num_kept)
    done: list[CheckpointRecord] = []
    step = 0
    for gap, accuracy in commits:
        step += gap
        done.append(commit(writer, step, accuracy))
        kept = read_index(directory / "checkpoints")
        assert kept[-num_kept:] == done[-num_kept:]
        assert best(kept) == best(done)
        assert len(kept) <= num_kept + 1
        files = {path.name for path in (directory / "checkpoints").glob("step-*")}
        assert files == {record.file for record in kept}
    lease.release()


def test_of_equally_good_ones_the_earliest_is_best(place: Location, lease: Lease) -> None:
    writer = CheckpointWriter(place / "checkpoints", lease.fence, num_kept=5)
    for step, accuracy in ((10, 0.5), (20, 0.9), (25, None), (30, 0.9)):
        commit(writer, step, accuracy)
    chosen = best(writer.records)
    assert chosen is not None
    assert chosen.step == 20


def test_the_next_attempt_inherits_and_clears(place: Location) -> None:
    directory = place / "checkpoints"
    first = Lease.acquire(place / "lease", print)
    kept = commit(CheckpointWriter(directory, first.fence, num_kept=2), 10, 0.5)
    first.release()
    write_atomically(directory / f"{TEMPORARY_PREFIX}torn", b"half")
    write_atomically(directory / "step-000000099-attempt-000001.safetensors", b"never committed")
    second = Lease.acquire(place / "lease", print)
    writer = CheckpointWriter(directory, second.fence, num_kept=2)
    assert writer.records == [kept]
    assert {path.name for path in directory.iterdir()} == {
        kept.file,
        "index-000001.json",
        "index-000002.json",
    }
    second.release()


def test_a_writer_that_was_taken_for_dead_changes_nothing(place: Location) -> None:
    """Even where its last check came just before the run was taken over."""
    directory = place / "checkpoints"
    early = Lease.acquire(place / "lease", print)
    early_writer = CheckpointWriter(directory, early.fence, num_kept=1)
    commit(early_writer, 10, 0.5)
    early.release()
    late = Lease.acquire(place / "lease", print)
    late_writer = CheckpointWriter(directory, late.fence, num_kept=1)
    before = read_index(directory)
    with pytest.raises(LeaseLostError):
        commit(early_writer, 20, 0.9)
    # Past its own check by a hair, it would write this: the index of its own attempt.
    write_atomically(directory / "index-000001.json", b"[]")
    assert read_index(directory) == before
    commit(late_writer, 20, 0.6)
    assert [record.attempt for record in read_index(directory)] == [2]
    late.release()


@pytest.mark.parametrize("damage", ["missing", "altered", "truncated"])
def test_damage_is_named(place: Location, lease: Lease, damage: str) -> None:
    directory = place / "checkpoints"
    record = commit(CheckpointWriter(directory, lease.fence, num_kept=1), 10)
    path = directory / record.file
    if damage == "missing":
        path.unlink()
    else:
        write_atomically(path, b"x" if damage == "truncated" else b"Content of 10")
    with pytest.raises(CheckpointDamagedError, match=record.file):
        read_checkpoint(directory, record)
