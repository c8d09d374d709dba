"""The page of a run, from a directory that was made by hand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from distcnn.config import RunConfig
from distcnn.report.run_page import _attempts, render_run
from distcnn.run_directory.lease import Lease
from distcnn.run_directory.run import RunDirectory

EVIL = "<img src=x onerror=alert(1)>&\"'"


def attempt(number: int) -> dict[str, object]:
    time = f"2026-11-28T16:00:0{number}+00:00"
    return {
        "event": "attempt",
        "attempt": number,
        "time": time,
        "workers": [{"host": "a"}] * number,
    }


def test_each_attempt_tells_how_it_ended():
    """In the order in which a driver records them: a restart bears the number of what it begins."""
    events = [
        attempt(1),
        {"event": "attempt_failed", "attempt": 1, "cause": "failure", "reason": "lost\nits host"},
        {"event": "restart", "attempt": 2, "cause": "failure", "reason": "lost"},
        attempt(2),
        {"event": "resize", "attempt": 2, "workers_before": 1, "workers": 2},
        attempt(3),
        {"event": "completed", "attempt": 3},
    ]
    told = [(each.number, each.workers, each.ended) for each in _attempts(events)]
    assert told == [
        (1, "1 on a", "failed: lost"),
        (2, "2 on a", "killed"),
        (3, "3 on a", "trained to the end"),
    ]


def test_one_attempt_is_nothing_to_tell_of():
    assert _attempts([attempt(1), {"event": "completed", "attempt": 1}]) == []


def results(status: str, attempts: int, **more: Any) -> dict[str, Any]:
    return {
        "status": status,
        "reason": "",
        "attempts": attempts,
        "epochs": 1,
        "train_seconds": 10.0,
        "images_per_second": 100.0,
        "workers": {"count": 1, "cpus": 1.0, "gpus": 0, "hosts": ["a"]},
        **more,
    }


def made(path: Path, told: Mapping[str, Any], **config: Any) -> RunDirectory:
    run = RunDirectory(path)
    path.mkdir()
    run.write_config(RunConfig.from_plain(RunConfig().to_plain() | config))
    run.write_results(dict(told))
    return run


def test_what_people_have_typed_is_text_and_nothing_else(tmp_path: Path):
    told = results("stopped", 1, reason=EVIL, data={"name": EVIL, "sha256": "0" * 64})
    told["workers"]["hosts"] = [EVIL, "b"]
    run = made(tmp_path / "<b>run", told, parameters={"hidden": EVIL}, workload="a:b")
    run.write_provenance({"command": EVIL, "versions": {"torch": EVIL}, "started": EVIL})
    for number in (1, 2):
        workers = [{"host": EVIL}]
        run.append_event("attempt", attempt=number, workers=workers)
        run.append_event("failed", attempt=number, reason=EVIL)
    page = render_run(run)
    assert "<img src=x" not in page
    assert "<b>run" not in page
    assert page.count("&lt;img src=x") >= 7


def test_an_earlier_attempt_s_end_is_not_the_run_s(tmp_path: Path):
    """It was stopped, gone on with, and killed."""
    run = made(tmp_path / "run", results("stopped", 1, reason="SIGINT"))
    for _ in range(2):
        Lease.acquire(run.lease, lambda message: None).release()
    page = render_run(run)
    assert "has not ended" in page
    assert "SIGINT" not in page


@pytest.mark.parametrize(("count", "verb"), [(1, "train"), (2, "launch")])
def test_the_page_says_what_trains_it_again(count: int, verb: str, tmp_path: Path):
    folder = tmp_path / "my run"
    run = made(folder, results("stopped", 1), workers={"count": count, "cpus": 1})
    assert f"distcnn {verb} &#39;{folder}/config.yaml&#39;" in render_run(run)
