"""The layout of a sweep directory, and its documents."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import StringIO
from typing import Any

from distcnn import config_file
from distcnn.config import RunConfig
from distcnn.config_file import plain_to_yaml
from distcnn.errors import UsageError
from distcnn.files import write_atomically
from distcnn.location import Location
from distcnn.run_directory.run import RunDirectory, list_runs, new_run
from distcnn.sweep import file
from distcnn.sweep.file import Sweep
from distcnn.sweep.study import Study

_BASE = "base.yaml"
_TRIALS = "trials"


@dataclass(frozen=True)
class SweepDirectory:
    """Where everything of one sweep is."""

    path: Location

    @property
    def sweep_path(self) -> Location:
        """What is searched; `distcnn tune` takes it as is."""
        return self.path / "sweep.yaml"

    @property
    def ledger_path(self) -> Location:
        """What was decided, and what happened."""
        return self.path / "ledger.jsonl"

    @property
    def lease(self) -> Location:
        """Folder of the claims of those that drive it."""
        return self.path / "lease"

    @property
    def trials(self) -> Location:
        """Folder of the trials' run directories."""
        return self.path / _TRIALS

    @property
    def ray_logs(self) -> Location:
        """Folder of the trials' logs, where a sweep on this machine has failed."""
        return self.path / "ray-logs"

    @property
    def leaderboard_path(self) -> Location:
        """All trials, the best one first."""
        return self.path / "leaderboard.csv"

    @property
    def best_path(self) -> Location:
        """The winner's run config."""
        return self.path / "best.yaml"

    @property
    def report_path(self) -> Location:
        """All of it as a page."""
        return self.path / "report.html"

    @property
    def results_path(self) -> Location:
        """How the sweep ended."""
        return self.path / "results.json"

    def trial(self, number: int) -> RunDirectory:
        """A trial's run directory."""
        return RunDirectory(self.trials / f"{number:04d}")

    def read_sweep(self) -> Sweep:
        """What is searched, as it was resolved.

        Raises:
            ConfigError: it cannot be read, or is not valid.
        """
        return file.load(str(self.sweep_path))

    def write_sweep(self, sweep: Sweep) -> None:
        """Record what is searched. Last the sweep itself: with it, the folder is a sweep."""
        write_atomically(self.path / _BASE, config_file.to_yaml(sweep.base).encode())
        plain = file.to_plain(sweep.config, _BASE)
        write_atomically(self.sweep_path, plain_to_yaml(plain).encode())

    def read_results(self) -> dict[str, Any] | None:
        """How the sweep ended; None while it has not."""
        return RunDirectory(self.path).read_results()

    def read_last_results(self) -> dict[str, Any] | None:
        """How the sweep stands, if whoever drove it last has told."""
        return RunDirectory(self.path).read_last_results()

    def write_results(self, results: dict[str, Any]) -> None:
        """Record how the sweep ended."""
        write_atomically(self.results_path, (json.dumps(results, indent=2) + "\n").encode())

    def write_leaderboard(self, study: Study) -> None:
        """Record how the trials did, the best one first."""
        write_atomically(self.leaderboard_path, _leaderboard(study, self).encode())

    def write_best(self, config: RunConfig) -> None:
        """Record the winner's config, which `distcnn train` and `launch` take."""
        write_atomically(self.best_path, config_file.to_yaml(config).encode())


def _leaderboard(study: Study, directory: SweepDirectory) -> str:
    fields = list(study.sweep.space)
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    measures = ("epoch", "val_accuracy", "val_loss")
    writer.writerow(
        [
            "rank",
            "trial",
            "status",
            *(f"best_{name}" for name in measures),
            "epochs",
            "train_seconds",
            *fields,
            "run",
            "reason",
        ]
    )
    for rank, trial in enumerate(study.ranking, start=1):
        best = trial.best_report(study.sweep.config)
        writer.writerow(
            [
                rank,
                trial.number,
                trial.status,
                *((best.epoch, best.val_accuracy, best.val_loss) if best else ("", "", "")),
                trial.epoch,
                round(trial.reports[-1].train_seconds, 3) if trial.reports else "",
                *(_cell(trial.values[field]) for field in fields),
                f"trials/{directory.trial(trial.number).path.name}",
                trial.headline,
            ]
        )
    return text.getvalue()


def _cell(value: object) -> object:
    return value if isinstance(value, (int, float, str)) else json.dumps(value)


def is_sweep(path: Location) -> bool:
    """Whether a folder holds a sweep."""
    return (path / "sweep.yaml").is_file()


def sweep_of(path: Location) -> Location | None:
    """The sweep of which a folder is a trial; None where it is none."""
    folder = path.absolute().parent
    return folder.parent if folder.name == _TRIALS and is_sweep(folder.parent) else None


def new_sweep_directory(name: str, storage: Location, path: Location | None) -> SweepDirectory:
    """Make the folder of a new sweep: `path`, or else `<storage>/<name>-<time>`.

    Raises:
        UsageError: `path` holds something already, or the folder cannot be made.
    """
    if path is not None and is_sweep(path):
        raise UsageError(f"{path} is a sweep already; go on with it: distcnn resume {path}")
    return SweepDirectory(new_run(name, storage, path).path)


def runs_and_trials(folder: Location) -> Iterator[RunDirectory]:
    """The runs in a folder, oldest first, then the trials of each sweep in it."""
    yield from list_runs(folder)
    for path in [folder, *sorted(folder.iterdir())]:
        with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            if is_sweep(path):
                trials = list_runs(SweepDirectory(path).trials)
                yield from sorted(trials, key=lambda run: run.path.name)
