"""`make bench`: a plain loop, the best hand-written one and distcnn, in turn, on real data.

Every measurement is a process of its own, so that none warms another's caches; the three are
taken in turn, so that the machine's moods fall on all of them. Prints the README's table and
leaves every number in `benchmarks/results.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from distcnn.training.provenance import cpu_name

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).with_name("results.json")
DISTCNN = [sys.executable, "-m", "distcnn.cli"]
GOAL = 0.90
MAX_PLAIN_EPOCHS = 8


def main() -> None:
    """Measure, save, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of the throughput comparison")
    parser.add_argument("--seeds", type=int, default=3, help="of the time to 90 %%")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["DISTCNN_CACHE_DIR"] = f"{scratch}/cache"
        results = {
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            "throughput": throughput(options.rounds, Path(scratch)),
            "time_to_90": time_to_90(options.seeds, Path(scratch)),
            "startup": startup(options.seeds, Path(scratch)),
        }
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(table(results))


def machine() -> dict[str, Any]:
    """What the figures hold for."""
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    return {
        "cpu": cpu_name(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "python": platform.python_version(),
        "torch": version("torch"),
        "pytorch-lightning": version("pytorch-lightning"),
    }


def throughput(rounds: int, scratch: Path) -> dict[str, list[float]]:
    """Training images per second over one epoch, one figure a round and contender."""
    seen: dict[str, list[float]] = {"plain": [], "hand": [], "distcnn": []}
    for number in range(rounds):
        seen["plain"].append(_module("benchmarks.plain_loop")[-1]["images_per_second"])
        seen["hand"].append(_module("benchmarks.hand_loop")[-1]["images_per_second"])
        results = train(scratch / f"throughput-{number}", "article", "training.epochs=1")
        seen["distcnn"].append(results["images_per_second"])
        say(f"round {number + 1}/{rounds}: {_last(seen)} images/s")
    return seen


def time_to_90(seeds: int, scratch: Path) -> dict[str, list[dict[str, float]]]:
    """Seconds from process start: to the plain loop's first epoch above 90 %, to distcnn's end."""
    seen: dict[str, list[dict[str, float]]] = {"plain": [], "distcnn": []}
    for seed in range(seeds):
        arguments = [f"--seed={seed}", f"--goal={GOAL}", f"--max-epochs={MAX_PLAIN_EPOCHS}"]
        last = _module("benchmarks.plain_loop", *arguments)[-1]
        seen["plain"].append(
            {"seconds": last["seconds_since_start"], "test_accuracy": last["test_accuracy"]}
        )
        started = time.perf_counter()
        results = train(scratch / f"ninety-{seed}", "quick", f"seed={seed}")
        seen["distcnn"].append(
            {
                "seconds": time.perf_counter() - started,
                "train_seconds": results["train_seconds"],
                "test_accuracy": results["test"]["accuracy"],
                "peak_memory_mib": results["peak_memory_mib"],
            }
        )
        say(f"seed {seed}: {_last(seen)}")
    return seen


def startup(rounds: int, scratch: Path) -> dict[str, list[float]]:
    """Seconds from process start to an answer, or to the end of the first optimizer step."""
    commands = {
        "--help": ["--help"],
        "describe": ["describe"],
        "config error": ["train", "training.epochs=none"],
    }
    seen: dict[str, list[float]] = {name: [] for name in (*commands, "first step")}
    for number in range(rounds):
        for name, arguments in commands.items():
            started = time.perf_counter()
            subprocess.run([*DISTCNN, *arguments], capture_output=True, check=False)
            seen[name].append(time.perf_counter() - started)
        run = scratch / f"startup-{number}"
        train(run, "article", "training.epochs=1", "data.num_train=6400")
        seen["first step"].append(first_step_seconds(run))
    return seen


def first_step_seconds(run: Path) -> float:
    """From process start to the end of the first optimizer step, as the run's events tell."""
    lines = (run / "events.jsonl").read_text(encoding="utf-8").splitlines()
    events = [json.loads(line) for line in lines]
    return next(event["seconds_waited"] for event in events if event["event"] == "first_step")


def train(run: Path, config: str, *overrides: str) -> dict[str, Any]:
    """Run `distcnn train`; its results."""
    command = [*DISTCNN, "train", config, "data.source=fashion-mnist", *overrides]
    _run([*command, "--run-dir", str(run)])
    return json.loads((run / "results.json").read_bytes())


def _module(name: str, *arguments: str) -> list[dict[str, Any]]:
    """Run a module of this package; what it printed, line by line."""
    lines = _run([sys.executable, "-m", name, *arguments]).splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    return done.stdout


def table(results: dict[str, Any]) -> str:
    """The README's table: medians, and the spread from lowest to highest."""
    speed, ninety, start = results["throughput"], results["time_to_90"], results["startup"]
    plain = statistics.median(speed["plain"])
    hand = statistics.median(speed["hand"])
    ours = statistics.median(speed["distcnn"])
    plain_seconds = [run["seconds"] for run in ninety["plain"]]
    our_seconds = [run["seconds"] for run in ninety["distcnn"]]
    accuracies = [run["test_accuracy"] for run in ninety["distcnn"]]
    memory = [run["peak_memory_mib"] for run in ninety["distcnn"]]
    times_faster = statistics.median(plain_seconds) / statistics.median(our_seconds)
    return "\n".join(
        [
            "| | plain loop (a) | best hand loop (b) | distcnn | |",
            "|---|---|---|---|---|",
            f"| training images/s | {spread(speed['plain'], ',.0f')}"
            f" | {spread(speed['hand'], ',.0f')} | {spread(speed['distcnn'], ',.0f')}"
            f" | {ours / plain:.2f} x (a), {ours / hand:.2f} x (b); n = {len(speed['plain'])} |",
            f"| seconds to 90 % on test | {spread(plain_seconds, '.1f')} | |"
            f" {spread(our_seconds, '.1f')}"
            f" | {times_faster:.1f} x shorter; n = {len(our_seconds)} seeds,"
            f" test accuracy {min(accuracies):.4f} to {max(accuracies):.4f} |",
            *(
                f"| seconds to {name} | | | {spread(values, '.2f')} | n = {len(values)} |"
                for name, values in start.items()
            ),
            f"| peak memory, MiB | | | {spread(memory, '.0f')} | n = {len(memory)} |",
        ]
    )


def spread(values: Sequence[float], form: str) -> str:
    """Median, lowest and highest."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:{form}} ({low:{form}} to {high:{form}})"


def _last(seen: dict[str, Any]) -> str:
    return ", ".join(f"{name} {json.dumps(values[-1])}" for name, values in seen.items())


def say(message: str) -> None:
    """Tell how far the measuring is."""
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
