"""What a trial's process makes of a training that raises."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from distcnn.config import RunConfig
from distcnn.data.dataset import Dataset
from distcnn.orchestration import trial
from distcnn.orchestration.line import LineLostError
from distcnn.run_directory.lease import LeaseLostError
from distcnn.sweep.directory import SweepDirectory
from distcnn.training.provenance import Ground


class Desk:
    """In the place of the line to the driver's desk: one task, and what is told of it."""

    def __init__(self, config: RunConfig) -> None:
        self.left: tuple[str, str, str] | None = None
        self._task = {"trial": 1, "purpose": "trial", "epoch": 0, "verdict": ""}
        self._task["config"] = config.to_plain()

    def ask(self, name: str, number: int, *more: Any) -> Any:
        if name == "left":
            self.left = more[0], more[1], more[2]
        return self._task if name == "task" else ""

    def tell(self, name: str, number: int, message: str) -> None:
        pass


@pytest.fixture
def run_trial(
    tmp_path: Path,
    tiny_config: RunConfig,
    tiny_dataset: Dataset,
    monkeypatch: pytest.MonkeyPatch,
):
    """Run one trial whose training raises: what the desk is told, and the trial's folder."""

    def run_trial(error: Exception) -> tuple[tuple[str, str, str], Path]:
        def raises(config: RunConfig, place: Any) -> None:
            raise error

        monkeypatch.setattr(trial, "fit_or_fail", raises)
        monkeypatch.setattr(trial, "load_data", lambda *arguments: tiny_dataset)
        desk = Desk(tiny_config)
        monkeypatch.setattr(trial, "Line", lambda address: desk)
        directory = SweepDirectory(tmp_path)
        shop = trial.Shop(directory, Ground.here(tiny_config, tiny_dataset))
        process = trial.TrialProcess.__new__(trial.TrialProcess)
        process.setup({"task": 1}, shop, None)  # pyright: ignore[reportArgumentType]
        ended: list[int] = []
        monkeypatch.setattr(trial.os, "_exit", ended.append)
        assert process.step() == {"done": True}
        # What raises may have left the process in any state: it takes no other trial.
        assert ended == ([1] if isinstance(error, RuntimeError) else [])
        assert desk.left is not None
        return desk.left, Path(str(directory.trial(1).path))

    return run_trial


def test_a_trial_that_raises_has_failed_and_its_results_say_why(run_trial) -> None:
    told, folder = run_trial(RuntimeError("4 apples and 3 pears in step 17"))
    status, reason, cause = told
    assert status == "failed"
    assert reason.splitlines()[0] == "RuntimeError: 4 apples and 3 pears in step 17"
    assert cause == "RuntimeError: # apples and # pears in step #", "the same for other steps"
    [results] = [json.loads(path.read_bytes()) for path in folder.rglob("results.json")]
    assert (results["status"], results["reason"]) == ("failed", reason)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "broken"),
        (LeaseLostError("a later attempt has taken it over"), "lost"),
        (LineLostError("the driver is out of reach"), "lost"),
    ],
)
def test_what_is_not_the_trials_fault_is_no_result_of_it(run_trial, error, status) -> None:
    told, folder = run_trial(error)
    assert told[0] == status
    assert not list(folder.rglob("results.json"))
