"""`finalize`: choose the checkpoint by validation, read the test split once, write the results."""

from __future__ import annotations

import resource
import sys
from typing import Any

from safetensors.torch import save as save_safetensors

from distcnn.config import RunConfig
from distcnn.files import write_atomically
from distcnn.training import provenance
from distcnn.training.evaluation import choose_checkpoint, evaluate
from distcnn.training.keeper import Outcome
from distcnn.training.place import Place


def finalize(config: RunConfig, place: Place, outcome: Outcome) -> dict[str, Any]:
    """Evaluate what a completed training chose; returns and writes `results.json`.

    This is where a run reads the test split, after every choice has been made. The chosen weights
    are left as safetensors, for use without this package.
    """
    run = place.run
    chosen = choose_checkpoint(run)
    module, measured = evaluate(config, run, chosen, place.dataset, ["val", "test"])
    place.lease.check()
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
    run.append_event("finalized", attempt=place.lease.attempt)
    return results


def summarize(config: RunConfig, place: Place, outcome: Outcome) -> dict[str, Any]:
    """What the results of every ended training hold, however it ended."""
    counters = outcome.counters
    return {
        "status": outcome.status,
        "reason": outcome.reason,
        "name": config.name,
        "epochs": counters.epoch,
        "attempts": place.lease.attempt,
        "train_seconds": round(counters.train_seconds, 3),
        "images_per_second": round(counters.num_images / max(counters.train_seconds, 1e-9), 1),
        "peak_memory_mib": _peak_memory_mib(),
        "num_parameters": sum(layer.num_parameters for layer in config.model.layers),
        "precision": config.training.precision,
        "data": {"name": place.dataset.name, "sha256": place.dataset.sha256},
        "hardware": provenance.hardware(config),
        "versions": provenance.versions(),
    }


def _peak_memory_mib() -> float:
    """The most memory that this process has held at once."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)
