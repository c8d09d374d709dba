"""Whose lines an error is shown with."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import pytest

from distcnn.user_code import UserCodeError, shown_as_theirs

PACKAGE = "somebodys_own"


@pytest.mark.parametrize("place", ["site-packages", "here"])
def test_a_workload_s_lines_are_theirs_wherever_it_lies(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / place / PACKAGE
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "work.py").write_text("import json\ndef factory():\n    json.loads('{')\n")
    monkeypatch.syspath_prepend(str(folder.parent))
    for name in (PACKAGE, f"{PACKAGE}.work"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    module = import_module(f"{PACKAGE}.work")
    with pytest.raises(UserCodeError) as told, shown_as_theirs(f"{PACKAGE}.work:factory"):
        module.factory()
    assert f'{folder / "work.py"}", line 3' in str(told.value)
    assert "JSONDecodeError" in str(told.value)
    assert "json/decoder" not in str(told.value)
