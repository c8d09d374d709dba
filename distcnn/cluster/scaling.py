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

Threads of a worker share its images, and wait for each other, as workers of one core each do; but
nothing is added up between them. Of a worker that has half a core, each step takes twice as long.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

BATCH_SIZE = 128
# Below this share of W times one worker's throughput, the batch has to grow.
_WORTHWHILE = 0.7


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
        """A step of one core on so many images."""
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

    def step(
        self, workers: int, batch_size: int, workers_per_host: int, cores: float = 1.0
    ) -> float:
        """A step of all of them, where each has so many cores."""
        in_parallel = workers * max(1, int(cores))
        wait = self.deviation * math.sqrt(2 * math.log(in_parallel))
        compute = self.compute(batch_size / in_parallel) / min(1.0, cores)
        return compute + wait + self.sum(workers, workers_per_host)

    def images_per_second(
        self,
        workers: int,
        batch_size: int = BATCH_SIZE,
        workers_per_host: int = 2,
        cores: float = 1.0,
    ) -> float:
        """The throughput of all of them."""
        return batch_size / self.step(workers, batch_size, workers_per_host, cores)

    def smallest_batch(self, workers: int, workers_per_host: int) -> int:
        """The smallest global batch, doubled from the usual one, that is worth the workers."""
        batch_size = BATCH_SIZE
        while batch_size < workers or self.images_per_second(
            workers, batch_size, workers_per_host
        ) < _WORTHWHILE * workers * self.images_per_second(1):
            batch_size *= 2
            if batch_size > 2**24:
                break
        return batch_size
