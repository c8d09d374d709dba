"""A run on this machine, from its config to its results."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from distcnn.config import RunConfig
from distcnn.data.dataset import Dataset, load
from distcnn.data.module import divide
from distcnn.errors import UserError
from distcnn.location import Location
from distcnn.progress import Watcher
from distcnn.run_directory.lease import Lease
from distcnn.run_directory.run import RunDirectory, new_run, storage_errors_explained
from distcnn.training import precision, provenance
from distcnn.training.control import Control, InterruptedNow
from distcnn.training.finalize import finalize, summarize
from distcnn.training.fit import fit
from distcnn.training.place import Place


@dataclass(frozen=True)
class RunResult:
    """A run that has ended, for now or for good."""

    run: RunDirectory
    results: dict[str, Any]
    """What `results.json` holds."""
    signal_number: int | None = None
    """The signal that stopped it, if one did."""


def train(config: RunConfig, watcher: Watcher, run_dir: Location | None = None) -> RunResult:
    """Train a new run on this machine and finalize it.

    Raises:
        UserError: the data cannot be had, the run directory cannot be written, ...
    """
    config, dataset = resolve(config, watcher)
    run = new_run(config.name, config.storage.directory, run_dir)
    with _leased(run, watcher) as lease:
        run.write_provenance(provenance.collect(config, dataset))
        # Last: a folder with a config in it is a run, which can be resumed.
        run.write_config(config)
        watcher.note(f"Run directory: {run.path}")
        return _attempt(config, dataset, run, lease, watcher)


def resume(run: RunDirectory, watcher: Watcher) -> RunResult:
    """Go on with a run from its newest committed checkpoint; a finished one is left as it is.

    Raises:
        UserError: another process writes it, its config was changed, or what it was trained on is
            not to be had here.
    """
    results = run.read_results()
    if results is not None and results["status"] == "completed":
        watcher.note("This run is finished: there is nothing left to do, and nothing was done")
        return RunResult(run, results)
    config, dataset = resolve(run.read_config(), watcher)
    with _leased(run, watcher) as lease:
        _check_same_ground(run, config, dataset, watcher)
        return _attempt(config, dataset, run, lease, watcher)


def resolve(config: RunConfig, watcher: Watcher) -> tuple[RunConfig, Dataset]:
    """Decide, once, whatever the config leaves to the machine; load the data.

    Raises:
        UserError: the data cannot be had, or a GPU is asked for and there is none.
    """
    dataset = load(config.data.source, config.data.directory, watcher.note)
    divide(dataset, config)  # Sizes that do not fit are to be told before a run is made.
    gpus = config.workers.gpus
    if gpus is None:
        gpus = int(torch.cuda.is_available())
    elif gpus and not torch.cuda.is_available():
        raise UserError(
            "workers.gpus = 1, but torch finds no GPU on this machine; `distcnn doctor` says more"
        )
    chosen = config.training.precision
    if chosen == "auto":
        chosen, reason = precision.decide(config.model, torch.device("cuda" if gpus else "cpu"))
        watcher.note(f"Precision: {chosen}, since {reason}")
    directory = config.data.directory
    storage = config.storage.directory
    resolved = config.with_values(
        data={
            "source": dataset.name,
            "directory": directory and str(directory.expanduser().absolute()),
        },
        training={"precision": chosen},
        workers={"cpus": config.workers.cpus or torch.get_num_threads(), "gpus": gpus},
        storage={
            "directory": str(
                storage.expanduser().absolute() if isinstance(storage, Path) else storage
            )
        },
    )
    return resolved, dataset


def _attempt(
    config: RunConfig, dataset: Dataset, run: RunDirectory, lease: Lease, watcher: Watcher
) -> RunResult:
    control = Control(config.training.checkpoint_every_steps)
    place = Place(run, lease, dataset, control, watcher)
    run.append_event(
        "attempt",
        attempt=lease.attempt,
        versions=provenance.versions(),
        hardware=provenance.hardware(config),
    )
    # To the end of finalizing: a signal then comes too late to stop anything.
    with _leaving_at_once(), control.listening():
        outcome = fit(config, place)
        run.append_event(outcome.status, attempt=lease.attempt, reason=outcome.reason)
        if outcome.status == "completed":
            return RunResult(run, finalize(config, place, outcome))
        results = summarize(config, place, outcome)
        lease.check()
        run.write_results(results)
        return RunResult(run, results, outcome.signal_number)


@contextmanager
def _leaving_at_once() -> Generator[None]:
    try:
        yield
    except InterruptedNow:
        raise KeyboardInterrupt from None


@contextmanager
def _leased(run: RunDirectory, watcher: Watcher) -> Generator[Lease]:
    with storage_errors_explained(run):
        lease = Lease.acquire(run.lease, watcher.note)
        try:
            yield lease
        finally:
            lease.release()


def _check_same_ground(
    run: RunDirectory, config: RunConfig, dataset: Dataset, watcher: Watcher
) -> None:
    """Refuse another config or other data; say where another machine may give other last bits."""
    before = run.read_provenance()
    if before is None:
        watcher.note(
            f"{run.path} has no provenance.json: whether its config, its data and this machine are"
            " those it began with cannot be told"
        )
        return
    if provenance.config_sha256(config) != before["config_sha256"]:
        raise UserError(
            f"{run.config_path} is not what this run began with; half of a run under another config"
            f" would be neither. Start a new run with it: distcnn train {run.config_path}"
        )
    if dataset.sha256 != before["data"]["sha256"]:
        raise UserError(
            f"{run.path} was trained on other data ({before['data']['name']},"
            f" {before['data']['sha256'][:12]}...) than is found here ({dataset.name},"
            f" {dataset.sha256[:12]}...); set DISTCNN_DATA_DIR to the data it began with"
        )
    then = before["hardware"] | before["versions"]
    now = provenance.hardware(config) | provenance.versions()
    for part in ("cpu", "instruction_set", "gpu", "torch"):
        if now[part] != then[part]:
            watcher.note(
                f"This run began on another {part} ({then[part]}, here {now[part]}):"
                " it goes on, but its last bits may differ from those of an undisturbed run"
            )
