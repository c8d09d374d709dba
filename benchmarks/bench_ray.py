"""`make bench-ray`: launches against one process, and against Ray Train's guide, on real data.

Contenders are taken in turn, each in processes of its own. Prints the README's table and leaves
every number in `benchmarks/results_ray.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from benchmarks import scaling
from benchmarks.bench import DISTCNN, GOAL, ROOT, first_step_seconds, machine, say, spread

RESULTS = Path(__file__).with_name("results_ray.json")
_REAL = "data.source=fashion-mnist"
_LONG_ENOUGH = "training.epochs=3"


def main() -> None:
    """Measure, save, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="of each; throughput takes 2 more")
    options = parser.parse_args()
    rounds: int = options.rounds
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["DISTCNN_CACHE_DIR"] = f"{scratch}/cache"
        folder = Path(scratch)
        results = {
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": {**machine(), "ray": version("ray")},
            "throughput": throughput(rounds + 2, folder),
            "startup": startup(rounds, folder),
            "time_to_90": time_to_90(rounds, folder),
            "killed_worker": killed_worker(rounds, folder),
            "memory_mib": memory(folder),
            "scaling": scaling_on_paper(rounds, folder),
        }
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(table(results))


def throughput(rounds: int, scratch: Path) -> dict[str, list[float]]:
    """Training images per second of the article's recipe, one figure a round and contender."""
    contenders = {
        "one process, 2 threads": ["train", "article"],
        "2 workers, 1 core each": ["launch", "article", "workers.count=2", "workers.cpus=1"],
        "1 worker, 2 threads": ["launch", "article", "workers.count=1", "workers.cpus=2"],
    }
    seen: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds):
        for index, (name, words) in enumerate(contenders.items()):
            run = scratch / f"throughput-{number}-{index}"
            seen[name].append(run_to_its_end([*words, _LONG_ENOUGH], run)["images_per_second"])
        say(f"round {number + 1}/{rounds}: {_last(seen)} images/s")
    return seen


def startup(rounds: int, scratch: Path) -> dict[str, list[float]]:
    """Seconds from process start to the first step, and from the last step to the end."""
    seen: dict[str, list[float]] = {"guide": [], "first step": [], "stop": []}
    for number in range(rounds):
        seen["guide"].append(_guide(scratch, "--max-steps=2")[0]["seconds_since_start"])
        run = scratch / f"startup-{number}"
        run_to_its_end(["launch", "article", "training.epochs=1", "data.num_train=6400"], run, 2)
        ended = time.time()
        seen["first step"].append(first_step_seconds(run))
        seen["stop"].append(ended - _time_of(run, "completed"))
        say(f"round {number + 1}/{rounds}: {_last(seen)} s")
    return seen


def time_to_90(rounds: int, scratch: Path) -> dict[str, list[dict[str, float]]]:
    """Seconds from process start: to the guide's first epoch above 90 %, to distcnn's end."""
    seen: dict[str, list[dict[str, float]]] = {"guide": [], "distcnn": []}
    for seed in range(rounds):
        last = _guide(scratch, f"--seed={seed}", f"--goal={GOAL}")[-1]
        seen["guide"].append(
            {"seconds": last["seconds_since_start"], "test_accuracy": last["test_accuracy"]}
        )
        started = time.perf_counter()
        results = run_to_its_end(["launch", "quick", f"seed={seed}"], scratch / f"ninety-{seed}", 2)
        seconds = time.perf_counter() - started
        accuracy = results["test"]["accuracy"]
        seen["distcnn"].append({"seconds": seconds, "test_accuracy": accuracy})
        say(f"seed {seed}: {_last(seen)}")
    return seen


def killed_worker(rounds: int, scratch: Path) -> list[float]:
    """Seconds from the death of a worker to the first step after it."""
    seen: list[float] = []
    for number in range(rounds):
        run = scratch / f"killed-{number}"
        process = _start(["launch", "article", _LONG_ENOUGH], run, 2)
        pids = _wait_for_workers(run)
        os.kill(pids[1], signal.SIGKILL)
        killed_at = time.time()
        process.wait()
        seen.append(_time_of(run, "first_step", index=1) - killed_at)
        say(f"round {number + 1}/{rounds}: {seen[-1]:.1f} s lost to a killed worker")
    return seen


def memory(scratch: Path) -> dict[str, float]:
    """MiB of a whole launch, shared pages counted once, by the number of workers."""
    seen: dict[str, float] = {}
    for count in (1, 2, 3, 4):
        run = scratch / f"memory-{count}"
        words = ["launch", "article", "training.epochs=20", "workers.cpus=0.5"]
        process = _start(words, run, count)
        _wait_for_workers(run)
        driver = psutil.Process(process.pid)
        family = [driver, *driver.children(recursive=True)]
        seen[str(count)] = sum(proportional_mib(each) for each in family)
        process.terminate()
        process.wait()
        say(f"{count} worker(s): {seen[str(count)]:.0f} MiB")
    return seen


def proportional_mib(process: psutil.Process) -> float:
    """MiB of a process, its part of shared pages; 0 where it has gone."""
    try:
        return process.memory_full_info().pss / 2**20
    except psutil.Error:
        return 0.0


def scaling_on_paper(rounds: int, scratch: Path) -> dict[str, Any]:
    """The model's parts, and its predictions of one and two workers beside what they do."""
    parts = scaling.measure(latency=50e-6, bandwidth=10e9 / 8)
    seen: dict[str, list[float]] = {"1": [], "2": []}
    for number in range(rounds):
        for count in (1, 2):
            words = ["launch", "article", _LONG_ENOUGH, "workers.cpus=1"]
            results = run_to_its_end(words, scratch / f"scaling-{number}-{count}", count)
            seen[str(count)].append(results["images_per_second"])
    predicted = {count: parts.images_per_second(int(count)) for count in seen}
    say(f"predicted {predicted}, measured {seen}")
    return {
        "parts": asdict(parts),
        "predicted": predicted,
        "measured": seen,
        "table": scaling.table(parts, workers_per_host=2),
    }


def command(words: Sequence[str], run: Path, count: int | None) -> list[str]:
    """A command of distcnn's with so many workers, on the real images, kept in `run`."""
    workers = [f"workers.count={count}"] if count else []
    return [*DISTCNN, *words, *workers, _REAL, "--run-dir", str(run)]


def run_to_its_end(words: Sequence[str], run: Path, count: int | None = None) -> dict[str, Any]:
    """Run a command of distcnn's with so many workers; the results of its run."""
    done = subprocess.run(
        command(words, run, count), cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{words} ended with {done.returncode}:\n{done.stderr}")
    return json.loads((run / "results.json").read_bytes())


def _start(words: Sequence[str], run: Path, count: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command(words, run, count),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _wait_for_workers(run: Path) -> list[int]:
    """Wait until training has gone on for a second; the workers' processes."""
    while not (run / "events.jsonl").exists() or "first_step" not in _kinds(run):
        time.sleep(0.05)
    time.sleep(1)
    [attempt] = [event for event in _events(run) if event["event"] == "attempt"]
    return [worker["pid"] for worker in attempt["workers"]]


def _events(run: Path) -> list[dict[str, Any]]:
    lines = (run / "events.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _kinds(run: Path) -> list[str]:
    return [event["event"] for event in _events(run)]


def _time_of(run: Path, kind: str, index: int = 0) -> float:
    times = [event["time"] for event in _events(run) if event["event"] == kind]
    return datetime.fromisoformat(times[index]).timestamp()


def _guide(scratch: Path, *arguments: str) -> list[dict[str, Any]]:
    """Run the guide's script; its milestones."""
    milestones = scratch / "milestones"
    milestones.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.ray_guide", "--milestones", str(milestones)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"the guide's script ended with {done.returncode}:\n{done.stderr}")
    return [json.loads(line) for line in milestones.read_text(encoding="utf-8").splitlines()]


def table(results: dict[str, Any]) -> str:
    """The README's tables: medians, and the spread from lowest to highest."""
    speed = results["throughput"]
    one, two, ray = (speed[name] for name in speed)
    guide, first, stop = (results["startup"][name] for name in ("guide", "first step", "stop"))
    guide_90, ours_90 = (
        [run["seconds"] for run in results["time_to_90"][name]] for name in ("guide", "distcnn")
    )
    accuracies = [run["test_accuracy"] for run in results["time_to_90"]["distcnn"]]
    lost = results["killed_worker"]
    mib = results["memory_mib"]
    further = [mib[str(count + 1)] - mib[str(count)] for count in (1, 2, 3)]
    paper = results["scaling"]
    middle = statistics.median
    rows = [
        "| | compared with | launched | |",
        "|---|---|---|---|",
        f"| images/s of 2 workers of 1 core | one process of 2 threads: {spread(one, ',.0f')}"
        f" | {spread(two, ',.0f')} | {middle(two) / middle(one):.2f} x; n = {len(two)} |",
        f"| images/s of 1 worker of 2 threads | the same"
        f" | {spread(ray, ',.0f')} | {middle(ray) / middle(one):.2f} x; n = {len(ray)} |",
        f"| seconds to the first step, 2 workers | Ray's guide: {spread(guide, '.1f')}"
        f" | {spread(first, '.1f')} | {middle(first) / middle(guide):.2f} x; n = {len(first)} |",
        f"| seconds to 90 % on test, 2 workers | Ray's guide: {spread(guide_90, '.1f')}"
        f" | {spread(ours_90, '.1f')} (test accuracy {min(accuracies):.4f} to"
        f" {max(accuracies):.4f}) | {middle(guide_90) / middle(ours_90):.1f} x shorter;"
        f" n = {len(ours_90)} seeds |",
        f"| seconds from the last step to the end | | {spread(stop, '.1f')} | n = {len(stop)} |",
        "| seconds from a worker's death to the next step | |"
        f" {spread(lost, '.1f')} | n = {len(lost)} |",
        f"| MiB of each further worker, up to 4 | | {spread(further, ',.0f')} | n = 1 each |",
        *(
            f"| images/s of {count} worker(s) of 1 core | on paper:"
            f" {paper['predicted'][count]:,.0f} | {spread(paper['measured'][count], ',.0f')}"
            f" | {middle(paper['measured'][count]) / paper['predicted'][count]:.2f} x;"
            f" n = {len(paper['measured'][count])} |"
            for count in ("1", "2")
        ),
    ]
    return "\n".join(rows) + "\n\n" + paper["table"]


def _last(seen: dict[str, Any]) -> str:
    return ", ".join(f"{name} {json.dumps(values[-1])}" for name, values in seen.items())


if __name__ == "__main__":
    main()
