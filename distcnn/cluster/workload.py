"""What a job trains, and how its workers lie on the machines that its spec asks for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

from distcnn import config_file
from distcnn.cluster.job import Job
from distcnn.cluster.request import Node, Request, capacity, with_workers_decided
from distcnn.cluster.spec import ClusterSpec
from distcnn.cluster.ticket import CONFIG, SWEEP
from distcnn.config import RunConfig
from distcnn.sweep import file as sweep_file
from distcnn.sweep.file import Sweep


@dataclass(frozen=True)
class Workload:
    """A run or a sweep, on the nodes that there will be."""

    config: RunConfig
    """Of the run, or what the trials vary; its workers as the cluster will decide them."""
    sweep: Sweep | None
    request: Request
    """The workers of the run, or of a trial, at the least."""
    nodes: Sequence[Node]

    @cached_property
    def room(self) -> int:
        """How many workers the nodes have room for."""
        return capacity(self.request, self.nodes)

    @property
    def num_workers(self) -> int:
        """How many train together: of an elastic run, as many as there is room for."""
        workers = self.config.workers
        return max(workers.least, min(workers.count, self.room))

    @property
    def workers_per_node(self) -> int:
        """How many of them are on one machine, at the most."""
        workers = self.num_workers
        if self.request.strategy == "SPREAD":
            return math.ceil(workers / len(self.nodes))
        return max(1, min(workers, capacity(self.request, self.nodes[:1])))

    @property
    def at_a_time(self) -> int:
        """How many trials of a sweep there is room for."""
        return max(1, self.room // self.config.workers.count)


def workload_of(job: Job) -> Workload:
    """What a job trains, as its driver will read it."""
    spec, nodes = job.spec, _nodes(job.spec)
    with TemporaryDirectory() as folder:
        for name, text in job.documents.items():
            (Path(folder) / name).write_text(text, encoding="utf-8")
        if job.kind == "run":
            config = _with_workers(config_file.load(f"{folder}/{CONFIG}"), spec, nodes, job.kind)
            return Workload(config, None, Request.of(config.workers), nodes)
        sweep = sweep_file.load(f"{folder}/{SWEEP}")
    base = _with_workers(sweep.base, spec, nodes, job.kind)
    return Workload(base, replace(sweep, base=base), Request.of(base.workers), nodes)


def _nodes(spec: ClusterSpec) -> list[Node]:
    resources: dict[str, float] = {"CPU": spec.cpus_per_node, "GPU": spec.gpus_per_node}
    if spec.accelerator_type:
        resources[f"accelerator_type:{spec.accelerator_type}"] = 1
    numbers = range(1, spec.nodes + 1)
    return [Node(f"{number}", f"node {number}", resources, {}) for number in numbers]


def _with_workers(
    config: RunConfig, spec: ClusterSpec, nodes: Sequence[Node], kind: str
) -> RunConfig:
    """What workers are, where the config leaves that open, as their driver decides it."""
    workers = config.workers
    shares = spec.target == "local" and kind == "run" and not config.training.is_same_on_any_workers
    cpus = spec.cpus_per_node / workers.count if shares else 1.0
    # Which labels nodes have, nobody knows before there are any.
    anywhere = config.with_values(workers={"label_selector": {}})
    return with_workers_decided(anywhere, nodes, cpus)
