"""Runs that are reproducible across workers: as processes of their own, compared."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.launches import ACROSS, launch_command
from tests.runs import assert_identical, distcnn, finish, train_command


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="no GPU on this machine, or only one")
def test_two_gpus_have_the_result_of_one(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    finish(launch_command(one, *ACROSS, "workers.count=1", "workers.gpus=1"))
    finish(launch_command(two, *ACROSS, "workers.count=2", "workers.gpus=1"))
    assert_identical(two, one)


def test_what_cannot_be_promised_is_refused(tmp_path: Path) -> None:
    output = finish(launch_command(tmp_path / "run", *ACROSS, "workers.count=5"), expected=2)
    assert "workers.count = 5 exceeds training.num_shards = 4" in output
    output = finish(launch_command(tmp_path / "run", *ACROSS, "training.num_shards=65"), expected=2)
    assert "num_shards = 65 exceeds global_batch_size = 64" in output
    shared = launch_command(tmp_path / "run", "workers.count=2", "workers.gpus=0.25")
    assert "NCCL refuses two workers on one GPU" in finish(shared, expected=2)


def test_two_runs_that_differ_are_told_where(alone: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    finish(train_command(run, *ACROSS, "training.num_shards=3"))
    output = finish(distcnn("compare", run, alone), expected=1)
    assert "They first differ at step 3 " in output
    assert "No checkpoint is alike" in output
    assert "training.num_shards (3, 4)" in output
