"""The config reference of the docs: tables that are whole, and tell what a field may be."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

HOOKS = Path(__file__).parents[2] / "docs" / "hooks.py"


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hooks", HOOKS)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("config", ["run", "sweep", "cluster"])
def test_every_field_has_its_row(config: str, hooks: ModuleType):
    lines = hooks.on_page_markdown(f"<!-- fields of {config} -->").splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) > 10
    assert all(row.replace("\\|", "").count("|") == 4 for row in rows), "three cells"
    around = [line for line in lines if line and line not in rows]
    assert all(not line.startswith(("-", " ")) for line in around), "a list or code by mistake"


def test_a_row_tells_default_words_and_bounds(hooks: ModuleType):
    text = hooks.on_page_markdown("<!-- fields of run -->")
    rows = {line.split("`")[1]: line for line in text.splitlines() if line.startswith("| `")}
    assert "| `[16, 32]` |" in rows["model.channels"]
    assert rows["model.pooling"].endswith("(`max`, `average`, `l2`, `distance-weighted`) |"), rows[
        "model.pooling"
    ]
    assert rows["data.num_train"].endswith("(at least 1) |")
    assert rows["model.padding"].endswith("(at least 0) |")
