"""A run that is killed before any change of its storage ends, resumed, as one left alone.

The storage is looked at before each change, and the run is resumed from what was there: that is
what a kill at that moment leaves. Two real kills for each storage are in tests/integration.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distcnn import object_store
from distcnn.config import RunConfig
from distcnn.data.dataset import Dataset
from distcnn.location import Location
from distcnn.object_store import ObjectPath
from distcnn.progress import PlainWatcher
from distcnn.run_directory.lease import Holder
from distcnn.run_directory.run import RunDirectory
from distcnn.training import local
from tests.fake_s3 import FakeS3, Objects
from tests.runs import told

pytestmark = pytest.mark.slow  # Some two hundred runs, of a tenth of a second each.

RESULT = ("status", "epochs", "weights_sha256", "chosen", "val", "test")


@pytest.fixture
def config(tiny_config: RunConfig) -> RunConfig:
    return tiny_config.with_values(
        training={"epochs": 2, "checkpoint_every_steps": 3, "keep_checkpoints": 1}
    )


@pytest.fixture(autouse=True)
def alone_with_tiny_data(monkeypatch: pytest.MonkeyPatch, tiny_dataset: Dataset) -> None:
    """Train on few images; what was killed is dead."""
    monkeypatch.setattr(local, "resolve", lambda config, watcher: (config, tiny_dataset))
    monkeypatch.setattr(Holder, "is_alive_here", False)
    monkeypatch.setattr("distcnn.training.finalize.write_report_of_ended", lambda *_: None)


def outcome(run: Location) -> tuple[Any, ...]:
    results = RunDirectory(run).read_results()
    assert results is not None
    checkpoints = [
        (record.step, record.weights_sha256) for record in RunDirectory(run).read_checkpoints()
    ]
    return {part: results[part] for part in RESULT}, told(run), checkpoints


def resume(run: Location) -> None:
    local.resume(RunDirectory(run), PlainWatcher())


def copies_before_changes(run: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Have the run's folder copied before each change that is meant to last, if it differs."""
    copies: list[Path] = []
    seen: set[tuple[tuple[str, bytes], ...]] = set()

    def before(original: Callable[..., Any]) -> Callable[..., Any]:
        def changing(*arguments: Any, **options: Any) -> Any:
            files = sorted(path for path in run.rglob("*") if path.is_file())
            # What is still being written has a name of its own each time.
            state = tuple((path.name[:20], path.read_bytes()) for path in files)
            if state not in seen:
                seen.add(state)
                copies.append(folder / f"{len(copies):03d}")
                shutil.copytree(run, copies[-1])
            return original(*arguments, **options)

        return changing

    for owner, name in ((Path, "replace"), (Path, "unlink"), (Path, "hardlink_to"), (os, "fsync")):
        monkeypatch.setattr(owner, name, before(getattr(owner, name)))
    return copies


def test_a_kill_before_any_change_in_a_folder(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    with monkeypatch.context() as patch:
        copies = copies_before_changes(run, tmp_path / "copies", patch)
        local.train(config, PlainWatcher(), run)
    expected = outcome(run)
    runs = [copy for copy in copies if (copy / "config.yaml").exists()]
    assert len(runs) > 30
    for copy in runs:
        resume(copy)
        assert outcome(copy) == expected, copy.name


def test_a_kill_before_any_change_in_an_object_store(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    states: list[Objects] = []
    store = FakeS3(lambda objects: states.append(dict(objects)))
    monkeypatch.setattr(object_store, "connected", store.connected)
    run = ObjectPath("bucket", "run")
    local.train(config, PlainWatcher(), run)
    expected = outcome(run)
    left = [state for state in list(states) if ("bucket", "run/config.yaml") in state]
    assert len(left) > 30
    for number, state in enumerate(left):
        store.objects = dict(state)
        resume(run)
        assert outcome(run) == expected, number
