"""Every command of the docs works, and none stands where no test runs it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.documents import FENCE, PAGES, README, blocks, prepare, run_blocks

COMMAND = re.compile(r"^\s*(\.venv/bin/)?distcnn [a-z]", re.MULTILINE)
# A form that commands have, for the reader to fill in.
FORM = re.compile(r"\b[A-Z]{3,}\b|[|\[]")
# The README's are run by tests/smoke.
WITH_COMMANDS = [page for page in PAGES if page != README and any(b.is_run for b in blocks(page))]


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda page: page.name)
def test_the_commands_of_a_page_work(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(tmp_path, monkeypatch)
    run_blocks(page, tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_command_stands_where_no_test_runs_it(page: Path) -> None:
    for block in blocks(page):
        if block.language not in ("bash", "python", "yaml"):
            lines = [line for line in block.text.splitlines() if COMMAND.match(line)]
            assert not lines or any(FORM.search(line) for line in lines), block.text
    outside = FENCE.sub("", page.read_text(encoding="utf-8"))
    indented = [line for line in outside.splitlines() if line.startswith("    ")]
    assert not any(COMMAND.match(line) for line in indented)
