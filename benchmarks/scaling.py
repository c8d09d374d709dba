"""A model on paper of how training scales: from measured parts to 1 to 1,024 workers.

A step of W workers on a global batch of B images takes

    step(W) = compute(B / W) + wait(W) + sum(W)

- compute(n) = fixed + per_image * n, fitted to steps measured on one core while the others compute
  too, which share caches and memory with it.
- wait(W): all wait for the slowest. Of W steps that vary with standard deviation s, the longest is
  expected at s * sqrt(2 ln W) above the mean (David and Nagaraja, Order Statistics, 2003).
- sum(W): through shared memory on one host, measured at W = 2. Across hosts, each worker sends one
  part of its vector to each other one and gathers the sums: 2 (W - 1) messages with a latency each,
  and 2 (W - 1) / W of the vector's bytes through the worker's link.

`python -m benchmarks.scaling` measures the parts on this machine and prints the table; the latency
and the bandwidth of a network are options.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.multiprocessing as multiprocessing
from torch import distributed

WORKERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
BATCH_SIZE = 128
# Below this share of W times one worker's throughput, the batch has to grow.
WORTHWHILE = 0.7
_MEASURED_IMAGES = (16, 32, 64, 128)
_NUM_STEPS = 200
_NUM_WARM_UP_STEPS = 30


@dataclass(frozen=True)
class Parts:
    """What a step consists of; seconds and bytes."""

    fixed: float
    per_image: float
    deviation: float
    """Standard deviation of a step's time."""
    shared_sum: float
    """Of two workers on one host."""
    vector_bytes: int
    latency: float
    """Of a message between hosts."""
    bandwidth: float
    """Of a worker's link, bytes a second."""

    def compute(self, num_images: float) -> float:
        """A step of one worker on so many images."""
        return self.fixed + self.per_image * num_images

    def sum(self, workers: int, workers_per_host: int) -> float:
        """Adding up the vectors of all workers."""
        if workers == 1:
            return 0.0
        if workers <= workers_per_host:
            return self.shared_sum * workers / 2
        per_link = self.vector_bytes * workers_per_host
        moved = 2 * (workers - 1) / workers * per_link
        return 2 * (workers - 1) * self.latency + moved / self.bandwidth

    def step(self, workers: int, batch_size: int, workers_per_host: int) -> float:
        """A step of all of them."""
        wait = self.deviation * math.sqrt(2 * math.log(workers))
        compute = self.compute(batch_size / workers)
        return compute + wait + self.sum(workers, workers_per_host)

    def images_per_second(
        self, workers: int, batch_size: int = BATCH_SIZE, workers_per_host: int = 2
    ) -> float:
        """The throughput of all of them."""
        return batch_size / self.step(workers, batch_size, workers_per_host)

    def smallest_batch(self, workers: int, workers_per_host: int) -> int:
        """The smallest global batch, doubled from the usual one, that is worth the workers."""
        batch_size = BATCH_SIZE
        while batch_size < workers or self.images_per_second(
            workers, batch_size, workers_per_host
        ) < WORTHWHILE * workers * self.images_per_second(1):
            batch_size *= 2
            if batch_size > 2**24:
                break
        return batch_size


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
