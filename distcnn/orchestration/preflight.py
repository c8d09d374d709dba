"""Checks of a cluster before anything is started on it: each passed, or failed with its remedy."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import (
    NodeAffinitySchedulingStrategy,
    PlacementGroupSchedulingStrategy,
)

from distcnn.cluster.request import Node, Request
from distcnn.config import RunConfig
from distcnn.errors import UserError
from distcnn.files import write_atomically
from distcnn.findings import Finding
from distcnn.location import Location
from distcnn.orchestration.probe import (
    DRIVERS_FILE,
    NodeFacts,
    ProbeWorker,
    WorkerFacts,
    look_at_node,
    software,
)
from distcnn.orchestration.room import reserved
from distcnn.orchestration.session import alive_nodes, runtime_env
from distcnn.progress import Watcher
from distcnn.training import provenance
from distcnn.training.provenance import Ground

# For a node to answer: it may have to start Python from a slow disk first.
_ANSWER_SECONDS = 120.0
# Where nobody answers, a resolver waits for five seconds at least.
_SLOW_LOOKUP_SECONDS = 2.0


@dataclass(frozen=True)
class Preflight:
    """What was found, and what the run is decided by."""

    findings: list[Finding]
    nodes: list[NodeFacts]
    workers: list[WorkerFacts]


def examine(
    config: RunConfig, nodes: Sequence[Node], storage: Location, watcher: Watcher
) -> Preflight:
    """Look at every node, then at the workers in their places.

    Args:
        config: with its workers decided.
        nodes: those of the cluster.
        storage: where the run will be kept.
        watcher: told when the workers' places have to be waited for.
    """
    watcher.note(f"Preflight: looking at {_nodes(len(nodes))}, then at the workers' places")
    facts, failures = _look_at_nodes(config, nodes, storage)
    request = Request.of(config.workers)
    with reserved(
        request, config.recovery.wait_for_workers_seconds, lambda: None, watcher
    ) as places:
        # An autoscaler may have added some.
        known = {node.id for node in nodes}
        more = [node for node in alive_nodes() if node.id not in known]
        if more:
            new_facts, new_failures = _look_at_nodes(config, more, storage)
            facts, failures = [*facts, *new_facts], [*failures, *new_failures]
        workers, of_workers = _look_at_workers(config, request, places)
    of_nodes = [*check_versions(facts), *_storage(facts, storage), *_data(facts), *_lookups(facts)]
    findings = [*failures, *of_nodes]
    return Preflight([*findings, *of_workers], facts, workers)


class Look:
    """Looks at nodes, on which each writes a file into a folder beside the runs for that.

    Raises:
        UserError: the driver cannot write there.
    """

    def __init__(self, config: RunConfig, storage: Location) -> None:
        self._config = config
        self._driver = ray.util.get_node_ip_address()
        self._folder = storage / f".preflight-{secrets.token_hex(4)}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self._folder / DRIVERS_FILE, b"driver")
        except (OSError, UserError) as error:
            raise UserError(
                f"the driver cannot write to {storage}: {error}; set storage.directory or --run-dir"
            ) from error

    def at(self, node: Node, where: Any, resources: Mapping[str, float]) -> Any:
        """Begin to look at a node, with these resources of it; `facts` takes what this returns."""
        look = ray.remote(look_at_node).options(
            num_cpus=resources.get("CPU", 0),
            num_gpus=resources.get("GPU", 0),
            max_retries=0,
            runtime_env=runtime_env(),
            scheduling_strategy=where,
        )
        return look.remote(self._config, self._folder, node.id, self._driver)

    def facts(self, node: Node, answer: Any, limit_seconds: float = 0.0) -> NodeFacts:
        """What was seen there.

        Raises:
            RayError: it does not answer, or not in time.
        """
        facts: NodeFacts = ray.get(answer, timeout=limit_seconds)
        if not facts.storage and not (self._folder / node.id).exists():
            return replace(facts, storage="the driver does not see what it wrote there")
        return facts

    def close(self) -> None:
        """Leave nothing behind."""
        # A node that answers too late may still write there; what is out of reach is left.
        with suppress(OSError, UserError):
            for file in self._folder.iterdir():
                file.unlink(missing_ok=True)
            self._folder.rmdir()


def _look_at_nodes(
    config: RunConfig, nodes: Sequence[Node], storage: Location
) -> tuple[list[NodeFacts], list[Finding]]:
    try:
        look = Look(config, storage)
    except UserError as error:
        return [], [Finding("fail", "storage", str(error))]
    with closing(look):
        asked = [
            look.at(node, NodeAffinitySchedulingStrategy(node.id, soft=False), {}) for node in nodes
        ]
        facts: list[NodeFacts] = []
        failures: list[Finding] = []
        deadline = time.monotonic() + _ANSWER_SECONDS
        for node, answer in zip(nodes, asked, strict=True):
            try:
                facts.append(look.facts(node, answer, max(0.0, deadline - time.monotonic())))
            except RayError as error:
                failures.append(_without_answer(node, error))
        return facts, failures


def why_unfit(config: RunConfig, facts: NodeFacts, ground: Ground, storage: Location) -> str:
    """Why no worker of a run can be on a node; empty where one can.

    Args:
        config: resolved.
        facts: of the node, seen from a worker's place.
        ground: what the run began on.
        storage: where it is kept.
    """
    checks = [*check_versions([facts]), *_storage([facts], storage), *_data([facts])]
    failed = [check.what for check in checks if check.status == "fail"]
    if failed:
        return failed[0]
    if facts.data_sha256 != ground.data_sha256:
        return f"it has other data ({facts.data_sha256[:12]}...) than the run is trained on"
    here, there = kind_of(config, facts.hardware), kind_of(config, ground.hardware)
    return f"it computes differently: {here}, the run's workers {there}" if here != there else ""


def _without_answer(node: Node, error: Exception) -> Finding:
    if node.id not in {alive.id for alive in alive_nodes()}:
        return Finding("note", node.host, "went away while it was looked at")
    return Finding("fail", node.host, unanswered(error))


def unanswered(error: Exception) -> str:
    """What an error of Ray's says of who did not answer, with the remedy."""
    lines = str(error).strip().splitlines()
    if "ModuleNotFoundError" in str(error):
        return f"{lines[-1]}: install distcnn there, the version that the driver has"
    return f"no answer ({lines[-1] if lines else type(error).__name__}); look at that node"


def check_versions(facts: Sequence[NodeFacts]) -> Iterator[Finding]:
    """Check that all nodes have the driver's versions."""
    for name, wanted in software().items() if facts else ():
        found_on = {fact.host: fact.versions.get(name, "none") for fact in facts}
        others = {host: found for host, found in found_on.items() if found != wanted}
        if others:
            found = ", ".join(f"{version} on {host}" for host, version in others.items())
            what = f"{wanted} at the driver, {found}; install the same everywhere"
            yield Finding("fail", name, what)
        else:
            yield Finding("ok", name, f"{wanted} on {_nodes(len(facts))}")


def _storage(facts: Sequence[NodeFacts], storage: Location) -> Iterator[Finding]:
    troubles = [fact for fact in facts if fact.storage]
    for fact in troubles:
        what = (
            f"{fact.host}: {fact.storage} ({storage}); set storage.directory to a folder that all"
            " nodes share, or to an object store"
        )
        yield Finding("fail", "storage", what)
    if facts and not troubles:
        what = f"{storage} is written and read by the driver and {_nodes(len(facts))}"
        yield Finding("ok", "storage", what)


def _data(facts: Sequence[NodeFacts]) -> Iterator[Finding]:
    for what, count in Counter(fact.data for fact in facts if not fact.data_error).items():
        yield Finding("ok", "data", f"{what}, on {_nodes(count)}")
    for fact in facts:
        if fact.data_error:
            remedy = "put the four .gz files there, in a folder named by DISTCNN_DATA_DIR"
            yield Finding("fail", "data", f"{fact.host}: {fact.data_error}; {remedy}")


def _lookups(facts: Sequence[NodeFacts]) -> Iterator[Finding]:
    slow = [fact for fact in facts if fact.lookup_seconds > _SLOW_LOOKUP_SECONDS]
    for fact in slow:
        what = f"{fact.host} took {fact.lookup_seconds:.1f} s to find two names"
        remedy = "put the nodes into /etc/hosts, or have its resolver refuse what it does not know"
        yield Finding("note", "names", f"{what}, and workers ask for many as they begin; {remedy}")
    if facts and not slow:
        slowest = max(fact.lookup_seconds for fact in facts)
        yield Finding("ok", "names", f"found within {1000 * slowest:.0f} ms on all nodes")


def _look_at_workers(
    config: RunConfig, request: Request, places: PlacementGroup
) -> tuple[list[WorkerFacts], list[Finding]]:
    actors: list[Any] = [
        ray.remote(ProbeWorker)
        .options(
            num_cpus=request.resources["CPU"],
            num_gpus=request.resources.get("GPU", 0),
            runtime_env=runtime_env(),
            scheduling_strategy=PlacementGroupSchedulingStrategy(
                places, placement_group_bundle_index=rank
            ),
        )
        .remote(rank)
        for rank in range(request.count)
    ]
    try:
        looks = [actor.look.remote(config) for actor in actors]
        facts: list[WorkerFacts] = ray.get(looks, timeout=_ANSWER_SECONDS)
        findings = [*check_alike(config, facts), *_gpus(config, facts)]
        if not any(finding.status == "fail" for finding in findings):
            findings.append(_all_reduce(config, actors, facts))
        return facts, findings
    except RayError as error:
        return [], [Finding("fail", "workers", unanswered(error))]
    finally:
        for actor in actors:
            ray.kill(actor)


def check_alike(config: RunConfig, facts: Sequence[WorkerFacts]) -> Iterator[Finding]:
    """Check that all workers compute alike: others would drift apart in the last bits."""
    kinds = Counter(kind_of(config, fact.hardware) for fact in facts)
    what = ", ".join(f"{count} x {kind}" for kind, count in kinds.items())
    if len(kinds) > 1:
        remedy = "take nodes of one kind (workers.accelerator_type, workers.label_selector)"
        yield Finding("fail", "workers", f"they compute differently: {what}; {remedy}")
    else:
        yield Finding("ok", "workers", what)


def kind_of(config: RunConfig, hardware: Mapping[str, Any]) -> str:
    """What has to be the same of all workers of a run."""
    if config.training.is_same_on_any_workers:
        return provenance.kind(hardware)
    return hardware["gpu"] or hardware["instruction_set"]


def _gpus(config: RunConfig, facts: Sequence[WorkerFacts]) -> Iterator[Finding]:
    if not config.workers.gpus:
        return
    for host in dict.fromkeys(fact.host for fact in facts if not fact.gpu):
        remedy = "install a torch that is built for its driver; `distcnn doctor` there says more"
        yield Finding("fail", "GPU", f"{host} has GPUs for Ray, but torch sees none; {remedy}")


def _all_reduce(config: RunConfig, actors: Sequence[Any], facts: Sequence[WorkerFacts]) -> Finding:
    count = len(actors)
    if count == 1:
        return Finding("ok", "all-reduce", "not needed by one worker")
    address = ray.get(actors[0].offer_address.remote(count), timeout=_ANSWER_SECONDS)
    pids = [fact.pid for fact in facts]
    on_one_host = len({fact.node_id for fact in facts}) == 1
    use_gpu, threads = bool(config.workers.gpus), config.workers.threads
    sums = [actor.add_up.remote(address, pids, use_gpu, on_one_host, threads) for actor in actors]
    try:
        answers: list[tuple[str, float]] = ray.get(sums, timeout=_ANSWER_SECONDS)
    except RayError as error:
        remedy = "open all ports between the nodes, or see which network interface they share"
        return Finding("fail", "all-reduce", f"{unanswered(error)}; {remedy}")
    way, slowest = min(answers, key=lambda answer: answer[1])
    what = f"{count} workers, {way}: {slowest:,.0f} MB/s each way and worker"
    return Finding("ok", "all-reduce", what)


def _nodes(count: int) -> str:
    return "1 node" if count == 1 else f"{count} nodes"
