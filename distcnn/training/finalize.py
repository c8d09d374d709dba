"""`finalize`: choose the checkpoint by validation, read the test split once, write the results."""

from __future__ import annotations

import resource
import sys
from dataclasses import asdict
from typing import Any

from safetensors.torch import save as save_safetensors

from distcnn.config import RunConfig
from distcnn.files import write_atomically
from distcnn.run_directory.events import count_restarts
from distcnn.training import provenance
from distcnn.training.evaluation import choose_checkpoint, evaluate
from distcnn.training.keeper import Outcome
from distcnn.training.place import Place


def finalize(config: RunConfig, place: Place, outcome: Outcome) -> dict[str, Any] | None:
    """Evaluate what a completed training chose; the first worker writes and returns the results.

    This is where a run reads the test split, after every choice has been made. The chosen weights
    are left as safetensors, for use without this package.
    """
    run, workers = place.run, place.workers
    chosen = choose_checkpoint(run) if workers.is_first else None
    module, measured = evaluate(config, run, chosen, place.dataset, ["val", "test"], workers)
    if chosen is None:
        return None
    place.fence.check()
    weights = module.kept_network.state_dict()
    contiguous = {name: tensor.cpu().contiguous() for name, tensor in weights.items()}
    write_atomically(run.weights_path, save_safetensors(contiguous))
    results = {
        **summarize(config, place, outcome),
        **measured,
        "weights_sha256": run.read_checkpoints()[-1].weights_sha256,
        "chosen": {
            "epoch": chosen.epoch,
            "step": chosen.step,
            "weights_sha256": chosen.weights_sha256,
        },
    }
    run.write_results(results)
    run.append_event("finalized", attempt=place.fence.attempt)
    return results


def record_end(config: RunConfig, place: Place, outcome: Outcome) -> dict[str, Any]:
    """Write and return the results of a training that ended before it was complete."""
    results = summarize(config, place, outcome)
    place.fence.check()
    place.run.write_results(results)
    return results


def summarize(config: RunConfig, place: Place, outcome: Outcome) -> dict[str, Any]:
    """What the results of every ended training hold, however it ended."""
    counters = outcome.counters
    restarts = count_restarts(place.run.read_events())
    return {
        "status": outcome.status,
        "reason": outcome.reason,
        "name": config.name,
        "epochs": counters.epoch,
        "attempts": place.fence.attempt,
        "train_seconds": round(counters.train_seconds, 3),
        "images_per_second": round(counters.num_images / max(counters.train_seconds, 1e-9), 1),
        "peak_memory_mib": _peak_memory_mib(),
        "num_parameters": sum(layer.num_parameters for layer in config.model.layers),
        "precision": config.training.precision,
        "workers": {
            "count": config.workers.count,
            "cpus": config.workers.cpus,
            "gpus": config.workers.gpus,
            "hosts": list(place.hosts),
        },
        "restarts": asdict(restarts),
        "data": {"name": place.dataset.name, "sha256": place.dataset.sha256},
        "hardware": provenance.hardware(config),
        "versions": provenance.versions(),
    }


def _peak_memory_mib() -> float:
    """The most memory that this process has held at once."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)
