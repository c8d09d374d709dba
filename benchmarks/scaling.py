"""How training scales: this machine's parts of the model in `distcnn.cluster.scaling`, measured.

`python -m benchmarks.scaling` measures the parts on this machine and prints the table; the latency
and the bandwidth of a network are options.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
import torch.multiprocessing as multiprocessing
from torch import distributed

from distcnn.cluster.scaling import BATCH_SIZE, Parts

WORKERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_MEASURED_IMAGES = (16, 32, 64, 128)
_NUM_STEPS = 200
_NUM_WARM_UP_STEPS = 30


def measure(latency: float, bandwidth: float) -> Parts:
    """Measure this machine's part of it, with two processes of one thread each."""
    found = _in_processes(_measure_worker)
    images = np.array(_MEASURED_IMAGES, dtype=float)
    seconds = np.array([found["median"][str(n)] for n in _MEASURED_IMAGES])
    per_image, fixed = np.polyfit(images, seconds, deg=1)
    return Parts(
        fixed=max(float(fixed), 0.0),
        per_image=float(per_image),
        deviation=found["deviation"],
        shared_sum=found["shared_sum"],
        vector_bytes=found["vector_bytes"],
        latency=latency,
        bandwidth=bandwidth,
    )


def _in_processes(function: Any) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    queue: Any = context.Queue()
    store = distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    processes = [
        context.Process(target=function, args=(rank, store.port, queue), daemon=True)
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    found: dict[str, Any] = json.loads(queue.get(timeout=300))
    for process in processes:
        process.join()
    return found


def _measure_worker(rank: int, port: int, queue: Any) -> None:
    import gc
    import os

    from distcnn.collectives import HostCollectives
    from distcnn.config import RunConfig
    from distcnn.data.module import Batch
    from distcnn.data.order import Part
    from distcnn.flat_weights import FlatWeights
    from distcnn.module import ImageClassifier, build_optimizer
    from distcnn.summation import InTurn
    from distcnn.training import precision
    from distcnn.training.process import keep_freed_memory
    from distcnn.workers import Workers

    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    keep_freed_memory()
    store = distributed.TCPStore("127.0.0.1", port, is_master=False)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    chosen, _ = precision.decide(RunConfig(), torch.device("cpu"))
    config = RunConfig().with_values(
        training={"precision": chosen}, workers={"cpus": 1.0, "gpus": 0}
    )
    module = ImageClassifier(config, num_steps=1_000_000, workers=Workers())
    module.weights = FlatWeights(module.network)
    optimizer = build_optimizer(module.weights.vector, config.optimizer)
    gc.freeze()

    def step_seconds(num_images: int) -> list[float]:
        pixels = torch.randint(0, 256, (num_images, 1, 28, 28), dtype=torch.uint8)
        labels = torch.randint(0, 10, (num_images,))
        part = Part(slice(0, num_images), ((slice(0, num_images),),))
        batch = Batch(0, pixels, labels, part, global_size=num_images)
        seconds: list[float] = []
        distributed.barrier()
        for _ in range(_NUM_WARM_UP_STEPS + _NUM_STEPS):
            started = time.perf_counter()
            module.learn(batch, optimizer)
            seconds.append(time.perf_counter() - started)
        return seconds[_NUM_WARM_UP_STEPS:]

    steps = {num_images: step_seconds(num_images) for num_images in _MEASURED_IMAGES}
    vector = torch.zeros(module.weights.vector.numel() + module.weights.statistics.numel() + 2)
    pids: list[Any] = [None, None]
    distributed.all_gather_object(pids, os.getpid())
    collectives = HostCollectives(distributed.PrefixStore("sum", store), rank, pids)
    sums: list[float] = []
    for _ in range(_NUM_STEPS):
        distributed.barrier()
        started = time.perf_counter()
        collectives.add_up([vector], InTurn(2))
        sums.append(time.perf_counter() - started)
    if rank == 0:
        found = {
            "median": {str(n): statistics.median(times) for n, times in steps.items()},
            "deviation": _robust_deviation(steps[BATCH_SIZE // 2]),
            "shared_sum": statistics.median(sums),
            "vector_bytes": 4 * vector.numel(),
        }
        queue.put(json.dumps(found))
    distributed.barrier()
    distributed.destroy_process_group()


def _robust_deviation(values: Sequence[float]) -> float:
    """The standard deviation by the median distance from the median: outliers are the system's."""
    middle = statistics.median(values)
    return 1.4826 * statistics.median(abs(value - middle) for value in values)


def table(parts: Parts, workers_per_host: int) -> str:
    """Throughput by the number of workers, and the batch that makes them worthwhile."""
    rows = [
        "| workers | images/s at batch 128 | efficiency | smallest worthwhile batch | images/s |",
        "|---|---|---|---|---|",
    ]
    for workers in WORKERS:
        batch = parts.smallest_batch(workers, workers_per_host)
        usual = f"{parts.images_per_second(workers, BATCH_SIZE, workers_per_host):,.0f}"
        share = parts.images_per_second(workers, BATCH_SIZE, workers_per_host) / (
            workers * parts.images_per_second(1)
        )
        feasible = workers <= BATCH_SIZE
        rows.append(
            f"| {workers} | {usual if feasible else 'no image each'}"
            f" | {f'{share:.0%}' if feasible else ''} | {batch:,}"
            f" | {parts.images_per_second(workers, batch, workers_per_host):,.0f} |"
        )
    return "\n".join(rows)


def main() -> None:
    """Measure, predict, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latency-us", type=float, default=50.0, help="of a message")
    parser.add_argument("--bandwidth-gbit", type=float, default=10.0, help="of a host's link")
    parser.add_argument("--workers-per-host", type=int, default=2)
    options = parser.parse_args()
    parts = measure(options.latency_us / 1e6, options.bandwidth_gbit * 1e9 / 8)
    print(json.dumps(asdict(parts), indent=2))
    print(table(parts, options.workers_per_host))


if __name__ == "__main__":
    main()
