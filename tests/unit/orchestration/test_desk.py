"""The desk: tasks and the processes that have them, alive, dead or taken for dead."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distcnn.errors import UserError
from distcnn.orchestration.desk import Desk
from distcnn.run_directory.checkpoints import CheckpointWriter
from distcnn.run_directory.lease import Lease
from distcnn.sweep.directory import SweepDirectory
from distcnn.sweep.space import Choice
from distcnn.sweep.study import Study
from distcnn.sweep.view import PlainView
from tests.checkpoints import holding
from tests.unit.sweep.conftest import LR_ALONE, MakeSweep, World, make_sweep

__all__ = ["make_sweep"]


class Sweep:
    """A desk, and what it stands on."""

    def __init__(self, folder: Path, world: World) -> None:
        self.world = world
        self.directory = SweepDirectory(folder)
        self.study: Study = world.study()
        self.desk = Desk(self.study, self.directory, PlainView())

    def take(self) -> tuple[int, int]:
        """A task and its trial, in a process."""
        taken = self.desk.next_task()
        assert taken is not None
        assert self.desk.task(taken[0]) is not None
        return taken


def report(epoch: int, value: float) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "val_loss": 1 - value,
        "val_accuracy": value,
        "train_seconds": float(epoch),
    }


def commit(sweep: Sweep, trial: int, epochs: list[int], num_kept: int = 1) -> None:
    """Have a trial's run directory hold checkpoints, as many as it keeps."""
    run = sweep.directory.trial(trial)
    lease = Lease.acquire(run.lease, print)
    writer = CheckpointWriter(run.checkpoints, lease.fence, num_kept)
    for epoch in epochs:
        writer.commit(
            holding("state"),
            epoch=epoch,
            step=epoch,
            weights_sha256="",
            val_accuracy=0.9 + epoch / 100,
        )
    run.metrics_path.write_text("step\n")
    lease.release()


def test_what_a_process_says_that_was_taken_for_dead_counts_for_nothing(
    tmp_path: Path, make_sweep: MakeSweep
) -> None:
    sweep = Sweep(tmp_path, World(make_sweep()))
    dead, trial = sweep.take()
    sweep.desk.process_ended(dead, "its process died")
    assert "taken this trial over" in sweep.desk.report(dead, report(1, 0.5))
    new, again = sweep.take()
    assert (again, sweep.study.trials[trial].restarts) == (trial, 1)
    sweep.desk.left(dead, "failed", "its lease was lost", "lease")
    assert sweep.desk.task(dead) is None
    assert sweep.study.trials[trial].status == "running"
    assert sweep.desk.report(new, report(1, 0.5)) == ""
    sweep.desk.left(new, "completed", "", "")
    sweep.desk.process_ended(new, "its process ended")
    assert sweep.study.trials[trial].status == "completed"
    assert sweep.desk.error is None


@pytest.mark.parametrize("at_a_time", [1, 2])
def test_a_parent_goes_on_only_once_it_is_copied(
    tmp_path: Path, make_sweep: MakeSweep, at_a_time: int
) -> None:
    config = make_sweep(epochs=4, scheduler="pbt", space=LR_ALONE, num_trials=2)
    sweep = Sweep(tmp_path, World(config, at_a_time))
    for value in (0.9, 0.5):
        task, trial = sweep.take()
        assert sweep.desk.report(task, report(1, value)).startswith("waits")
        commit(sweep, trial, [1])
        sweep.desk.left(task, "stopped", "", "")
        sweep.desk.process_ended(task, "")
    _, parent = sweep.take()
    assert parent == 1
    # It trains on at once, and keeps one checkpoint; its copy has begun with the one before.
    commit(sweep, parent, [2])
    [copied] = sweep.directory.trial(3).read_checkpoints()
    assert copied.epoch == 1
    assert sweep.desk.error is None


def test_a_copy_whose_parent_is_damaged_has_failed_and_the_parent_goes_on(
    tmp_path: Path, make_sweep: MakeSweep
) -> None:
    config = make_sweep(epochs=4, scheduler="pbt", space=LR_ALONE, num_trials=2)
    sweep = Sweep(tmp_path, World(config, 1))
    for value in (0.9, 0.5):
        task, trial = sweep.take()
        sweep.desk.report(task, report(1, value))
        commit(sweep, trial, [1])
        sweep.desk.left(task, "stopped", "", "")
        sweep.desk.process_ended(task, "")
    parent = sweep.directory.trial(1)
    (parent.checkpoints / parent.read_checkpoints()[0].file).write_bytes(b"rubbish")
    _, next_one = sweep.take()
    assert next_one == 1
    assert sweep.study.trials[3].status == "failed"
    assert "is damaged" in sweep.study.trials[3].reason
    assert sweep.desk.error is None


def test_a_winner_whose_checkpoint_is_damaged_gives_way_to_the_next_best(
    tmp_path: Path, make_sweep: MakeSweep
) -> None:
    sweep = Sweep(tmp_path, World(make_sweep(num_trials=2, epochs=1)))
    for value in (0.5, 0.9):
        task, _ = sweep.take()
        sweep.desk.report(task, report(1, value))
        sweep.desk.left(task, "completed", "", "")
        sweep.desk.process_ended(task, "")
    for best in (2, 1):
        winner, trial = sweep.take()
        assert trial == best
        sweep.desk.left(winner, "damaged", "its checkpoint is damaged", "")
        sweep.desk.process_ended(winner, "")
        assert sweep.study.trials[best].status == "failed"
    assert sweep.desk.is_over()
    assert sweep.desk.error is None
    assert sweep.study.counts == {"completed": 0, "failed": 2}
    again = sweep.world.study()
    assert again.winner is None
    assert again.counts == sweep.study.counts


def test_a_winner_is_not_asked_to_stop_and_counts_only_when_it_is_finalized(
    tmp_path: Path, make_sweep: MakeSweep
) -> None:
    sweep = Sweep(tmp_path, World(make_sweep(num_trials=1, time_budget_seconds=1e-9)))
    task, _ = sweep.take()
    sweep.desk.report(task, report(1, 0.5))
    sweep.desk.tick()
    assert sweep.desk.beat(task) == "the time budget is spent"
    assert sweep.desk.is_stopping()
    sweep.desk.left(task, "stopped", "the time budget is spent", "")
    assert not sweep.desk.is_stopping()
    sweep.desk.process_ended(task, "")
    winner, _ = sweep.take()
    assert sweep.desk.beat(winner) == ""
    sweep.desk.left(winner, "stopped", "SIGTERM", "")
    sweep.desk.process_ended(winner, "")
    assert not sweep.study.winner_is_finalized
    winner, _ = sweep.take()
    sweep.desk.left(winner, "completed", "", "")
    assert sweep.study.winner_is_finalized
    assert sweep.desk.is_over()


def test_a_broken_storage_ends_the_sweep_and_fails_no_trial(
    tmp_path: Path, make_sweep: MakeSweep
) -> None:
    sweep = Sweep(tmp_path, World(make_sweep()))
    task, trial = sweep.take()
    sweep.desk.left(task, "broken", "cannot write", "")
    assert isinstance(sweep.desk.error, UserError)
    assert "distcnn resume" in str(sweep.desk.error)
    assert sweep.desk.next_task() is None
    assert sweep.world.study().trials[trial].status == "waiting"


def test_a_sweep_without_room_says_so_and_ends(
    tmp_path: Path,
    make_sweep: MakeSweep,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr("distcnn.orchestration.desk.time.monotonic", lambda: now)
    sweep = Sweep(tmp_path, World(make_sweep()))
    assert sweep.desk.next_task() is not None
    now += 40
    sweep.desk.tick()
    sweep.desk.tick()
    assert capsys.readouterr().err.count("Waiting for room") == 1
    assert "1 starting" in sweep.desk.standing().line
    now += 600
    sweep.desk.tick()
    assert "no room became free" not in str(sweep.desk.error), "its process may yet start"
    now += 60
    sweep.desk.tick()
    assert "no room became free" in str(sweep.desk.error)
    assert sweep.desk.is_stopping()


def test_a_winner_that_gets_no_room_keeps_no_one_waiting(
    tmp_path: Path, make_sweep: MakeSweep
) -> None:
    sweep = Sweep(tmp_path, World(make_sweep(num_trials=1, epochs=1)))
    task, _ = sweep.take()
    sweep.desk.report(task, report(1, 0.5))
    sweep.desk.left(task, "completed", "", "")
    sweep.desk.process_ended(task, "")
    assert sweep.desk.next_task() is not None
    assert not sweep.desk.is_stopping()
    sweep.desk.interrupt("SIGINT")
    assert sweep.desk.is_stopping()
    assert not sweep.desk.give_up_stopping()


def test_a_trial_that_does_not_stop_when_time_is_spent_is_over_and_the_winner_follows(
    tmp_path: Path, make_sweep: MakeSweep
) -> None:
    sweep = Sweep(tmp_path, World(make_sweep(num_trials=None, time_budget_seconds=1e-9)))
    task, trial = sweep.take()
    sweep.desk.report(task, report(1, 0.5))
    sweep.desk.tick()
    assert sweep.desk.is_stopping()
    assert sweep.desk.give_up_stopping(), "the winner is left to do"
    assert sweep.study.trials[trial].status == "stopped"
    winner, trial = sweep.take()
    sweep.desk.left(winner, "completed", "", "")
    assert sweep.study.winner_is_finalized
    sweep.desk.process_ended(winner, "")
    assert not sweep.desk.give_up_stopping()


def test_a_process_without_a_sign_of_life_is_ended_once_unless_the_driver_was_away(
    tmp_path: Path,
    make_sweep: MakeSweep,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr("distcnn.orchestration.desk.time.monotonic", lambda: now)
    sweep = Sweep(tmp_path, World(make_sweep()))
    beating, _ = sweep.take()
    silent, number = sweep.take()

    def look(seconds: float, *beats: int) -> list[int]:
        nonlocal now
        found: list[int] = []
        for _ in range(int(seconds)):
            now += 1
            for task in beats:
                sweep.desk.beat(task)
            found += sweep.desk.silent_tasks()
        return found

    assert look(100) == [], "none of them trains yet"
    assert look(5, beating, silent) == []
    now += 300  # The driver was stopped itself.
    assert look(50, beating) == []
    assert look(50, beating) == [silent]
    assert f"trial {number}: no sign of life" in capsys.readouterr().err


def test_a_trial_whose_values_do_not_go_together_has_failed(
    tmp_path: Path, make_sweep: MakeSweep
) -> None:
    sweep = Sweep(tmp_path, World(make_sweep(num_trials=2)))
    # As if more combinations had been there than are tried when the file is read.
    sweep.study.sweep.space["model.kernel_size"] = Choice((41,))
    assert sweep.desk.next_task() is None
    failed = sweep.study.trials.values()
    assert [trial.status for trial in failed] == ["failed", "failed"]
    assert all("leaves nothing" in trial.reason for trial in failed)


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(seed=st.integers(0, 999), spent_at=st.integers(0, 20), kill_at=st.integers(0, 40))
def test_out_of_time_and_killed_at_any_moment_it_comes_to_an_end(
    make_sweep: MakeSweep, seed: int, spent_at: int, kill_at: int
) -> None:
    world = World(make_sweep(num_trials=6, time_budget_seconds=60))
    source = random.Random(seed)
    events = 0

    def drive() -> Study:
        nonlocal events
        study = world.study()
        running: list[int] = []
        while not study.is_over() and events < kill_at:
            task = study.next_task() if len(running) < 2 else None
            if task is not None and task.kind == "winner":
                study.finalized(0.0)
            elif task is not None:
                running.append(task.trial.number)
            elif running:
                number = source.choice(running)
                if not world.step(study, study.trials[number]):
                    running.remove(number)
            events += 1
            if events == spent_at and study.closed is None:
                study.out_of_time(60.0)
            if study.closed is not None:
                for number in running:
                    study.left(number, "stopped", "", "", 60.0)
                running.clear()
        return study

    drive()
    kill_at = 10_000
    study = drive()
    assert all(trial.is_over for trial in study.trials.values())
    assert study.is_over()
    assert len(world.trained) == len(set(world.trained))
