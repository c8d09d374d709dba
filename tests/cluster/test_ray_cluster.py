"""Launches on a Ray cluster of several nodes that was there before, and goes on after."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Generator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from ray.cluster_utils import Cluster

from tests.launches import (
    LAUNCHED,
    WITHOUT_WORKERS,
    attempts,
    end,
    launch_command,
    restarts,
    times,
    wait_for_training,
)
from tests.runs import (
    assert_same_result,
    distcnn,
    events,
    finish,
    start,
    train_command,
    wait_for,
)

# On nodes of two CPUs each, as Ray counts them: any two have room for three workers.
ONE_CPU = "workers.cpus=1"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Generator[Path]:
    """A home folder of its own, in which Ray keeps the token of the cluster; loopback only."""
    path = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(path))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        yield path


@pytest.fixture(scope="module")
def cluster(home: Path) -> Generator[Cluster]:
    """A head that runs no workers, and two nodes."""
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "object_store_memory": 80 * 2**20},
    )
    add_node(cluster, zone="a")
    add_node(cluster, zone="b")
    cluster.wait_for_nodes(timeout=120)
    try:
        yield cluster
    finally:
        cluster.shutdown()


def add_node(cluster: Cluster, zone: str, num_cpus: int = 2, **more: Any) -> Any:
    return cluster.add_node(
        num_cpus=num_cpus, object_store_memory=80 * 2**20, labels={"zone": zone}, wait=True, **more
    )


@pytest.fixture(autouse=True)
def nodes_as_before(cluster: Cluster) -> Generator[None]:
    """Nodes that a test has added are gone after it, and Ray knows it."""
    before = set(cluster.worker_nodes)
    yield
    for node in cluster.worker_nodes - before:
        cluster.remove_node(node, allow_graceful=False)
    cluster.wait_for_nodes(timeout=120)


def on(cluster: Cluster, command: list[str]) -> list[str]:
    return [*command, "--address", cluster.address]


def test_nodes_that_are_lost_or_taken_away_with_notice(
    cluster: Cluster, undisturbed: Path, tmp_path: Path
) -> None:
    """The workers go on elsewhere, after a notice from where they are; only a loss is a failure."""
    added = {node.node_id: node for node in (add_node(cluster, "c"), add_node(cluster, "d"))}
    run = tmp_path / "run"
    more = [ONE_CPU, "workers.placement=spread", "recovery.max_failures=1"]
    # Saves are those at the ends of epochs, and the notice's.
    process = start(on(cluster, launch_command(run, *more, "training.checkpoint_every_steps=1000")))
    wait_for_training(run, process, attempt=1, num_saves=1)
    # Three workers are on three of four nodes, then on all three.
    lost = min(nodes_used(run, attempt=1) & added.keys())
    cluster.remove_node(added.pop(lost), allow_graceful=False)
    wait_for(lambda: len(times(run, "first_step")) == 2, process)
    [going] = added
    assert going in nodes_used(run, attempt=2)
    assert lost not in nodes_used(run, attempt=2)
    drain(cluster, going)
    output = end(process)
    assert "will be taken away: saving, then going on elsewhere" in output
    steps = [int(step) for step in re.findall(r"starting again from step (\d+)", output)]
    assert 0 < steps[0] < steps[1]
    assert restarts(run, "failure") == restarts(run, "preemption") == 1
    assert not {lost, going} & nodes_used(run, attempt=3)
    assert_same_result(run, undisturbed)


def test_an_elastic_run_loses_a_node_and_gets_another(cluster: Cluster, tmp_path: Path) -> None:
    """One that computes otherwise is left out. Then it loses both, and waits until one is back.

    A small network whose every step is saved: the run lasts, and leaves the processors to others.
    Each node has room for one worker: no more processes have to start than it takes.
    """
    elastic = ["training.reproducible=across-workers", "training.num_shards=4", ONE_CPU]
    elastic += ["model.channels=[2, 4]", "training.epochs=30"]
    alone, run = tmp_path / "alone", tmp_path / "run"
    finish(train_command(alone, *elastic, "training.checkpoint_every_steps=1000"))
    add = partial(add_node, cluster, "elastic", num_cpus=1)
    bounds = ["workers.min=1", "workers.max=2", "workers.label_selector={zone: elastic}"]
    bounds += ["training.checkpoint_every_steps=1"]
    command = on(cluster, distcnn("launch", "article", *WITHOUT_WORKERS, *elastic, *bounds))
    command += ["--run-dir", str(run)]
    nodes = [add(), add()]
    process = start(command)
    wait_for_training(run, process, attempt=1, num_saves=100)
    lost_at = time.time()
    cluster.remove_node(nodes.pop(), allow_graceful=False)
    wait_for_training(run, process, attempt=2, num_saves=50)
    assert times(run, "first_step")[1] - lost_at < 45
    other = add(env_vars={"ATEN_CPU_CAPABILITY": "avx2"})
    wait_for(lambda: len(times(run, "node_left_out")) == 1, process)
    cluster.remove_node(other, allow_graceful=False)
    came_at = time.time()
    nodes.append(add())
    wait_for_training(run, process, attempt=3, num_saves=50)
    assert times(run, "first_step")[2] - came_at < 60
    while nodes:
        cluster.remove_node(nodes.pop(), allow_graceful=False)
    wait_for(lambda: restarts(run, "preemption") == 2, process)
    time.sleep(5)
    add()
    output = end(process)
    assert "Waiting for 1 worker of 1 CPU on nodes with zone=elastic" in output
    assert re.search(r"is left out: it computes differently: .*AVX2, .*the run's workers", output)
    assert [len(attempt["workers"]) for attempt in attempts(run)] == [2, 1, 2, 1]
    resizes = [event for event in events(run) if event["event"] == "resize"]
    assert [(each["workers_before"], each["workers"]) for each in resizes] == [
        (2, 1),
        (1, 2),
        (2, 1),
    ]
    assert (restarts(run, "preemption"), restarts(run, "failure")) == (2, 0)
    assert_same_result(run, alone)


def test_a_sweep_fills_all_nodes_until_its_time_is_spent(cluster: Cluster, tmp_path: Path) -> None:
    """Of its trials one in two asks for more memory than there is, which is recorded."""
    file, folder = tmp_path / "sweep.yaml", tmp_path / "sweep"
    plain = {
        "base": "article",
        "space": {"model.channels": {"choice": [[4, 8], [100_000, 8]]}},
        "time_budget_seconds": 40,  # Processes may take half of it to start.
        "max_failures_alike": 50,
    }
    file.write_text(yaml.safe_dump(plain))
    words = [
        "data.source=synthetic",
        "data.num_train=5120",
        "data.num_val=500",
        "training.precision=32-true",
        "training.global_batch_size=2560",
        "training.epochs=1",
        "workers.cpus=2",
    ]
    before = alive(cluster)
    output = finish(on(cluster, distcnn("tune", file, *words, "--run-dir", folder)))
    assert "2 at a time" in output, "one on each node"
    assert "the time budget is spent: no further trial is begun" in output
    results = json.loads((folder / "results.json").read_bytes())
    assert (results["status"], results["reason"]) == ("completed", "the time budget is spent")
    assert "test" in results["best"]
    events = [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]
    [spent_at] = [number for number, event in enumerate(events) if event["event"] == "out_of_time"]
    assert "trial" not in {event["event"] for event in events[spent_at:]}
    ended = [event for event in events if event["event"] == "ended"]
    assert {"completed", "failed"} <= {event["status"] for event in ended}
    for event in ended:
        run = folder / "trials" / f"{event['trial']:04d}"
        of_run = json.loads((run / "results.json").read_bytes())
        if event["status"] == "failed":
            assert event["reason"].startswith("out of memory for a batch of 2560 images")
            assert of_run["reason"] == event["reason"]
        elif event["status"] == "stopped":
            assert event["reason"] == "the time budget is spent"
    assert alive(cluster) == before


def nodes_used(run: Path, attempt: int) -> set[str]:
    return {worker["node_id"] for worker in attempts(run)[attempt - 1]["workers"]}


def drain(cluster: Cluster, node_id: str) -> None:
    """What a cloud's notice becomes in Ray."""
    from ray._raylet import GcsClient

    deadline_ms = int(1000 * (time.time() + 120))
    accepted, why = GcsClient(address=cluster.address).drain_node(
        node_id, 2, "preemption", deadline_ms
    )
    assert accepted, why


def test_a_submitted_job_finds_its_cluster_and_the_nodes_with_its_labels(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray gives a job's entry point the address in RAY_ADDRESS."""
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    run = tmp_path / "run"
    more = [ONE_CPU, "workers.count=2", "workers.label_selector={zone: b}", "training.epochs=1"]
    output = finish(launch_command(run, *more))
    assert "Preflight passed" in output
    zones = {node["NodeID"]: node["Labels"].get("zone") for node in nodes_of(cluster)}
    assert {zones[node_id] for node_id in nodes_used(run, attempt=1)} == {"b"}
    results = json.loads((run / "results.json").read_bytes())
    assert results["workers"]["hosts"] == [os.uname().nodename] * 2


def alive(cluster: Cluster) -> set[str]:
    return {node["NodeID"] for node in nodes_of(cluster) if node["Alive"]}


def nodes_of(cluster: Cluster) -> list[dict[str, Any]]:
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        return ray.nodes()
    finally:
        ray.shutdown()


def test_what_can_never_run_is_refused_with_what_would(cluster: Cluster, tmp_path: Path) -> None:
    began = time.monotonic()
    command = on(cluster, launch_command(tmp_path / "run", "workers.count=5", "workers.cpus=2"))
    output = finish(command, expected=1)
    assert time.monotonic() - began < 60
    assert "asked: 5 workers of 2 CPU" in output
    assert "there: " in output
    assert "workers.count=2, or workers.cpus=0.66" in output
    command = on(cluster, launch_command(tmp_path / "run", "workers.gpus=1"))
    assert "no node has GPU" in finish(command, expected=1)
    assert not (tmp_path / "run").exists()


def test_a_launch_beside_a_cluster_leaves_it_alone(cluster: Cluster, tmp_path: Path) -> None:
    before = alive(cluster)
    output = finish(distcnn("launch", "article", *LAUNCHED, "workers.count=1", "--preflight"))
    assert "looking at 1 node" in output
    assert alive(cluster) == before


def test_what_is_not_free_is_waited_for_aloud(
    cluster: Cluster, undisturbed: Path, tmp_path: Path
) -> None:
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        holders = [ray.remote(num_cpus=2)(Holder).remote() for _ in range(2)]
        ray.get([holder.ready.remote() for holder in holders])
        run = tmp_path / "run"
        command = on(cluster, launch_command(run, ONE_CPU, "recovery.wait_for_workers_seconds=3"))
        output = finish(command, expected=1)
        assert "Waiting for 3 workers of 1 CPU, 2 s of 3 s. Free now: 0 of 4 CPU" in output
        assert "did not become free within 3 s" in output
        process = start(on(cluster, launch_command(run, ONE_CPU)))
        time.sleep(8)
        for holder in holders:
            ray.kill(holder)
        end(process)
    finally:
        ray.shutdown()
    assert_same_result(run, undisturbed)


class Holder:
    def ready(self) -> None:
        pass


def test_auto_never_means_synthetic_on_a_cluster(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Both travel to the nodes, which may have others.
    monkeypatch.setenv("DISTCNN_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("DISTCNN_CACHE_DIR", str(tmp_path / "cache"))
    run = tmp_path / "run"
    more = [ONE_CPU, "data.source=auto"]
    output = finish(on(cluster, launch_command(run, *more)), expected=1)
    assert "Fashion-MNIST is not there" in output
    assert "DISTCNN_DATA_DIR" in output
    assert not run.exists()


def test_preflight_alone(cluster: Cluster, tmp_path: Path) -> None:
    command = on(cluster, distcnn("launch", "article", *LAUNCHED, ONE_CPU, "--preflight"))
    output = finish([*command, "--run-dir", str(tmp_path / "run")])
    for line in ("python", "torch", "ray", "distcnn", "storage", "data", "all-reduce"):
        assert line in output
    assert "MB/s" in output
    assert not (tmp_path / "run").exists()
    assert not list(tmp_path.glob(".preflight*"))


def test_preflight_names_a_storage_that_is_not_shared(cluster: Cluster, tmp_path: Path) -> None:
    command = on(cluster, distcnn("launch", "article", *LAUNCHED, ONE_CPU, "--preflight"))
    output = finish([*command, "--run-dir", "/proc/nowhere/run"], expected=1)
    assert "fail" in output
    assert "set storage.directory" in output


def test_no_cluster_at_the_address(tmp_path: Path) -> None:
    command = [*launch_command(tmp_path / "run"), "--address", "127.0.0.1:1"]
    output = finish(command, expected=1)
    assert "no Ray cluster can be reached at 127.0.0.1:1" in output
    assert "Traceback" not in output
