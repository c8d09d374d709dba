"""What preflight refuses, from what nodes and workers say of themselves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from distcnn.config import RunConfig
from distcnn.data.dataset import Dataset
from distcnn.errors import UserError
from distcnn.orchestration import worker
from distcnn.orchestration.assignment import Assignment
from distcnn.orchestration.preflight import check_alike, check_versions
from distcnn.orchestration.probe import NodeFacts, WorkerFacts, software
from distcnn.progress import PlainWatcher
from distcnn.training import provenance

CONFIG = RunConfig().with_values(workers={"cpus": 1, "gpus": 0, "count": 2})
HARDWARE = provenance.hardware(CONFIG)
NODE = NodeFacts("a", software(), "", "synthetic", "", "0" * 64, HARDWARE, 0.0)
WORKER = WorkerFacts("a", "1", 1, "", "32-true", "", HARDWARE)


def test_nodes_with_other_versions_are_refused_by_name() -> None:
    assert {check.status for check in check_versions([NODE, replace(NODE, host="b")])} == {"ok"}
    other = replace(NODE, host="b", versions=software() | {"torch": "1.0"})
    [failed] = [check for check in check_versions([NODE, other]) if check.status == "fail"]
    assert failed.subject == "torch"
    assert "1.0 on b; install the same everywhere" in failed.what


@pytest.mark.parametrize("part", ["instruction_set", "gpu"])
def test_workers_of_several_kinds_are_refused(part: str) -> None:
    assert [check.status for check in check_alike(CONFIG, [WORKER, WORKER])] == ["ok"]
    other = replace(WORKER, hardware=HARDWARE | {part: "another"})
    [failed] = check_alike(CONFIG, [WORKER, other])
    assert failed.status == "fail"
    assert "workers.accelerator_type" in failed.what


def test_a_worker_with_other_data_is_refused(
    tiny_dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "load_data", lambda config, notify: tiny_dataset)
    monkeypatch.setattr(worker, "PostingWatcher", lambda *_: PlainWatcher())
    nothing: Any = None
    assignment = Assignment(
        config=CONFIG.to_plain(),
        run=nothing,
        fence=nothing,
        data_sha256="1" * 64,
        hardware=HARDWARE,
        waiting_since=0.0,
        purpose="run",
        mailbox=nothing,
    )
    with pytest.raises(UserError, match=r"other data \(000000000000.*than this run.*111111111111"):
        worker._train(assignment, worker.Workers(), nothing)
