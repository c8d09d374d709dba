"""Runs that are reproducible across workers: as processes of their own, compared."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.launches import ACROSS, launch_command
from tests.integration.runs import assert_identical, distcnn, finish, train_command


@pytest.mark.parametrize("count", [2, 3])
def test_any_number_of_workers_has_the_result_of_one(
    count: int, alone: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    finish(launch_command(run, *ACROSS, f"workers.count={count}"))
    assert_identical(run, alone)


def test_what_cannot_be_promised_is_refused(tmp_path: Path) -> None:
    output = finish(launch_command(tmp_path / "run", *ACROSS, "workers.count=5"), expected=2)
    assert "workers.count = 5 exceeds training.num_shards = 4" in output
    output = finish(launch_command(tmp_path / "run", *ACROSS, "training.num_shards=65"), expected=2)
    assert "num_shards = 65 exceeds global_batch_size = 64" in output


def test_two_runs_that_differ_are_told_where(alone: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    finish(train_command(run, *ACROSS, "training.num_shards=3"))
    output = finish(distcnn("compare", run, alone), expected=1)
    assert "They first differ at step 3 " in output
    assert "No checkpoint is alike" in output
    assert "training.num_shards (3, 4)" in output
