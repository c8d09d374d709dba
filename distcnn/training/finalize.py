"""`finalize`: choose the checkpoint by validation, read the test split once, write the results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as save_safetensors

from distcnn.config import RunConfig
from distcnn.files import write_atomically
from distcnn.report.write import write_report_of_ended
from distcnn.run_directory.checkpoint_index import CheckpointRecord
from distcnn.run_directory.predictions import Predictions
from distcnn.training.chosen import choose_checkpoint
from distcnn.training.evaluation import evaluate
from distcnn.training.outcome import Outcome
from distcnn.training.place import Place
from distcnn.training.provenance import Ground
from distcnn.training.results import summarize, tell_results


def finalize(config: RunConfig, place: Place, outcome: Outcome) -> dict[str, Any] | None:
    """Evaluate what a completed training chose; the first worker writes and returns the results.

    This is where a run reads the test split, after every choice has been made. The chosen weights
    are left as safetensors, for use without this package.
    """
    run = place.run
    chosen = choose_checkpoint(run) if place.workers.is_first else None
    measure = _measure_classifier if config.workload is None else _measure_workload
    measured = measure(config, place, chosen)
    if chosen is None:
        return None
    ground = Ground.here(config, place.dataset)
    results = {
        **summarize(config, run, outcome, place.fence.attempt, ground, place.hosts),
        **measured,
        "weights_sha256": run.read_checkpoints()[-1].weights_sha256,
        "chosen": {
            "epoch": chosen.epoch,
            "step": chosen.step,
            "weights_sha256": chosen.weights_sha256,
        },
    }
    tell_results(config, run, results, place.watcher.note)
    run.append_event("finalized", attempt=place.fence.attempt)
    write_report_of_ended(run.path, place.watcher.note)
    return results


def _measure_classifier(
    config: RunConfig, place: Place, chosen: CheckpointRecord | None
) -> dict[str, Any]:
    """All workers share the images out; the first leaves the weights and the predictions."""
    run, dataset = place.run, place.dataset
    module, measured = evaluate(config, run, chosen, dataset, ["val", "test"], place.workers)
    if chosen is not None:
        place.fence.check()
        _leave_weights(place, module.kept_network.state_dict())
        # Of the test split, which was evaluated last.
        probabilities, labels = (tensor.cpu().numpy() for tensor in module.predicted)
        kept = Predictions.of(probabilities, labels.astype(np.uint8), dataset.test_images)
        write_atomically(run.predictions_path, kept.encode())
    return measured


def _measure_workload(
    config: RunConfig, place: Place, chosen: CheckpointRecord | None
) -> dict[str, Any]:
    """The first worker does it alone: how to share it out is not ours to know."""
    place.workers.part()  # Or its metrics would wait for those of the others.
    if chosen is None:
        return {}
    from distcnn.training.workload_evaluation import evaluate_workload
    from distcnn.training.workload_fit import tensors_of

    module, measured = evaluate_workload(config, place.run, chosen, ["val", "test"])
    place.fence.check()
    _leave_weights(place, tensors_of(module))
    return measured


def _leave_weights(place: Place, weights: Mapping[str, torch.Tensor]) -> None:
    # Copies: safetensors take no two names for one memory, as tied weights have.
    kept = {
        name: tensor.cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in weights.items()
    }
    write_atomically(place.run.weights_path, save_safetensors(kept))
