"""At which step two runs first differ, by what they have recorded."""

from __future__ import annotations

from pathlib import Path

import pytest

from distcnn.comparison import compare
from distcnn.config import RunConfig
from distcnn.errors import UsageError
from distcnn.run_directory.run import RunDirectory


def a_run(path: Path, weights: str, trained: str = "", *, is_over: bool = True) -> RunDirectory:
    """A run with a checkpoint every ten steps, whose digests are these letters."""
    run = RunDirectory(path)
    path.mkdir()
    run.write_config(RunConfig())
    for index, digest in enumerate(weights):
        more = {"trained_sha256": 64 * trained[index]} if trained else {}
        run.append_event("checkpoint", step=10 * (index + 1), weights_sha256=64 * digest, **more)
    if is_over:
        run.write_results({"status": "completed"})
    return run


def test_identical_runs(tmp_path: Path) -> None:
    compared = compare(a_run(tmp_path / "a", "abc"), a_run(tmp_path / "b", "abc"))
    assert compared.is_identical
    assert str(compared) == (
        "Identical: 3 checkpoints alike, the last one at step 30 (weights cccccccccccccccc)"
    )


def test_one_checkpoint(tmp_path: Path) -> None:
    compared = compare(a_run(tmp_path / "a", "a"), a_run(tmp_path / "b", "a"))
    assert "Identical: 1 checkpoint alike, the last one at step 10 " in str(compared)


def test_the_first_step_that_differs(tmp_path: Path) -> None:
    compared = compare(a_run(tmp_path / "a", "abcd"), a_run(tmp_path / "b", "abxd"))
    assert (compared.num_alike, compared.last_alike, compared.first_different) == (2, 20, 30)
    assert "first differ at step 30 (weights cccccccccccccccc, xxxxxxxxxxxxxxxx)" in str(compared)


def test_a_difference_that_the_average_has_rounded_away(tmp_path: Path) -> None:
    compared = compare(a_run(tmp_path / "a", "abc", "def"), a_run(tmp_path / "b", "abc", "dxf"))
    assert compared.first_different == 20
    assert compared.weights_sha256 == (64 * "e", 64 * "x")


def test_runs_that_have_come_less_far(tmp_path: Path) -> None:
    one = a_run(tmp_path / "a", "abc")
    for name, weights, is_over in (("b", "ab", True), ("c", "abc", False)):
        compared = compare(one, a_run(tmp_path / name, weights, is_over=is_over))
        assert compared.is_identical
        assert str(compared).startswith("Identical as far as both have come: ")


def test_what_a_resumed_run_did_again_counts_as_it_was_done_last(tmp_path: Path) -> None:
    one, other = a_run(tmp_path / "a", "abx"), a_run(tmp_path / "b", "abc")
    one.append_event("checkpoint", step=30, weights_sha256=64 * "c")
    assert compare(one, other).is_identical


def test_another_config_is_told(tmp_path: Path) -> None:
    one, other = a_run(tmp_path / "a", "a"), a_run(tmp_path / "b", "b")
    other.write_config(RunConfig.from_plain({"seed": 3, "workers": {"count": 2}}))
    assert compare(one, other).differences == ["seed (0, 3)", "workers.count (1, 2)"]


def test_without_a_step_in_common_nothing_can_be_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no checkpoint at the same step"):
        compare(a_run(tmp_path / "a", "a"), a_run(tmp_path / "b", ""))
