"""The commands of the README and of the docs, run as a user types them.

A block of `bash` is run unless it is marked `cluster`: it needs one, or an account. What trains
does so on few images, for one epoch; everything else is as it stands there.
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

ROOT = Path(__file__).parents[1]
TIMEOUT_SECONDS = 300
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\S*)[ ]?([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
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


def prepare(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Put the examples, some pictures and `distcnn` where a user types commands."""
    (folder / "bin").mkdir()
    command = folder / "bin" / "distcnn"
    command.write_text(DISTCNN, encoding="utf-8")
    command.chmod(0o755)
    patch.setenv("PATH", f"{command.parent}:{os.environ['PATH']}")
    patch.setenv("DISTCNN_STATE_DIR", str(folder / "state"))
    shutil.copytree(ROOT / "docs" / "examples", folder / "docs" / "examples")
    (folder / "photos").mkdir()
    for name in ("boot.jpg", "photos/one.png", "photos/two.png"):
        Image.linear_gradient("L").save(folder / name)


def run_blocks(page: Path, folder: Path) -> None:
    """Run the page's blocks in their order, each to success."""
    found = blocks(page)
    for block in found:
        if block.language == "yaml" and block.title:
            (folder / block.title).write_text(block.text, encoding="utf-8")
    for block in found:
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
