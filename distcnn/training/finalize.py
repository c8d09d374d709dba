"""`finalize`: choose the checkpoint by validation, read the test split once, write the results."""

from __future__ import annotations

from typing import Any

from safetensors.torch import save as save_safetensors

from distcnn.config import RunConfig
from distcnn.files import write_atomically
from distcnn.training.evaluation import choose_checkpoint, evaluate
from distcnn.training.outcome import Outcome
from distcnn.training.place import Place
from distcnn.training.provenance import Ground
from distcnn.training.results import summarize


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
    run.write_results(results)
    run.append_event("finalized", attempt=place.fence.attempt)
    return results
