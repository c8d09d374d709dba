from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Generator

import pytest

from distcnn.collector import spare_imports

LEAVES_A_CYCLE = """
import atexit
{spare}

class Cycle:
    def __init__(self):
        self.itself = self

    def __del__(self):
        print("walked", flush=True)

Cycle()
atexit.register(print, "ended", flush=True)
"""
SPARE = "from distcnn.collector import spare_imports; spare_imports()"


@pytest.mark.parametrize(("spare", "said"), [("", ["ended", "walked"]), (SPARE, ["ended"])])
def test_a_program_ends_without_a_last_walk(spare: str, said: list[str]):
    done = subprocess.run(
        [sys.executable, "-c", LEAVES_A_CYCLE.format(spare=spare)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.split() == said


@pytest.fixture
def _threshold_kept() -> Generator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


@pytest.mark.usefixtures("_threshold_kept")
@pytest.mark.parametrize(("before", "after"), [(700, 10_000), (50_000, 50_000), (0, 0)])
def test_a_collector_that_is_off_or_more_patient_is_left_so(before: int, after: int):
    gc.set_threshold(before)
    spare_imports()
    assert gc.get_threshold()[0] == after
