"""Every command of the README and of the docs, as people type them, page by page.

A block of `bash` is run, unless it says `cluster`: that it needs one, or somebody's account. What
trains does it on few images, for one epoch; all else is as it stands there.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
TIMEOUT_SECONDS = 300
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\S*)[ ]?([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"^\s*(\.venv/bin/)?distcnn [a-z]", re.MULTILINE)
# A form that commands have, for the reader to fill in.
FORM = re.compile(r"\b[A-Z]{3,}\b|[|\[]")
DISTCNN = f"""#!/bin/bash
few=(data.source=synthetic data.num_train=640 data.num_val=500 training.epochs=1)
case "$*" in
  *--dry-run*) few=() ;;
  tune*) few+=(--num-trials 2) ;;
  train*|launch*|"cluster submit"*) ;;
  *) few=() ;;
esac
exec {sys.executable} -m distcnn.cli "$@" "${{few[@]}}"
"""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    more: str
    text: str

    @property
    def title(self) -> str | None:
        found = re.search(r'title="([^"]+)"', self.more)
        return found[1] if found else None

    @property
    def is_run(self) -> bool:
        return self.language in ("bash", "python") and not self.more


def blocks(page: Path) -> list[Block]:
    return [Block(*found) for found in FENCE.findall(page.read_text(encoding="utf-8"))]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where somebody types: with the examples, some pictures, and `distcnn` on the path."""
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "distcnn"
    command.write_text(DISTCNN, encoding="utf-8")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("DISTCNN_STATE_DIR", str(tmp_path / "state"))
    shutil.copytree(ROOT / "docs" / "examples", tmp_path / "docs" / "examples")
    (tmp_path / "photos").mkdir()
    for name in ("boot.jpg", "photos/one.png", "photos/two.png"):
        Image.linear_gradient("L").save(tmp_path / name)
    return tmp_path


@pytest.mark.parametrize(
    "page", [p for p in PAGES if any(b.is_run for b in blocks(p))], ids=lambda page: page.name
)
def test_what_a_page_has_people_type_works(page: Path, folder: Path):
    told = blocks(page)
    for block in told:
        if block.language == "yaml" and block.title:
            (folder / block.title).write_text(block.text, encoding="utf-8")
    for block in told:
        if block.is_run:
            shell = ["bash", "-euo", "pipefail", "-c"]
            command = shell if block.language == "bash" else [sys.executable, "-c"]
            done = subprocess.run(
                [*command, block.text],
                cwd=folder,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=TIMEOUT_SECONDS,
                check=False,
            )
            assert done.returncode == 0, f"{block.text}\n{done.stdout}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_command_stands_where_nobody_runs_it(page: Path):
    for block in blocks(page):
        if block.language not in ("bash", "python", "yaml"):
            lines = [line for line in block.text.splitlines() if COMMAND.match(line)]
            assert not lines or any(FORM.search(line) for line in lines), block.text
    outside = FENCE.sub("", page.read_text(encoding="utf-8"))
    indented = [line for line in outside.splitlines() if line.startswith("    ")]
    assert not any(COMMAND.match(line) for line in indented)
