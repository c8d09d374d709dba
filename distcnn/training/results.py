"""What `results.json` holds of every run, however it ended."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from distcnn.config import RunConfig
from distcnn.report.write import write_report_of_ended
from distcnn.run_directory.events import count_restarts
from distcnn.run_directory.lease import Fence
from distcnn.run_directory.run import RunDirectory
from distcnn.training import provenance
from distcnn.training.outcome import Outcome
from distcnn.training.provenance import Ground
from distcnn.training.snapshot import newest_counters
from distcnn.training.trackers import Trackers


def record_end(
    config: RunConfig,
    run: RunDirectory,
    outcome: Outcome,
    fence: Fence,
    ground: Ground,
    hosts: Sequence[str],
    notify: Callable[[str], None],
) -> dict[str, Any]:
    """Write and return the results of a training that is not finalized, for now or at all."""
    results = summarize(config, run, outcome, fence.attempt, ground, hosts)
    fence.check()
    tell_results(config, run, results, notify)
    if outcome.status == "failed":
        write_report_of_ended(run.path, notify)
    return results


def tell_results(
    config: RunConfig, run: RunDirectory, results: dict[str, Any], notify: Callable[[str], None]
) -> None:
    """Write them, and tell the trackers."""
    run.write_results(results)
    trackers = Trackers(run, config, notify)
    trackers.end(results)
    trackers.close()


def recorded_outcome(run: RunDirectory) -> Outcome:
    """How the training of a run ended, by its results and its newest checkpoint."""
    results = run.read_results() or {}
    status = results.get("status", "stopped")
    return Outcome(status, newest_counters(run), results.get("reason", ""))


def summarize(
    config: RunConfig,
    run: RunDirectory,
    outcome: Outcome,
    attempt: int,
    ground: Ground,
    hosts: Sequence[str],
) -> dict[str, Any]:
    """What the results of every ended training hold.

    Args:
        config: the run's, resolved.
        run: what has happened to it.
        outcome: of its last attempt.
        attempt: the number of that.
        ground: what it stood on.
        hosts: of each worker, in the order of their ranks.
    """
    counters = outcome.counters
    return {
        "status": outcome.status,
        "reason": outcome.reason,
        "name": config.name,
        "epochs": counters.epoch,
        "attempts": attempt,
        "train_seconds": round(counters.train_seconds, 3),
        "images_per_second": round(counters.num_images / max(counters.train_seconds, 1e-9), 1),
        "peak_memory_mib": _peak_memory_mib(),
        "precision": config.training.precision,
        **({} if config.workload else {"num_parameters": config.model.num_parameters}),
        "workers": {
            "count": config.workers.count,
            "cpus": config.workers.cpus,
            "gpus": config.workers.gpus,
            "hosts": list(hosts),
        },
        "restarts": asdict(count_restarts(run.read_events())),
        "data": ground.data,
        "hardware": ground.hardware,
        "versions": provenance.versions(),
    }


def _peak_memory_mib() -> float:
    """The most memory that this process has held at once."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)
