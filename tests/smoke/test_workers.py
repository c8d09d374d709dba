"""Two workers have the result of one, to the last bit."""

from __future__ import annotations

import json
from pathlib import Path

from tests.launches import ACROSS, end, launch_command
from tests.runs import assert_identical, start_as_typed


def test_two_workers_have_the_bits_of_one(tmp_path: Path, alone: Path) -> None:
    run = tmp_path / "run"
    end(start_as_typed(launch_command(run, *ACROSS, "workers.count=2")))
    assert_identical(run, alone)
    assert json.loads((run / "results.json").read_bytes())["workers"]["count"] == 2
