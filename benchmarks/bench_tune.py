"""`make bench-tune`: sweeps against Ray Tune's guide and against their own training time.

On real data, each contender in processes of its own. Leaves every number in
`benchmarks/results_tune.json`, beside those of other parts that this machine has measured before,
and prints the README's table once all are there.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch
import yaml

from benchmarks.bench import DISTCNN, ROOT, machine, say, spread
from benchmarks.bench_ray import proportional_mib

RESULTS = Path(__file__).with_name("results_tune.json")
_REAL = "data.source=fashion-mnist"
LEARNING_RATES = (0.001, 0.003)
CHANNELS = ((8, 16), (16, 32), (32, 64))  # Those of `tune`, the default sweep.
_PARTS = ("guide", "packed", "many", "simulated", "asha", "shared_gpu")
_EPOCHS = 2
# Trials that pack the cores long enough for the start of Ray and its processes to weigh little.
_PACKED_EPOCHS = 3
# Enough trials for the first of them, which go on since there is nothing to compare them with yet,
# to weigh little; on images that are few enough for three times as many to be trained to the end.
_ASHA_EPOCHS = 12
_ASHA_TRIALS = 40
_ASHA_IMAGES = 6000


def main() -> None:
    """Measure, save, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="of each comparison")
    parser.add_argument("--simulated", type=int, default=10_000, help="trials by a formula")
    parser.add_argument("--parts", nargs="+", choices=_PARTS, default=_PARTS, help="all by default")
    options = parser.parse_args()
    rounds: int = options.rounds
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["DISTCNN_CACHE_DIR"] = f"{scratch}/cache"
        folder = Path(scratch)
        _distcnn(_grid(folder), folder / "warm", ["training.epochs=1", "data.num_train=1280"])
        here = {**machine(), "ray": version("ray")}
        results: dict[str, Any] = json.loads(RESULTS.read_bytes()) if RESULTS.exists() else {}
        if results.get("machine") != here:
            results = {"machine": here}
        measures: dict[str, Callable[[], Any]] = {
            "guide": lambda: against_the_guide(rounds, folder),
            "packed": lambda: packed(rounds, folder),
            "many": lambda: many(folder),
            "simulated": lambda: simulated(options.simulated),
            "asha": lambda: asha(rounds, folder),
            "shared_gpu": lambda: shared_gpu(rounds, folder),
        }
        for part in options.parts:
            results[part] = measures[part]()
            results["when"] = datetime.now(UTC).isoformat(timespec="seconds")
            RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    if all(part in results for part in _PARTS):
        print(table(results))


def against_the_guide(rounds: int, scratch: Path) -> dict[str, list[float]]:
    """Trials per hour of the same trials, from process start to process end."""
    trials = [[lr, list(channels)] for lr in LEARNING_RATES for channels in CHANNELS]
    seen: dict[str, list[float]] = {"guide": [], "distcnn": []}
    for number in range(rounds):
        started = time.perf_counter()
        _guide(trials)
        seen["guide"].append(3600 * len(trials) / (time.perf_counter() - started))
        started = time.perf_counter()
        more = [f"training.epochs={_EPOCHS}"]
        _distcnn(_grid(scratch), scratch / f"guide-{number}", more)
        seen["distcnn"].append(3600 * len(trials) / (time.perf_counter() - started))
        say(f"round {number + 1}/{rounds}: trials/h {_last(seen)}")
    return seen


def packed(rounds: int, scratch: Path) -> dict[str, list[float]]:
    """Trials per hour against the trials' own training time, were it packed on the same cores."""
    seen: dict[str, list[float]] = {"whole sweep": [], "once warm": [], "overhead_seconds": []}
    for number in range(rounds):
        folder = scratch / f"packed-{number}"
        more = [f"training.epochs={_PACKED_EPOCHS}", "max_failures_alike=2"]
        started = time.perf_counter()
        _distcnn(_grid(scratch, repeats=3), folder, more)
        wall = time.perf_counter() - started
        trained = _trained(folder)
        at_a_time = os.cpu_count() or 1
        seen["whole sweep"].append(sum(trained) / at_a_time / wall)
        began, ended = _first_epoch_began(folder), _last_trial_ended(folder)
        seen["once warm"].append(sum(trained) / at_a_time / (ended - began))
        overhead = (at_a_time * (ended - began) - sum(trained)) / len(trained)
        seen["overhead_seconds"].append(overhead)
        say(f"round {number + 1}/{rounds}: packed {_last(seen)}")
    return seen


def many(scratch: Path) -> dict[str, Any]:
    """200 one-epoch trials on 2,000 images: seconds of each beyond its training, and memory."""
    folder = scratch / "many"
    path = scratch / "many.yaml"
    space = {"optimizer.lr": {"loguniform": [0.0005, 0.02]}}
    path.write_text(yaml.safe_dump({"base": "article", "space": space, "num_trials": 200}))
    words = ["training.epochs=1", "data.num_train=2000"]
    process = subprocess.Popen(
        [*DISTCNN, "tune", str(path), _REAL, *words, "--run-dir", str(folder)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    memory: dict[int, float] = {}
    while process.poll() is None:
        ended = sum(event["event"] == "ended" for event in _ledger(folder))
        if ended and ended // 20 > max(memory, default=0) // 20:
            driver = psutil.Process(process.pid)
            family = [driver, *driver.children(recursive=True)]
            memory[ended] = sum(map(proportional_mib, family))
        time.sleep(0.2)
    times = [event["elapsed_seconds"] for event in _ledger(folder) if event["event"] == "ended"]
    trained = _trained(folder)
    at_a_time = os.cpu_count() or 1
    first = 20
    wall = (times[-1] - times[first - 1]) / (len(times) - first) * at_a_time
    overhead = wall - sum(trained[first:]) / len(trained[first:])
    say(f"200 trials: {overhead:.2f} s each beyond its training; MiB {memory}")
    return {"overhead_seconds": overhead, "memory_mib": memory, "trials": len(times)}


def simulated(num_trials: int) -> list[dict[str, float]]:
    """The driver's cost and memory over very many trials."""
    command = [sys.executable, "-m", "benchmarks.simulated_sweep", f"--trials={num_trials}"]
    lines = _output(command).splitlines()
    say(f"simulated: {lines[0]} ... {lines[-1]}")
    return [json.loads(line) for line in lines]


def asha(rounds: int, scratch: Path) -> list[dict[str, float]]:
    """Random search's best validation accuracy, and what ASHA reaches in which training time."""
    seen: list[dict[str, float]] = []
    for seed in range(rounds):
        found: dict[str, float] = {"seed": seed}
        for scheduler in ("none", "asha"):
            folder = scratch / f"{scheduler}-{seed}"
            more = [
                f"seed={seed}",
                f"scheduler={scheduler}",
                f"training.epochs={_ASHA_EPOCHS}",
                f"data.num_train={_ASHA_IMAGES}",
                f"num_trials={_ASHA_TRIALS}",
            ]
            results = _distcnn("tune", folder, more)
            found[f"{scheduler}_val_accuracy"] = results["best"]["val"]["accuracy"]
            found[f"{scheduler}_train_seconds"] = results["train_seconds"]
        seen.append(found)
        say(f"seed {seed}: {found}")
    return seen


def shared_gpu(rounds: int, scratch: Path) -> dict[str, list[float]]:
    """Trials per hour of small trials, one at a time on a GPU and four; none without a GPU."""
    seen: dict[str, list[float]] = {}
    for number in range(rounds if torch.cuda.is_available() else 0):
        for share in (1, 0.25):
            more = [f"training.epochs={_EPOCHS}", f"workers.gpus={share}", "workers.cpus=1"]
            started = time.perf_counter()
            results = _distcnn(_grid(scratch, repeats=2), scratch / f"gpu-{share}-{number}", more)
            seconds = time.perf_counter() - started
            seen.setdefault(f"{share} GPU each", []).append(3600 * results["num_trials"] / seconds)
        say(f"round {number + 1}/{rounds}: trials/h {_last(seen)}")
    return seen


def _grid(scratch: Path, repeats: int = 1) -> str:
    """The trials of the comparison as a sweep file; each so often, with other seeds."""
    space = {
        "optimizer.lr": {"grid": list(LEARNING_RATES)},
        "model.channels": {"grid": [list(channels) for channels in CHANNELS]},
        "seed": {"grid": list(range(repeats))},
    }
    path = scratch / f"grid-{repeats}.yaml"
    path.write_text(yaml.safe_dump({"base": "article", "space": space, "search": "grid"}))
    return str(path)


def _distcnn(sweep: str, folder: Path, more: Sequence[str]) -> dict[str, Any]:
    _output([*DISTCNN, "tune", sweep, _REAL, *more, "--run-dir", str(folder)])
    return json.loads((folder / "results.json").read_bytes())


def _guide(trials: Sequence[Any]) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.tune_guide", f"--epochs={_EPOCHS}"]
    return json.loads(_output([*command, f"--trials={json.dumps(trials)}"]).splitlines()[-1])


def _output(command: Sequence[str]) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{command} ended with {done.returncode}:\n{done.stderr}")
    return done.stdout


def _ledger(folder: Path) -> list[dict[str, Any]]:
    path = folder / "ledger.jsonl"
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def _trained(folder: Path) -> list[float]:
    """Seconds that each trial has trained, in the order of their numbers."""
    seconds: dict[int, float] = {}
    for event in _ledger(folder):
        if event["event"] == "epoch":
            seconds[event["trial"]] = event["train_seconds"]
    return [seconds[number] for number in sorted(seconds)]


def _first_epoch_began(folder: Path) -> float:
    epochs = [event for event in _ledger(folder) if event["event"] == "epoch"]
    return min(event["elapsed_seconds"] - event["train_seconds"] for event in epochs)


def _last_trial_ended(folder: Path) -> float:
    return max(e["elapsed_seconds"] for e in _ledger(folder) if e["event"] == "ended")


def table(results: dict[str, Any]) -> str:
    """The README's table."""
    guide, ours = results["guide"]["guide"], results["guide"]["distcnn"]
    ratios = [b / a for a, b in zip(guide, ours, strict=True)]
    whole, warm = results["packed"]["whole sweep"], results["packed"]["once warm"]
    memory = list(results["many"]["memory_mib"].values())
    simulated = results["simulated"]
    rows = [
        "| | seen | |",
        "|---|---|---|",
        f"| trials/h, {len(LEARNING_RATES) * len(CHANNELS)} trials of {_EPOCHS} epochs | Ray Tune's"
        f" guide {spread(guide, ',.0f')}, distcnn {spread(ours, ',.0f')}"
        f" | {spread(ratios, '.1f')} x; n = {len(ratios)} |",
        f"| the trials' own training time packed, against the whole sweep | {spread(whole, '.2f')}"
        f" | once warm {spread(warm, '.2f')}; n = {len(whole)} |",
        f"| seconds of a trial beyond its training | {results['many']['overhead_seconds']:.2f}"
        f" | {results['many']['trials']} one-epoch trials on 2,000 images |",
        f"| MiB of the sweep over those | {memory[0]:,.0f} first, {memory[-1]:,.0f} last | n = 1 |",
        f"| driver over {simulated[-1]['trials']:,} simulated trials"
        f" | {simulated[-1]['driver_mib']:,.0f} MiB; {1e3 * simulated[1]['seconds_per_trial']:.1f}"
        f" ms a trial to the 1,000th, {1e3 * simulated[-1]['seconds_per_trial']:.1f} at the end"
        " | n = 1 |",
        *(
            f"| seed {each['seed']}: random {each['none_val_accuracy']:.4f} in"
            f" {each['none_train_seconds']:.0f} s of training | asha"
            f" {each['asha_val_accuracy']:.4f} in {each['asha_train_seconds']:.0f} s"
            f" | {each['asha_train_seconds'] / each['none_train_seconds']:.2f} x |"
            for each in results["asha"]
        ),
        *(
            f"| trials/h on {results['machine'].get('gpu')}, {share} | {spread(values, ',.0f')}"
            f" | n = {len(values)} |"
            for share, values in results["shared_gpu"].items()
        ),
    ]
    return "\n".join(rows)


def _last(seen: dict[str, list[float]]) -> str:
    return ", ".join(f"{name} {values[-1]:.2f}" for name, values in seen.items())


if __name__ == "__main__":
    main()
