"""`make bench-accuracy`: how accurate the recipes chosen on validation data are, over seeds.

Hours on a CPU. Runs are kept, one that was interrupted goes on, and one that is finished is only
read. Leaves every number and the recipe in `benchmarks/results_accuracy.json`, among those of other
seeds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.bench import say, spread
from distcnn.run_directory.run import RunDirectory

RESULTS = Path(__file__).with_name("results_accuracy.json")
_CONFIGS = ("accurate", "wide")


def main() -> None:
    """Train what is not trained yet, save, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--configs", nargs="+", default=_CONFIGS)
    parser.add_argument("--seeds", type=int, nargs="+", default=range(5))
    parser.add_argument("--at-once", type=int, default=1, help="runs; give each its workers.cpus")
    parser.add_argument("--folder", type=Path, default=Path("runs/accuracy"))
    parser.add_argument("overrides", nargs="*", help="section.field=value, of runs not begun yet")
    options = parser.parse_args()
    seen: dict[str, dict[str, Any]] = json.loads(RESULTS.read_bytes()) if RESULTS.exists() else {}

    def train(wanted: tuple[str, int]) -> RunDirectory:
        config, seed = wanted
        return _trained(config, seed, options.folder / f"{config}-{seed}", options.overrides)

    everything = [(config, seed) for config in options.configs for seed in options.seeds]
    with ThreadPoolExecutor(options.at_once) as pool:
        for (config, seed), run in zip(everything, pool.map(train, everything), strict=True):
            recipe, result = _recipe(run), _result(run)
            of_config = seen.setdefault(config, {"recipe": recipe, "seeds": {}})
            if of_config["recipe"] != recipe:
                sys.exit(f"{run.path} is not by the recipe that {RESULTS} has of {config}")
            of_config["seeds"][str(seed)] = result
            say(f"{config}, seed {seed}: test accuracy {result['test']:.4f}")
            RESULTS.write_text(json.dumps(seen, indent=2) + "\n", encoding="utf-8")
    print(table(seen))


def _trained(config: str, seed: int, run: Path, overrides: Sequence[str]) -> RunDirectory:
    """A finished run, which is begun, gone on with, or finished already."""
    begin = ["train", config, f"seed={seed}", *overrides, "--run-dir", str(run)]
    words = ["resume", str(run)] if (run / "config.yaml").exists() else begin
    subprocess.run([sys.executable, "-m", "distcnn.cli", *words], check=True)
    return RunDirectory(run)


def _recipe(run: RunDirectory) -> dict[str, Any]:
    """What decides the result of a run, but for its seed."""
    identity = run.read_config().identity
    return {part: identity[part] for part in identity if part not in ("name", "seed", "storage")}


def _result(run: RunDirectory) -> dict[str, Any]:
    results = run.read_results()
    if results is None:
        sys.exit(f"{run.path} has not come to its end")
    return {
        "val": results["val"]["accuracy"],
        "test": results["test"]["accuracy"],
        "test_interval_95": results["test"]["accuracy_interval_95"],
        "epochs": results["epochs"],
        "train_seconds": results["train_seconds"],
        "num_parameters": results["num_parameters"],
        "precision": results["precision"],
        "workers": results["workers"],
        "hardware": results["hardware"],
        "versions": results["versions"],
        "weights_sha256": results["chosen"]["weights_sha256"],
    }


def table(seen: dict[str, dict[str, Any]]) -> str:
    """For the README. Lowest to highest of five: the true median is in it with 94 % confidence."""
    lines = [
        "| config | parameters | test accuracy | on validation | minutes of training | n |",
        "|---|---|---|---|---|---|",
    ]
    for config, of_config in seen.items():
        runs = list(of_config["seeds"].values())
        accuracies = spread([run["test"] for run in runs], ".4f")
        validated = statistics.median(run["val"] for run in runs)
        minutes = spread([run["train_seconds"] / 60 for run in runs], ".1f")
        lines.append(
            f"| `{config}` | {runs[0]['num_parameters']:,} | {accuracies} | {validated:.4f}"
            f" | {minutes} | {len(runs)} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
