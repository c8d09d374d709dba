"""Checkpoints: committed whole, kept as promised, out of a late writer's reach."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distcnn.files import TEMPORARY_PREFIX, write_atomically
from distcnn.location import Location
from distcnn.run_directory.checkpoint_index import (
    CheckpointDamagedError,
    CheckpointName,
    CheckpointRecord,
    OldCheckpointsError,
    header_metadata,
    latest_attempt,
)
from distcnn.run_directory.checkpoints import (
    CheckpointsLostError,
    CheckpointWriter,
    best,
    discard_checkpoints,
    read_checkpoint,
    read_checkpoints,
)
from distcnn.run_directory.lease import Lease, LeaseLostError
from tests.checkpoints import commit, holding, text_of

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


@pytest.fixture
def attempt(place: Location) -> Iterator[Callable[[], CheckpointWriter]]:
    """Begins the next attempt at a run and returns its writer."""
    leases: list[Lease] = []

    def begin() -> CheckpointWriter:
        if leases:
            leases[-1].release()
        directory = place / "checkpoints"
        leases.append(
            Lease.acquire(place / "lease", print, after_attempt=latest_attempt(directory))
        )
        return CheckpointWriter(directory, leases[-1].fence, num_kept=2)

    yield begin
    leases[-1].release()


def files(directory: Location) -> set[str]:
    return {path.name for path in directory.glob("step-*")}


def test_a_committed_checkpoint_is_read_back(place: Location, lease: Lease) -> None:
    writer = CheckpointWriter(place / "checkpoints", lease.fence, num_kept=2)
    record = commit(writer, 7)
    assert read_checkpoints(place / "checkpoints") == [record]
    content = read_checkpoint(place / "checkpoints", record)
    assert text_of(place / "checkpoints", record) == "content of 7"
    assert record.sha256 == hashlib.sha256(content).hexdigest()
    assert record.sha256[:16] in record.file


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
        kept = read_checkpoints(directory / "checkpoints")
        assert kept[-num_kept:] == done[-num_kept:]
        assert best(kept) == best(done)
        assert len(kept) <= num_kept + 1
        assert files(directory / "checkpoints") == {record.file for record in kept}
    lease.release()


def test_of_equally_good_ones_the_earliest_is_best(place: Location, lease: Lease) -> None:
    writer = CheckpointWriter(place / "checkpoints", lease.fence, num_kept=5)
    for step, accuracy in ((10, 0.5), (20, 0.9), (25, None), (30, 0.9)):
        commit(writer, step, accuracy)
    chosen = best(writer.records)
    assert chosen is not None
    assert chosen.step == 20


def test_a_step_that_is_committed_again_is_replaced(place: Location, lease: Lease) -> None:
    """As when a run is asked to save in the last step of an epoch."""
    directory = place / "checkpoints"
    writer = CheckpointWriter(directory, lease.fence, num_kept=2)
    commit(writer, 10)
    validated = commit(writer, 10, 0.5)
    assert writer.records == [validated]
    assert files(directory) == {validated.file}


def test_the_next_attempt_takes_over_and_clears(
    place: Location, attempt: Callable[[], CheckpointWriter]
) -> None:
    directory = place / "checkpoints"
    kept = commit(attempt(), 10, 0.5)
    write_atomically(directory / f"{TEMPORARY_PREFIX}torn", b"half")
    assert attempt().records == [kept]
    assert {path.name for path in directory.iterdir()} == {
        kept.file,
        "index-000001.json",
        "index-000002.json",
    }


def test_a_writer_that_was_taken_for_dead_changes_nothing(place: Location) -> None:
    """Even if its last check came just before the run was taken over."""
    directory = place / "checkpoints"
    early = Lease.acquire(place / "lease", print)
    early_writer = CheckpointWriter(directory, early.fence, num_kept=1)
    commit(early_writer, 10, 0.5)
    early.release()
    late = Lease.acquire(place / "lease", print)
    late_writer = CheckpointWriter(directory, late.fence, num_kept=1)
    before = read_checkpoints(directory)
    with pytest.raises(LeaseLostError):
        commit(early_writer, 20, 0.9)
    # Past its own check by a hair, it would write these: a checkpoint and the index of its attempt.
    write_late(directory, 20, 0.99)
    write_atomically(directory / "index-000001.json", b"[]")
    assert read_checkpoints(directory) == before
    commit(late_writer, 25, 0.6)
    assert [record.attempt for record in read_checkpoints(directory)] == [2]
    late.release()
    third = Lease.acquire(place / "lease", print)
    writer = CheckpointWriter(directory, third.fence, num_kept=1)
    assert [(record.step, record.attempt) for record in writer.records] == [(25, 2)]
    assert writer.problems == []
    third.release()


def write_late(directory: Location, step: int, accuracy: float) -> None:
    """Write a checkpoint of attempt 1, as its writer does when it has just passed its check."""
    metadata = header_metadata(epoch=1, step=step, weights_sha256="", val_accuracy=accuracy)
    content = holding("late")(metadata)
    name = CheckpointName.of(step, 1, hashlib.sha256(content).hexdigest())
    write_atomically(directory / str(name), content)


def test_a_writer_that_was_taken_for_dead_changes_nothing_before_the_first_commit(
    place: Location, attempt: Callable[[], CheckpointWriter]
) -> None:
    directory = place / "checkpoints"
    attempt()
    attempt()
    write_late(directory, 10, 0.99)
    assert read_checkpoints(directory) == []
    writer = attempt()
    assert (writer.records, writer.problems) == ([], [])


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


# What may happen to an index, and to the claims of a run.


def _flip_accuracy(directory: Location) -> None:
    path = directory / "index-000002.json"
    write_atomically(path, path.read_bytes().replace(b"0.9", b"0.1"))


def _lose_the_index(directory: Location) -> None:
    (directory / "index-000002.json").unlink()


def _lose_all_indexes(directory: Location) -> None:
    for path in list(directory.glob("index-*")):
        path.unlink()


def _put(content: bytes) -> Callable[[Location], None]:
    return lambda directory: write_atomically(directory / "index-000002.json", content)


MISHAPS: dict[str, Callable[[Location], None]] = {
    "an empty list": _put(b"[]"),
    "an empty object": _put(b"{}"),
    "an empty file": _put(b""),
    "no JSON": _put(b"{"),
    "not even text": _put(b"\xff\xfe\x00"),
    "deep nesting": _put(b"[" * 100_000),
    "an accuracy changed": _flip_accuracy,
    "the newest lost": _lose_the_index,
    "all lost": _lose_all_indexes,
}


@pytest.mark.parametrize("mishap", MISHAPS)
def test_an_index_is_rebuilt_from_the_checkpoints(
    mishap: str, place: Location, attempt: Callable[[], CheckpointWriter]
) -> None:
    directory = place / "checkpoints"
    writer = attempt()
    for step, accuracy in ((10, 0.9), (20, 0.5)):
        commit(writer, step, accuracy)
    writer = attempt()
    for step, accuracy in ((30, 0.6), (35, None)):
        commit(writer, step, accuracy)
    before = writer.records
    assert [record.step for record in before] == [10, 30, 35]
    MISHAPS[mishap](directory)
    assert read_checkpoints(directory) == before
    writer = attempt()
    assert writer.records == before
    assert bool(writer.problems) == ("lost" not in mishap)
    assert files(directory) == {record.file for record in before}
    assert commit(writer, 40, 0.7).attempt == 3
    assert [record.step for record in read_checkpoints(directory)] == [10, 35, 40]


def test_an_index_from_a_backup_does_not_hide_what_came_after(
    place: Location, attempt: Callable[[], CheckpointWriter]
) -> None:
    directory = place / "checkpoints"
    writer = attempt()
    commit(writer, 10, 0.5)
    backup = (directory / "index-000001.json").read_bytes()
    for step, accuracy in ((20, 0.6), (30, 0.7)):
        commit(writer, step, accuracy)
    write_atomically(directory / "index-000001.json", backup)
    writer = attempt()
    assert [record.step for record in writer.records] == [20, 30]
    assert len(writer.problems) == 1, "the first one, which was pruned after the backup"


def test_a_checkpoint_from_a_backup_is_taken_up(
    place: Location, attempt: Callable[[], CheckpointWriter]
) -> None:
    directory = place / "checkpoints"
    writer = attempt()
    best_record = commit(writer, 10, 0.9)
    commit(writer, 20, 0.5)
    path = directory / best_record.file
    content = path.read_bytes()
    write_atomically(path, content[:-1])
    writer = attempt()
    assert [record.step for record in writer.records] == [20]
    assert path.exists(), "what is damaged may still be of use to its owner"
    commit(writer, 30, 0.6)
    write_atomically(path, content)
    assert [record.step for record in attempt().records] == [10, 20, 30]


def test_a_damaged_checkpoint_is_reported_once(
    place: Location, attempt: Callable[[], CheckpointWriter]
) -> None:
    directory = place / "checkpoints"
    writer = attempt()
    commit(writer, 10, 0.9)
    damaged = commit(writer, 20, 0.5)
    write_atomically(directory / damaged.file, b"rubbish")
    [problem] = attempt().problems
    assert damaged.file in problem
    assert attempt().problems == []
    # Restored, it is newer than the rows of `metrics.csv`, so the run does not jump to it.
    commit(attempt(), 15, 0.6)
    path = directory / damaged.file
    write_atomically(path, holding("content of 20")({}))
    assert [record.step for record in attempt().records] == [10, 15]
    assert path.exists()


def test_what_a_kill_kept_from_being_deleted_is_deleted_later(
    place: Location, attempt: Callable[[], CheckpointWriter], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = place / "checkpoints"
    writer = attempt()
    for step in (10, 20):
        commit(writer, step, step / 100)
    writer = attempt()
    with monkeypatch.context() as patch:
        patch.setattr(type(directory), "unlink", lambda *_, **__: None)
        commit(writer, 30, 0.5)
    assert len(files(directory)) == 3
    assert [record.step for record in read_checkpoints(directory)] == [20, 30]
    assert [record.step for record in attempt().records] == [20, 30]
    assert len(files(directory)) == 2


def test_with_its_lease_deleted_a_run_continues_with_the_next_attempt(
    place: Location, attempt: Callable[[], CheckpointWriter]
) -> None:
    directory = place / "checkpoints"
    commit(attempt(), 10, 0.5)
    commit(attempt(), 20, 0.6)
    for claim in list((place / "lease").iterdir()):
        claim.unlink()
    lease = Lease.acquire(place / "lease", print, after_attempt=latest_attempt(directory))
    assert lease.fence.attempt == 3
    record = commit(CheckpointWriter(directory, lease.fence, num_kept=2), 30, 0.7)
    assert read_checkpoints(directory)[-1] == record
    lease.release()
    lease = Lease.acquire(place / "lease", print, after_attempt=latest_attempt(directory))
    assert [r.step for r in CheckpointWriter(directory, lease.fence, 2).records] == [20, 30]
    assert record.file in files(directory)
    lease.release()


def test_a_run_does_not_start_over_by_itself(
    place: Location, attempt: Callable[[], CheckpointWriter]
) -> None:
    directory = place / "checkpoints"
    writer = attempt()
    records = [commit(writer, step, 0.5) for step in (10, 20)]
    for record in records:
        write_atomically(directory / record.file, b"rubbish")
    with pytest.raises(CheckpointsLostError, match=records[0].file):
        attempt()
    assert files(directory) == {record.file for record in records}


def test_a_run_that_has_lost_its_folder_of_checkpoints_is_left_as_it_is(
    place: Location, lease: Lease
) -> None:
    """A backup finds its place as it was."""
    directory = place / "checkpoints"
    with pytest.raises(CheckpointsLostError, match="checkpoint at step 20"):
        CheckpointWriter(directory, lease.fence, num_kept=2, last_step=20)
    assert not directory.exists()


def test_if_the_index_lists_nothing_readable_other_files_count(
    place: Location, attempt: Callable[[], CheckpointWriter]
) -> None:
    directory = place / "checkpoints"
    kept = commit(attempt(), 10, 0.5)
    content = (directory / kept.file).read_bytes()
    write_atomically(directory / kept.file, b"rubbish")
    other = commit(CheckpointWriter(place / "other", Lease.acquire(place / "l", print).fence, 2), 5)
    write_atomically(directory / other.file, (place / "other" / other.file).read_bytes())
    writer = attempt()
    assert writer.records == [other]
    write_atomically(directory / other.file, b"rubbish")
    write_atomically(directory / kept.file, content)
    assert attempt().records == [kept]


def test_checkpoints_are_discarded_on_request(place: Location) -> None:
    directory = place / "checkpoints"
    lease = Lease.acquire(place / "lease", print)
    commit(CheckpointWriter(directory, lease.fence, num_kept=2), 10, 0.5)
    write_atomically(directory / "notes.txt", b"of the user")
    fence = lease.fence
    lease.advance()
    with pytest.raises(LeaseLostError):
        discard_checkpoints(directory, fence)
    discard_checkpoints(directory, lease.fence)
    assert [path.name for path in directory.iterdir()] == ["notes.txt"]
    assert CheckpointWriter(directory, lease.fence, num_kept=2).records == []
    lease.release()


def test_checkpoints_of_an_earlier_version_are_refused(place: Location, lease: Lease) -> None:
    directory = place / "checkpoints"
    directory.mkdir()
    old = directory / "step-000000010-attempt-000001.safetensors"
    write_atomically(old, b"content")
    write_atomically(directory / "index-000001.json", json.dumps([{"step": 10}]).encode())
    with pytest.raises(OldCheckpointsError, match="an earlier version of distcnn"):
        CheckpointWriter(directory, lease.fence, num_kept=2)
    assert old.exists()
    discard_checkpoints(directory, lease.fence)
    assert CheckpointWriter(directory, lease.fence, num_kept=2).records == []
