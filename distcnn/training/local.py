"""A run on this machine, from its config to its results."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import psutil

from distcnn.config import RunConfig
from distcnn.data.dataset import Dataset
from distcnn.errors import UsageError
from distcnn.location import Location
from distcnn.progress import Watcher
from distcnn.run_directory.lease import Lease
from distcnn.run_directory.run import (
    RunDirectory,
    RunResult,
    completed_error,
    leased,
    new_run,
)
from distcnn.training import provenance
from distcnn.training.control import Control, InterruptedNow
from distcnn.training.finalize import finalize
from distcnn.training.fit import OutOfMemoryError, fit
from distcnn.training.outcome import Outcome
from distcnn.training.place import Place
from distcnn.training.provenance import Ground
from distcnn.training.resolve import resolve
from distcnn.training.results import record_end
from distcnn.training.snapshot import newest_counters
from distcnn.user_code import UserCodeError
from distcnn.workers import Workers


def train(config: RunConfig, watcher: Watcher, run_dir: Location | None = None) -> RunResult:
    """Train a new run on this machine and finalize it.

    Raises:
        UserError: the data cannot be had, the run directory cannot be written, ...
    """
    workers = config.workers
    if workers.count > 1:
        one = "workers.min=1 workers.max=1" if workers.is_elastic else "workers.count=1"
        raise UsageError(
            f"workers.count = {workers.count}, and `distcnn train` is one process:"
            f" use `distcnn launch`, which runs on this machine as well, or set {one}"
        )
    config, dataset = resolve(config, watcher)
    run = new_run(config.name, config.storage.directory, run_dir)
    with leased(run, watcher.note) as lease:
        run.write_provenance(provenance.collect(config, Ground.here(config, dataset), "local"))
        # Last: a folder with a config in it is a run, which can be resumed.
        run.write_config(config)
        watcher.note(f"Run directory: {run.path}")
        return _attempt(config, dataset, run, lease, watcher)


def resume(run: RunDirectory, watcher: Watcher, *, restart: bool = False) -> RunResult:
    """Resume a run from its newest committed checkpoint; a completed one is left as it is.

    Args:
        run: an interrupted run.
        watcher: receives progress and notes.
        restart: discard its checkpoints and train from step 0.

    Raises:
        UserError: another process writes it, its config was changed, its data are not available
            here, or none of its checkpoints can be read.
    """
    results = run.read_results()
    if results is not None and results["status"] == "completed":
        if restart:
            raise completed_error(run)
        watcher.note("This run is finished: there is nothing left to do, and nothing was done")
        return RunResult(run, results)
    config, dataset = resolve(run.read_config(), watcher)
    with leased(run, watcher.note) as lease:
        provenance.check_same_ground(run, config, Ground.here(config, dataset), watcher.note)
        if restart:
            run.start_over(lease.fence)
        return _attempt(config, dataset, run, lease, watcher)


def fit_or_fail(config: RunConfig, place: Place) -> Outcome:
    """Train in this process, alone, and record the attempt; a lack of memory is an outcome."""
    attempt = place.fence.attempt
    place.run.append_event(
        "attempt",
        attempt=attempt,
        versions=provenance.versions(),
        hardware=provenance.hardware(config),
    )
    try:
        outcome = fit(config, place)
    except OutOfMemoryError as error:
        outcome = Outcome("failed", error.counters, str(error))
    except UserCodeError as error:
        place.run.append_event("failed", attempt=attempt, reason=str(error))
        raise
    place.run.append_event(outcome.status, attempt=attempt, reason=outcome.reason)
    return outcome


def _attempt(
    config: RunConfig, dataset: Dataset, run: RunDirectory, lease: Lease, watcher: Watcher
) -> RunResult:
    workers = Workers()
    control = Control(workers, config.training.checkpoint_every_steps)
    started = psutil.Process().create_time()
    place = Place(run, lease.fence, dataset, control, watcher, started, workers)
    # To the end of finalizing: a signal then comes too late to stop anything.
    with _leaving_at_once(), control.listening():
        try:
            outcome = fit_or_fail(config, place)
            if outcome.status == "completed":
                results = finalize(config, place, outcome)
                assert results is not None, "there is one worker, the first"
                return RunResult(run, results)
        except UserCodeError as error:
            _record_end(config, place, Outcome("failed", newest_counters(run), str(error)))
            raise
        return RunResult(run, _record_end(config, place, outcome), outcome.signal_number)


def _record_end(config: RunConfig, place: Place, outcome: Outcome) -> dict[str, Any]:
    ground = Ground.here(config, place.dataset)
    notify = place.watcher.note
    return record_end(config, place.run, outcome, place.fence, ground, place.hosts, notify)


@contextmanager
def _leaving_at_once() -> Generator[None]:
    try:
        yield
    except InterruptedNow:
        raise KeyboardInterrupt from None
