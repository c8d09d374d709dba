from __future__ import annotations

import subprocess
import sys

import pytest

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
