"""A user's own LightningModule and data, as the docs have them, train by the same commands."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest

from tests.documents import ROOT
from tests.launches import end
from tests.runs import distcnn, finish, saves, start_as_typed, told, wait_for


def test_a_users_module_is_trained_killed_and_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in (ROOT / "docs" / "examples").glob("spirals*"):
        shutil.copy(file, tmp_path)
    monkeypatch.chdir(tmp_path)
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    assert "Run completed" in finish(distcnn("train", "spirals.yaml", "--run-dir", undisturbed))
    expected = json.loads((undisturbed / "results.json").read_bytes())
    assert expected["test"]["accuracy"] > 0.8
    process = start_as_typed(distcnn("train", "spirals.yaml", "--run-dir", killed))
    wait_for(lambda: saves(killed) >= 3, process)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert "Run completed" in end(start_as_typed(distcnn("resume", killed)))
    assert told(killed) == told(undisturbed)
    ended = json.loads((killed / "results.json").read_bytes())
    for part in ("val", "test", "weights_sha256", "chosen"):
        assert ended[part] == expected[part], part
    assert "Identical" in finish(distcnn("compare", undisturbed, killed))
