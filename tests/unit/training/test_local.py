"""A run from its config to its results, in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distcnn.config import RunConfig
from distcnn.data.dataset import Dataset
from distcnn.data.module import ImageDataModule
from distcnn.progress import PlainWatcher
from distcnn.report import write
from distcnn.training import local


@pytest.fixture
def config(
    tiny_config: RunConfig, tiny_dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> RunConfig:
    """Return the config of a run of three epochs, on few images."""
    monkeypatch.setattr(local, "resolve", lambda config, watcher: (config, tiny_dataset))
    return tiny_config.with_values(training={"epochs": 3})


def test_the_test_split_is_read_once_and_last(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    for split in ("train", "val", "test"):
        name = f"{split}_dataloader"
        original = getattr(ImageDataModule, name)

        def loader(self: Any, original: Any = original, split: str = split) -> Any:
            read.append(split)
            return original(self)

        monkeypatch.setattr(ImageDataModule, name, loader)
    assert local.train(config, PlainWatcher(), tmp_path / "run").exit_code == 0
    assert read.count("test") == 1
    assert read[-1] == "test"
    assert "train" in read


def test_results_are_complete_without_a_report(
    config: RunConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(run: Any) -> str:
        raise RuntimeError("no page today")

    monkeypatch.setattr(write, "render_run", fail)
    result = local.train(config, PlainWatcher(), tmp_path / "run")
    assert (result.exit_code, result.results["status"]) == (0, "completed")
    assert "test" in result.results
    output = "".join(capsys.readouterr())
    assert "no page today" in output
    assert f"distcnn report {tmp_path / 'run'}" in output
    assert not (tmp_path / "run" / "report.html").exists()
