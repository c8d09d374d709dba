"""Which field of a space decides how good a trial is."""

from __future__ import annotations

import pytest

from distcnn.sweep.importance import importances
from distcnn.sweep.trial import Report
from tests.unit.sweep.conftest import MakeSweep, World

SPACE = {
    "optimizer.lr": {"loguniform": [1e-3, 1e-1]},
    "optimizer.weight_decay": {"uniform": [0.0, 0.1]},
}


@pytest.mark.parametrize(("num_trials", "is_ranked"), [(7, False), (8, True), (30, True)])
def test_fields_are_ranked_from_eight_trials_on(
    num_trials: int, is_ranked: bool, make_sweep: MakeSweep
) -> None:
    """The learning rate alone decides here."""
    sweep = make_sweep(epochs=1, space=SPACE, num_trials=num_trials, scheduler="none")
    study = World(sweep).study()
    while (task := study.next_task()) is not None and task.kind == "trial":
        value = 1 - abs(task.trial.values["optimizer.lr"] - 0.05)
        study.report(task.trial.number, Report(1, 1 - value, value, 1.0), 0.0)
        study.left(task.trial.number, "completed", "", "", 0.0)
    ranked = importances(study)
    assert (ranked is not None) == is_ranked
    if num_trials == 30:
        assert ranked is not None
        assert next(iter(ranked)) == "optimizer.lr"
        assert ranked["optimizer.lr"] > 2 * ranked["optimizer.weight_decay"]
