"""A study: what comes next, whatever happens; and the same after a kill at any moment."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distcnn.errors import UserError
from distcnn.sweep.trial import Report
from tests.unit.sweep.conftest import LR_ALONE, KilledError, MakeSweep, World, outcome

KINDS = {
    "random": {},
    "grid": {
        "search": "grid",
        "num_trials": None,
        "space": {"optimizer.lr": {"grid": [0.001, 0.01, 0.1]}},
    },
    "optuna": {"search": "optuna"},
    "pbt": {"scheduler": {"name": "pbt"}, "space": LR_ALONE},
}


@pytest.mark.parametrize("kind", KINDS)
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_killed_at_any_moment_it_ends_the_same_and_repeats_nothing(
    kind: str, make_sweep: MakeSweep, data: st.DataObject
) -> None:
    sweep = make_sweep(**KINDS[kind])
    has_failures = data.draw(st.booleans())
    undisturbed = World(sweep, has_failures=has_failures)
    expected = outcome(undisturbed.run(random.Random(0)))
    world = World(sweep, has_failures=has_failures)
    for _ in range(data.draw(st.integers(1, 3))):
        world.kill_at = data.draw(st.integers(len(world.ledger), len(undisturbed.ledger) + 1))
        world.dies_after = data.draw(st.booleans())
        try:
            world.run(random.Random(data.draw(st.integers(0, 99))))
        except KilledError:
            continue
    world.kill_at = None
    study = world.run(random.Random(data.draw(st.integers(0, 99))))
    assert outcome(study) == expected
    assert len(world.trained) == len(set(world.trained)), "an epoch was trained twice"
    assert study.winner_is_finalized
    assert [event["event"] for event in world.ledger].count("finalized") == 1


def test_asha_stops_the_worse_and_decides_the_same_when_it_is_replayed(
    make_sweep: MakeSweep,
) -> None:
    sweep = make_sweep(epochs=9, scheduler="asha", num_trials=9)
    world = World(sweep)
    study = world.run(random.Random(0))
    statuses = [trial.status for trial in study.trials.values()]
    assert statuses.count("completed") >= 1
    assert statuses.count("stopped") >= 4
    assert study.winner is not None
    assert study.winner.status == "completed"
    assert "stopped early by asha after epoch 1" in {t.reason for t in study.trials.values()}
    assert outcome(world.study()) == outcome(study)
    # Killed between a verdict and the end of its trial: the verdict stands.
    number = next(t.number for t in study.trials.values() if t.status == "stopped")
    at = next(
        index
        for index, event in enumerate(world.ledger)
        if event["event"] == "ended" and event["trial"] == number
    )
    world.ledger = world.ledger[:at]
    resumed = world.study()
    assert resumed.trials[number].verdict
    assert resumed.next_task() is not None


def test_a_population_keeps_its_size_and_copies_the_best(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(epochs=4, scheduler="pbt", space=LR_ALONE, num_trials=4)
    study = World(sweep).run(random.Random(1))
    copies = [trial for trial in study.trials.values() if trial.parent]
    assert len(copies) == 3  # One at each of epochs 1, 2 and 3.
    assert sum(trial.status == "completed" for trial in study.trials.values()) == 4
    for copy in copies:
        assert copy.parent is not None
        parent = study.trials[copy.parent.number]
        factor = copy.values["optimizer.lr"] / parent.values["optimizer.lr"]
        assert factor == pytest.approx(1.25) or factor == pytest.approx(0.8)
        assert [report.epoch for report in copy.reports] == [*range(copy.parent.epoch + 1, 5)]


def test_a_copys_inherited_time_counts_once(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(epochs=4, scheduler="pbt", space=LR_ALONE, num_trials=4)
    world = World(sweep)
    assert world.run(random.Random(1)).train_seconds == len(world.trained)


def test_members_that_fail_are_replaced_too(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(epochs=3, scheduler="pbt", space=LR_ALONE, num_trials=4)
    world = World(sweep)
    study = world.study()
    for _ in range(4):
        assert study.next_task() is not None
    study.left(2, "failed", "train/loss became nan", "nan", 0.0)
    for number in (1, 3, 4):
        report = Report(1, 1.0, number / 10, 1.0)
        assert study.report(number, report, 0.0).startswith("waits for the rest")
        study.left(number, "stopped", "", "", 0.0)
    task = study.next_task()
    assert task is not None
    assert len(study.open_trials) == 4
    assert [t.parent.number for t in study.open_trials if t.parent] == [4, 4]


def test_failures_alike_in_a_row_stop_it_and_resuming_begins_to_count_anew(
    make_sweep: MakeSweep,
) -> None:
    world = World(make_sweep(num_trials=9, max_failures_alike=3))
    study = world.study()
    for number, cause in enumerate(["nan", "memory", "nan", "nan", "nan"], start=1):
        assert study.closed is None
        assert study.next_task() is not None
        study.left(number, "failed", f"{cause} at step {number}; and more", cause, 0.0)
    assert study.closed is not None
    assert study.closed.status == "failed"
    assert study.closed.reason == "3 trials in a row failed alike: nan at step 5"
    assert study.next_task() is None
    assert study.is_over()
    resumed = world.study()
    assert resumed.closed is None
    task = resumed.next_task()
    assert task is not None
    assert task.trial.number == 6


def test_a_trial_whose_process_dies_is_begun_again_as_often_as_is_granted(
    make_sweep: MakeSweep,
) -> None:
    study = World(make_sweep()).study()
    for _ in range(4):
        task = study.next_task()
        assert task is not None
        assert task.trial.number == 1
        study.lost(1, "its process died", 0.0)
    assert study.trials[1].status == "failed"
    assert "recovery.max_failures" in study.trials[1].reason


def test_out_of_time_ends_what_runs_and_what_waits(make_sweep: MakeSweep) -> None:
    world = World(make_sweep(num_trials=None, time_budget_seconds=10))
    study = world.study()
    for _ in range(2):
        assert study.next_task() is not None
    study.report(1, Report(1, 1.0, 0.5, 1.0), 5.0)
    study.left(2, "stopped", "SIGINT", "", 5.0)  # It waits to go on.
    study.out_of_time(10.0)
    assert study.next_task() is None
    assert study.trials[2].status == "stopped"
    assert not study.is_over()
    study.left(1, "stopped", "asked to", "", 10.0)
    assert study.trials[1].reason == "the time budget is spent"
    assert outcome(world.study()) == outcome(study), "and so it is when it is replayed"
    task = study.next_task()
    assert task is not None
    assert (task.kind, task.trial.number) == ("winner", 1)
    assert study.next_task() is None, "the winner is finalized once"
    assert not study.is_over()
    study.not_finalized()
    assert study.next_task() is not None
    study.finalized(11.0)
    assert study.is_over()


def test_a_search_that_learns_waits_only_for_trials_far_behind(make_sweep: MakeSweep) -> None:
    study = World(make_sweep(search="optuna", num_trials=9), at_a_time=2).study()
    for number in range(1, 5):
        assert study.next_task() is not None
        if number > 1:
            study.left(number, "completed", "", "", 0.0)
    assert study.next_task() is None, "trial 5 learns from trial 1, which still runs"
    study.left(1, "completed", "", "", 0.0)
    assert study.next_task() is not None


def test_a_loss_that_is_no_number_never_wins(make_sweep: MakeSweep) -> None:
    study = World(make_sweep(metric="val/loss", num_trials=2)).study()
    for number, loss in ((1, float("nan")), (2, 0.4)):
        assert study.next_task() is not None
        study.report(number, Report(1, loss, 0.5, 1.0), 0.0)
    assert study.winner is study.trials[2]
    assert [trial.number for trial in study.ranking] == [2, 1]


def test_a_trial_that_fails_in_the_end_does_not_win(make_sweep: MakeSweep) -> None:
    study = World(make_sweep(num_trials=2)).study()
    for number, value in ((1, 0.9), (2, 0.8)):
        assert study.next_task() is not None
        study.report(number, Report(1, 0.5, value, 1.0), 0.0)
    study.left(1, "failed", "train/loss became nan", "nan", 0.0)
    assert study.winner is study.trials[2]
    assert [trial.number for trial in study.ranking] == [2, 1]


def test_loss_is_minimized_where_it_is_the_metric(make_sweep: MakeSweep) -> None:
    study = World(make_sweep(metric="val/loss", num_trials=2)).study()
    for number, loss, value in ((1, 0.5, 0.9), (2, 0.4, 0.8)):
        assert study.next_task() is not None
        study.report(number, Report(1, loss, value, 1.0), 0.0)
    assert study.winner is study.trials[2]
    assert [trial.number for trial in study.ranking] == [2, 1]


def test_a_search_that_learns_goes_on_as_it_would_have_where_there_is_other_room(
    make_sweep: MakeSweep,
) -> None:
    sweep = make_sweep(search="optuna", num_trials=9, space=LR_ALONE)
    undisturbed = World(sweep, at_a_time=1)
    expected = outcome(undisturbed.run(random.Random(0)))
    world = World(sweep, at_a_time=1, kill_at=8)
    with pytest.raises(KilledError):
        world.run(random.Random(0))
    world.kill_at, world.at_a_time = None, 4
    assert outcome(world.run(random.Random(0))) == expected


def test_a_ledger_of_a_later_version_is_refused(make_sweep: MakeSweep) -> None:
    world = World(make_sweep())
    world.ledger.append({"event": "celebrated", "elapsed_seconds": 0.0})
    with pytest.raises(UserError, match="celebrated"):
        world.study()
