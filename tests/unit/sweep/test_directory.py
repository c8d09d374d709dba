"""What a sweep leaves behind, and copies of checkpoints between its trials."""

from __future__ import annotations

import csv
import random
from pathlib import Path

import pytest

from distcnn.errors import UsageError, UserError
from distcnn.files import DamagedFileError
from distcnn.run_directory.checkpoints import CheckpointWriter
from distcnn.run_directory.lease import Lease, LeaseLostError
from distcnn.run_directory.run import RunDirectory
from distcnn.sweep.copying import copy_checkpoint
from distcnn.sweep.directory import SweepDirectory, is_sweep, new_sweep_directory
from distcnn.sweep.ledger import Ledger, read_ledger
from tests.checkpoints import holding, text_of
from tests.unit.sweep.conftest import MakeSweep, World


def test_a_sweep_is_read_as_it_was_written(tmp_path: Path, make_sweep: MakeSweep) -> None:
    sweep = make_sweep(scheduler="asha")
    directory = new_sweep_directory("mine", tmp_path, None)
    assert not is_sweep(directory.path)
    directory.write_sweep(sweep)
    assert is_sweep(directory.path)
    again = directory.read_sweep()
    assert (again.space, again.base) == (sweep.space, sweep.base)
    with pytest.raises(UsageError, match="distcnn resume"):
        new_sweep_directory("mine", tmp_path, directory.path)


def test_the_leaderboard_has_the_best_first_and_lists_as_json(
    tmp_path: Path, make_sweep: MakeSweep
) -> None:
    directory = SweepDirectory(tmp_path)
    study = World(make_sweep()).run(random.Random(0))
    study.trials[1].reason = "a reason, with a comma; and more"
    directory.write_leaderboard(study)
    with directory.leaderboard_path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["trial"]) for row in rows] == [trial.number for trial in study.ranking]
    assert rows[0]["model.channels"] in ("[8, 16]", "[16, 32]")
    assert {row["reason"] for row in rows} == {"", "a reason, with a comma"}


def test_how_an_earlier_attempt_ended_is_no_end(tmp_path: Path) -> None:
    directory = SweepDirectory(tmp_path)
    lease = Lease.acquire(directory.lease, print)
    results = {"status": "stopped", "attempts": lease.fence.attempt}
    directory.write_results(results)
    lease.release()
    assert directory.read_last_results() == results
    Lease.acquire(directory.lease, print).release()
    assert directory.read_last_results() is None
    assert directory.read_results() == results


def test_a_ledger_goes_on_after_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    lease = Lease.acquire(tmp_path / "lease", print)
    ledger = Ledger(path, [], lease.fence)
    ledger.append({"event": "trial"})
    ledger.close()
    with path.open("ab") as file:
        file.write(b'{"event": "epo')
    past = list(read_ledger(path))
    assert past == [{"event": "trial"}]
    ledger = Ledger(path, past, lease.fence)
    ledger.append({"event": "epoch"})
    assert list(read_ledger(path)) == [{"event": "trial"}, {"event": "epoch"}]
    lease.advance()
    with pytest.raises(LeaseLostError):
        ledger.append({"event": "of a driver that was taken for dead"})
    ledger.close()
    lease.release()
    assert len(list(read_ledger(path))) == 2


def test_a_ledger_that_somebody_has_edited_badly_is_named(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_text("not JSON\n{}\n")
    with pytest.raises(DamagedFileError, match=r"ledger\.jsonl"):
        list(read_ledger(path))


@pytest.fixture
def parent(tmp_path: Path) -> RunDirectory:
    """A run with checkpoints of two epochs."""
    run = RunDirectory(tmp_path / "parent")
    lease = Lease.acquire(run.lease, print)
    writer = CheckpointWriter(run.checkpoints, lease.fence, num_kept=2)
    for epoch in (1, 2):
        writer.commit(
            holding(f"state {epoch}"),
            epoch=epoch,
            step=10 * epoch,
            weights_sha256="",
            val_accuracy=epoch / 10,
        )
    lease.release()
    run.metrics_path.write_text("step\n")
    return run


def test_a_copy_begins_with_its_parents_checkpoint(tmp_path: Path, parent: RunDirectory) -> None:
    copy = RunDirectory(tmp_path / "copy")
    copy_checkpoint(parent, copy, epoch=1)
    [record] = copy.read_checkpoints()
    assert (record.epoch, record.step, record.val_accuracy) == (1, 10, 0.1)
    assert text_of(copy.checkpoints, record) == "state 1"
    assert copy.metrics_path.read_text() == "step\n"
    copy_checkpoint(parent, copy, epoch=2)
    assert copy.read_checkpoints() == [record], "it has begun: nothing is copied again"
    # An attempt takes it over as it would take over one of its own.
    lease = Lease.acquire(copy.lease, print)
    assert CheckpointWriter(copy.checkpoints, lease.fence, num_kept=2).records == [record]
    lease.release()


def test_a_checkpoint_that_is_gone_is_named(tmp_path: Path, parent: RunDirectory) -> None:
    with pytest.raises(UserError, match="no checkpoint of epoch 3"):
        copy_checkpoint(parent, RunDirectory(tmp_path / "copy"), epoch=3)
