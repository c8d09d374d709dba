"""CONTRIBUTING names a test for each promise, and these tests exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TABLE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## What is promised")[2]
ROWS = [line for line in TABLE.splitlines() if re.match(r"\| (?!promise \||---)", line)]


def test_the_table_has_rows() -> None:
    assert len(ROWS) > 100


@pytest.mark.parametrize("row", ROWS)
def test_each_promise_names_tests_that_exist(row: str) -> None:
    named = re.findall(r"`([^`]+\.py)::(\w+)`", row)
    benchmarks = re.findall(r"`(benchmarks/[^`]+\.py)`", row)
    assert named or benchmarks, "a promise without a test is a defect"
    for file, name in named:
        path = ROOT / "tests" / file
        assert path.is_file(), f"there is no {file}"
        assert re.search(rf"^def {name}\(", path.read_text(encoding="utf-8"), re.MULTILINE), name
    for benchmark in benchmarks:
        assert (ROOT / benchmark).is_file(), benchmark
