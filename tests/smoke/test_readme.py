"""The commands in the README work as they are typed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.documents import README, prepare, run_blocks


def test_the_commands_of_the_readme_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(tmp_path, monkeypatch)
    run_blocks(README, tmp_path)
