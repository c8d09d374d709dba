"""A run that is killed and resumed has the bits of one that was left alone."""

from __future__ import annotations

import signal
from pathlib import Path

from tests.launches import end
from tests.runs import (
    assert_identical,
    distcnn,
    saves,
    start_as_typed,
    train_command,
    wait_for,
)


def test_kill_9_and_resume(tmp_path: Path, undisturbed: Path) -> None:
    run = tmp_path / "run"
    process = start_as_typed(train_command(run))
    wait_for(lambda: saves(run) >= 10, process)
    process.kill()
    output, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, output
    end(start_as_typed(distcnn("resume", run)))
    assert_identical(run, undisturbed)
