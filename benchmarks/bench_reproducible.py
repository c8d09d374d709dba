"""`make bench-reproducible`: what it costs that a run is the same on any number of workers.

Contenders are taken in turn. Prints the table of docs/reproducible.md and leaves every number in
`benchmarks/results_reproducible.json`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import torch
from ray.cluster_utils import Cluster
from torch import distributed

from benchmarks.bench import machine, say, spread
from benchmarks.bench_ray import command, run_to_its_end
from distcnn.collectives import GroupCollectives
from distcnn.config import RunConfig
from distcnn.flat_weights import FlatWeights
from distcnn.network import build_network
from distcnn.summation import OverTree, Summation
from tests.launches import times
from tests.runs import start_as_typed, wait_for
from tests.worker_processes import WorkerProcesses

RESULTS = Path(__file__).with_name("results_reproducible.json")
_PARTS = ("throughput", "bytes", "accuracy", "elastic")
_ACROSS = "training.reproducible=across-workers"
_SHARDS = (2, 4, 8)
_COUNTS = (2, 3, 4, 6, 8, 12, 16, 32, 48, 64, 100, 128, 256, 512, 768, 1000, 1024)
_COUNTED = (2, 3, 4)
# Student's t for a two-sided 95 % interval, by the number of pairs.
_T_95 = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}


def main() -> None:
    """Measure, save, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of throughputs, lost nodes")
    parser.add_argument("--seeds", type=int, default=5, help="of the accuracies, of each mode")
    parser.add_argument("--parts", nargs="+", choices=_PARTS, default=_PARTS)
    options = parser.parse_args()
    results: dict[str, Any] = json.loads(RESULTS.read_bytes()) if RESULTS.exists() else {}
    if results.get("machine") != machine():
        results = {"machine": machine()}
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["DISTCNN_CACHE_DIR"] = f"{scratch}/cache"
        folder = Path(scratch)
        for part in options.parts:
            if part == "throughput":
                results[part] = throughput(options.rounds, folder)
            elif part == "bytes":
                results[part] = bytes_of_a_step(folder)
            elif part == "accuracy":
                results[part] = accuracy(options.seeds, folder)
            else:
                results[part] = elastic(options.rounds, folder)
            results["when"] = datetime.now(UTC).isoformat(timespec="seconds")
            RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    if all(part in results for part in _PARTS):
        print(table(results))


def throughput(rounds: int, scratch: Path) -> dict[str, dict[str, list[float]]]:
    """Training images per second of the article's recipe, ordinary and by numbers of shards."""
    modes: dict[str, list[str]] = {"ordinary": []}
    for count in _SHARDS:
        modes[f"{count} shards"] = [_ACROSS, f"training.num_shards={count}"]
    places = {
        "1 worker, 2 threads": ["train", "article", "workers.cpus=2"],
        "2 workers, 1 core each": ["launch", "article", "workers.count=2", "workers.cpus=1"],
    }
    seen: dict[str, dict[str, list[float]]] = {
        place: {mode: [] for mode in modes} for place in places
    }
    for number in range(rounds):
        for place, words in places.items():
            for mode, more in modes.items():
                run = scratch / f"throughput-{number}-{place}-{mode}".replace(" ", "-")
                results = run_to_its_end([*words, *more, "training.epochs=2"], run)
                seen[place][mode].append(results["images_per_second"])
            last = {mode: round(values[-1]) for mode, values in seen[place].items()}
            say(f"round {number + 1}/{rounds}: {place}: images/s {last}")
    return seen


def bytes_of_a_step(scratch: Path) -> dict[str, Any]:
    """What a worker sends in a step, against a ring: by the formula, and as it is counted."""
    size = vector_size()
    by_formula = {
        str(count): {
            "ring": ring_bytes(count, size),
            **{
                name: bytes_sent(OverTree(num_shards, count), count, size)
                for name, num_shards in (
                    ("as many shards", count),
                    ("a power of two of shards", 1 << (count - 1).bit_length()),
                    ("2,048 shards", 2048),
                )
            },
        }
        for count in _COUNTS
    }
    counted: dict[str, int] = {}
    for count in _COUNTED:
        with WorkerProcesses(count, _folder(scratch, f"bytes-{count}")) as group:
            for num_shards in (4, 8):
                sent = group.call(_count_bytes, num_shards, size)
                formula = bytes_sent(OverTree(num_shards, count), count, size)
                assert max(sent) == formula, (sent, formula)
                counted[f"{count} workers, {num_shards} shards"] = formula
    return {"formula": by_formula, "counted": counted, "vector_size": size}


def vector_size() -> int:
    """Of the article's network: its weights, its running statistics, the loss, a wish to stop."""
    weights = FlatWeights(build_network(RunConfig().model, seed=0))
    return weights.vector.numel() + weights.statistics.numel() + 2


def bytes_sent(summation: Summation, count: int, size: int) -> int:
    """By the worker that sends most: to each other one its part of all rows, then that part's sum.

    Args:
        summation: of so many workers.
        count: of workers.
        size: of a vector, in float32.
    """
    return 4 * (count - 1) * math.ceil(size / count) * (max(summation.num_rows) + 1)


def ring_bytes(count: int, size: int) -> int:
    """Of a ring all-reduce: https://arxiv.org/abs/1802.05799."""
    return 4 * 2 * (count - 1) * math.ceil(size / count)


def _count_bytes(rank: int, count: int, num_shards: int, size: int) -> int:
    """In a worker: what it hands to its process group for others, in one sum."""
    sent = [0]
    to_all, from_all = distributed.all_to_all_single, distributed.all_gather

    def all_to_all_single(
        output: torch.Tensor, given: torch.Tensor, outputs: list[int], inputs: list[int]
    ) -> None:
        sent[0] += 4 * (sum(inputs) - inputs[rank])
        to_all(output, given, outputs, inputs)

    def all_gather(outputs: list[torch.Tensor], given: torch.Tensor) -> None:
        sent[0] += 4 * given.numel() * (count - 1)
        from_all(outputs, given)

    summation = OverTree(num_shards, count)
    rows = [torch.ones(size)] * summation.num_rows[rank]
    distributed.all_to_all_single, distributed.all_gather = all_to_all_single, all_gather
    try:
        GroupCollectives().add_up(rows, summation)
    finally:
        distributed.all_to_all_single, distributed.all_gather = to_all, from_all
    return sent[0]


def accuracy(seeds: int, scratch: Path) -> dict[str, list[float]]:
    """Validation accuracy of the article's recipe after its three epochs."""
    seen: dict[str, list[float]] = {"ordinary": [], "across workers": []}
    for seed in range(seeds):
        for mode, more in (("ordinary", []), ("across workers", [_ACROSS, "workers.cpus=2"])):
            run = scratch / f"accuracy-{mode.replace(' ', '-')}-{seed}"
            results = run_to_its_end(["train", "article", f"seed={seed}", *more], run)
            seen[mode].append(results["val"]["accuracy"])
        say(f"seed {seed}: { {mode: values[-1] for mode, values in seen.items()} }")
    return seen


def elastic(rounds: int, scratch: Path) -> dict[str, list[float]]:
    """Seconds from a node's loss, and from one that comes, to the first step of who goes on.

    A node is `lost` when its processes are killed, and `silent` when they stop answering.
    """
    os.environ |= {"HOME": str(_folder(scratch, "home")), "RAY_USAGE_STATS_ENABLED": "0"}
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    cluster = Cluster(initialize_head=True, head_node_args=_node(num_cpus=0))
    nodes = [cluster.add_node(**_node(num_cpus=2)) for _ in range(2)]
    run = scratch / "elastic"
    words = ["launch", "article", "workers.min=2", "workers.max=4", "workers.cpus=1"]
    words += ["training.epochs=1000", "training.checkpoint_every_steps=200"]
    more = ["recovery.max_failures=100", f"--address={cluster.address}"]
    process = start_as_typed([*command(words, run, None), *more])
    seen: dict[str, list[float]] = {"lost": [], "silent": [], "came": []}
    try:
        _next_first_step(run, process, 0)
        for number in range(rounds):
            for kind in ("lost", "came", "silent", "came"):
                num_before, began = len(times(run, "first_step")), time.time()
                if kind == "lost":
                    cluster.remove_node(nodes.pop(), allow_graceful=False)
                elif kind == "silent":
                    _stop_answering(nodes[-1])
                else:
                    nodes.append(cluster.add_node(**_node(num_cpus=2)))
                seen[kind].append(_next_first_step(run, process, num_before) - began)
                if kind == "silent":
                    cluster.remove_node(nodes.pop(), allow_graceful=False)
            say(f"round {number + 1}/{rounds}: { {kind: v[-1] for kind, v in seen.items()} } s")
    finally:
        process.kill()
        process.communicate()
        cluster.shutdown()
    return seen


def _node(num_cpus: int) -> dict[str, Any]:
    return {"num_cpus": num_cpus, "object_store_memory": 80 * 2**20}


def _stop_answering(node: Any) -> None:
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    for process in (raylet, *raylet.children(recursive=True)):
        process.suspend()


def _next_first_step(run: Path, process: subprocess.Popen[str], num_before: int) -> float:
    """When the workers that come next have made their first step."""
    wait_for(lambda: len(times(run, "first_step")) > num_before, process)
    return times(run, "first_step")[-1]


def _folder(scratch: Path, name: str) -> Path:
    folder = scratch / name
    folder.mkdir()
    return folder


def interval_of_difference(one: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """Mean and half the width of its 95 % interval, of the differences seed by seed."""
    differences = [b - a for a, b in zip(one, other, strict=True)]
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    return statistics.mean(differences), _T_95[len(differences)] * error


def table(results: dict[str, Any]) -> str:
    """The table of the docs."""
    lines = ["| | ordinary | 2 shards | 4 shards | 8 shards |", "|---|---|---|---|---|"]
    for place, modes in results["throughput"].items():
        ordinary = modes["ordinary"]
        cells = [f"{statistics.median(ordinary):,.0f} images/s"]
        for mode in list(modes)[1:]:
            ratios = [a / b for a, b in zip(modes[mode], ordinary, strict=True)]
            cells.append(f"{spread(ratios, '.2f')} x")
        lines.append(f"| {place} | {' | '.join(cells)} |")
    mean, half = interval_of_difference(*results["accuracy"].values())
    lines.append("")
    lines.append(f"validation accuracy, across workers less ordinary: {mean:+.4f} ± {half:.4f}")
    for kind, seconds in results["elastic"].items():
        lines.append(f"a node {kind}: {spread(seconds, '.0f')} s to the first step")
    lines += [
        "",
        "| workers | as many shards | the next power of two | 2,048 |",
        "|---|---|---|---|",
    ]
    for count, sent in results["bytes"]["formula"].items():
        ring, *others = sent.values()
        lines.append(f"| {count} | {' | '.join(f'{each / ring:.2f} x' for each in others)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
