"""What recovered runs are compared with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.runs import finish, train_command


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of a run that was left alone."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    finish(train_command(run))
    return run
