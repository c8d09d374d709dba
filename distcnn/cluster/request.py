"""What a run asks of a cluster, what there is, and what would fit. Plain numbers; no ray."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from distcnn.config import RunConfig, WorkersConfig
from distcnn.config_file import plain_to_yaml, to_yaml

# Ray counts resources in units of 1/10,000.
_UNIT = 1e-4
NODE_ID = "ray.io/node-id"


@dataclass(frozen=True)
class Node:
    """A machine of a cluster."""

    id: str
    host: str
    resources: Mapping[str, float]
    labels: Mapping[str, str]


@dataclass(frozen=True)
class Request:
    """Workers that are alike."""

    count: int
    resources: Mapping[str, float]
    """Of each worker, as Ray names them."""
    strategy: str
    """Ray's placement strategy."""
    labels: Mapping[str, str]
    """A node has to have them."""
    count_field: str = "workers.count"
    """Where the config says how many."""
    without: frozenset[str] = frozenset()
    """Nodes that are left out, by their id."""

    @property
    def selector(self) -> dict[str, str]:
        """The nodes that may be taken, as Ray's label selectors have it."""
        others = {NODE_ID: f"!in({','.join(sorted(self.without))})"} if self.without else {}
        return {**self.labels, **others}

    @classmethod
    def of(cls, workers: WorkersConfig) -> Request:
        """What a resolved config asks for: of an elastic run, what it needs to go on."""
        assert workers.cpus is not None, "the config is resolved before resources are asked for"
        resources: dict[str, float] = {"CPU": workers.cpus}
        if workers.gpus:
            resources["GPU"] = workers.gpus
        if workers.accelerator_type:
            resources[f"accelerator_type:{workers.accelerator_type}"] = 0.001
        labels = workers.label_selector
        field = "workers.min" if workers.is_elastic else "workers.count"
        return cls(workers.least, resources, workers.placement.upper(), labels, field)

    def __str__(self) -> str:
        return f"{_plural(self.count, 'worker')} of {describe(self.resources)}" + (
            f" on nodes with {_labels(self.labels)}" if self.labels else ""
        )


def capacity(request: Request, nodes: Iterable[Node]) -> int:
    """How many such workers the nodes have room for, when nothing else runs on them."""
    return sum(_room(request, node) for node in nodes)


def _room(request: Request, node: Node) -> int:
    if node.id in request.without:
        return 0
    if not all(matches(value, node.labels.get(key)) for key, value in request.labels.items()):
        return 0
    return min(
        int((node.resources.get(name, 0) + _UNIT / 2) / amount)
        for name, amount in request.resources.items()
    )


def with_workers_decided(config: RunConfig, nodes: Sequence[Node], cpus: float = 1.0) -> RunConfig:
    """A config with what its workers are on nodes that are given, where it leaves that open.

    Args:
        config: as the user wrote it.
        nodes: where they will be: GPUs are taken where there is one for each.
        cpus: of each worker, by default.
    """
    workers = config.workers
    decided = config.with_values(
        workers={"cpus": workers.cpus or cpus, "gpus": workers.gpus or 0},
    )
    if workers.gpus is None:
        with_gpus = decided.with_values(workers={"gpus": 1})
        if capacity(Request.of(with_gpus.workers), nodes) >= workers.least:
            return with_gpus
    return decided


def matches(selector: str, label: str | None) -> bool:
    """Whether a node's label meets a selector: `a`, `!a`, `in(a, b)` or `!in(a, b)`."""
    negated = selector.startswith("!")
    values = selector.removeprefix("!")
    several = re.fullmatch(r"in\((.*)\)", values)
    allowed = [value.strip() for value in several[1].split(",")] if several else [values]
    return (label in allowed) != negated


def shortfall(request: Request, nodes: Sequence[Node]) -> str | None:
    """What to tell of a request that nodes cannot meet: asked, there, fitting; None if they can.

    Args:
        request: what is asked.
        nodes: what there is.
    """
    most = capacity(request, nodes)
    if most >= request.count:
        return None
    lines = [
        "the cluster can never run this:",
        f"  asked: {request}",
        *(f"  there: {_describe_node(node)}" for node in nodes),
        f"  would fit: {_what_fits(request, nodes, most)}",
    ]
    return "\n".join(lines)


def _what_fits(request: Request, nodes: Sequence[Node], most: int) -> str:
    remedies = [f"{request.count_field}={most}"] if most else []
    cpus = _cpus_that_fit(request, nodes)
    if cpus:
        remedies.append(f"workers.cpus={cpus:g}")
    if remedies:
        return ", or ".join(remedies)
    for name in request.resources:
        if name != "CPU" and not any(node.resources.get(name) for node in nodes):
            return f"no node has {name}: change what is asked for in workers"
    return "no node is like that: change workers.cpus, workers.label_selector or the cluster"


def _cpus_that_fit(request: Request, nodes: Sequence[Node]) -> float:
    """The most CPUs a worker could ask for so that all fit, in hundredths; 0 where none do."""
    candidates = {
        int(100 * node.resources.get("CPU", 0) / parts + 1e-6) / 100
        for node in nodes
        for parts in range(1, request.count + 1)
    }
    for cpus in sorted(candidates, reverse=True):
        smaller = replace(request, resources={**request.resources, "CPU": cpus})
        if 0 < cpus < request.resources["CPU"] and capacity(smaller, nodes) >= request.count:
            return cpus
    return 0.0


def _describe_node(node: Node) -> str:
    labels = {
        key: value for key, value in (node.labels or {}).items() if not key.startswith("ray.io/")
    }
    marked = f" ({_labels(labels)})" if labels else ""
    return f"{node.host}: {describe(node.resources)}{marked}"


def describe(resources: Mapping[str, float]) -> str:
    """CPUs, GPUs and kinds of accelerator, for people; Ray's inner resources are left out."""
    parts = [f"{resources.get('CPU', 0):g} CPU"]
    if resources.get("GPU"):
        parts.append(f"{resources['GPU']:g} GPU")
    kinds = [name.partition(":")[2] for name in resources if name.startswith("accelerator_type:")]
    return " and ".join(parts) + "".join(f" ({kind})" for kind in kinds)


def _labels(labels: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in labels.items())


def _plural(count: int, noun: str) -> str:
    return f"1 {noun}" if count == 1 else f"{count} {noun}s"


def render(config: RunConfig, address: str | None) -> str:
    """What would be run, and what would be asked of Ray for it, as two YAML documents.

    Args:
        config: as the user wrote it.
        address: of the cluster; None for a Ray on this machine.
    """
    workers = config.workers
    asked: dict[str, object] = {
        "address": address or "none: a Ray of its own on this machine",
        "workers": f"{workers.min} to {workers.max}" if workers.is_elastic else workers.count,
        "resources_per_worker": {
            "CPU": workers.cpus or _by_default(address),
            "GPU": "1 where there is one for each" if workers.gpus is None else workers.gpus,
        },
        "placement_strategy": workers.placement.upper(),
        "accelerator_type": workers.accelerator_type,
        "label_selector": dict(workers.label_selector),
    }
    return f"{to_yaml(config)}---\n{plain_to_yaml({'ray': asked})}"


def _by_default(address: str | None) -> object:
    return 1.0 if address else "an equal share of the cores"
