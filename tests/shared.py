"""Reference results of tests, made once for all processes of pytest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return the folder of that name, made by the process that asks first."""
    base = factory.getbasetemp()
    # Each process of pytest-xdist has a folder of its own in that of the session.
    root = base.parent if base.name.startswith("popen-") else base
    folder = root / "shared" / name
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        if not (folder / "done").exists():
            make(folder / "made")
            (folder / "done").touch()
    return folder / "made"
