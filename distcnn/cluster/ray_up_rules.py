"""What is wrong with a file for `ray up` that Ray itself would find out too late, or never."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, cast

import yaml

from distcnn.cluster.ray_up import TOKEN

Plain = Mapping[str, Any]

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_PROVIDERS = ("aws", "gcp", "local")
_NEEDED = {
    "aws": ("region",),
    "gcp": ("region", "availability_zone", "project_id"),
    "local": ("head_ip", "worker_ips"),
}


def violations(text: str) -> list[str]:
    """A line for each thing that is wrong, with its remedy."""
    try:
        plain = yaml.safe_load(text)
    except yaml.YAMLError as error:
        return [f"no YAML: {error}"]
    if not isinstance(plain, dict):
        return ["no mapping of fields (`cluster_name: ...`)"]
    return list(_violations(cast(Plain, plain)))


def _violations(plain: Plain) -> Iterator[str]:
    if not plain.get("cluster_name"):
        yield "no cluster_name: Ray calls it `default`, like others; give it one of its own"
    if "idle_timeout_minutes" not in plain:
        yield "no idle_timeout_minutes: set after how many minutes idle workers are given back"
    provider = _mapping(plain, "provider")
    kind = provider.get("type")
    if kind not in _PROVIDERS:
        yield f"provider.type = {kind}: one of {', '.join(_PROVIDERS)} is known here"
        return
    for name in _NEEDED[kind]:
        if provider.get(name) is None:
            yield f"provider.{name} is missing; Ray would take one of its own or fail, so set it"
    yield from (_of_hosts(plain) if kind == "local" else _of_node_types(plain, kind))
    yield from _of_token(plain)
    yield from _of_commands(plain)


def _of_hosts(plain: Plain) -> Iterator[str]:
    provider = _mapping(plain, "provider")
    hosts = [provider.get("head_ip"), *(provider.get("worker_ips") or ())]
    for host in sorted({str(host) for host in hosts if hosts.count(host) > 1}):
        yield f"{host} is named twice in provider; a host is the head, or one worker"
    if plain.get("min_workers", 0) > plain.get("max_workers", len(hosts) - 1):
        yield "min_workers is more than max_workers; lower it"
    if plain.get("max_workers", 0) > len(hosts) - 1:
        yield (
            f"max_workers = {plain['max_workers']} with {len(hosts) - 1} in provider.worker_ips;"
            " name more hosts"
        )
    if not _all_have(_commands(plain, "head"), "RAY_enable_autoscaler_v2=0"):
        yield (
            "the head would start one of the workers only; export RAY_enable_autoscaler_v2=0 in"
            " head_start_ray_commands"
        )


def _of_node_types(plain: Plain, kind: str) -> Iterator[str]:
    types = _mapping(plain, "available_node_types")
    if not types:
        yield "no available_node_types: Ray would take its defaults; say which machines"
    if types and plain.get("head_node_type") not in types:
        yield f"head_node_type = {plain.get('head_node_type')}: none of available_node_types"
    most = plain.get("max_workers", 0)
    for name in types:
        each = _mapping(types, name)
        if each.get("min_workers", 0) > each.get("max_workers", most):
            yield f"{name}: min_workers is more than max_workers; lower it"
        if each.get("max_workers", 0) > most:
            yield f"{name}: max_workers is more than the {most} of the cluster; raise that"
        node = _mapping(each, "node_config")
        rules = _of_ec2(plain, node) if kind == "aws" else _of_gce(node)
        yield from (f"{name}: {line}" for line in rules)


def _of_ec2(plain: Plain, node: Plain) -> Iterator[str]:
    if not node.get("InstanceType"):
        yield "no node_config.InstanceType; name one, m7i.xlarge say"
    if not str(node.get("ImageId", "")).startswith("ami-"):
        yield (
            "no node_config.ImageId (ami-...): Ray would take an Ubuntu 18.04, too old for distcnn;"
            " name an Ubuntu of this region, with NVIDIA's driver where there are GPUs"
        )
    if "ssh_private_key" in _mapping(plain, "auth") and not node.get("KeyName"):
        yield "auth.ssh_private_key without node_config.KeyName; name the key pair"
    if node.get("InstanceInitiatedShutdownBehavior") != "terminate":
        yield (
            "a machine that shuts down would be kept, and paid for; set"
            " node_config.InstanceInitiatedShutdownBehavior: terminate"
        )


def _of_gce(node: Plain) -> Iterator[str]:
    if not node.get("machineType"):
        yield "no node_config.machineType; name one, n2-standard-4 say"
    disks = node.get("disks") or []
    boot = [disk for disk in disks if disk.get("boot")]
    if len(boot) != 1 or not _mapping(boot[0], "initializeParams").get("sourceImage"):
        yield (
            "node_config.disks needs one disk with boot: true and initializeParams.sourceImage"
            " (projects/.../global/images/family/...)"
        )
    if not all(disk.get("autoDelete") for disk in disks):
        yield "a disk would outlive its machine, and be paid for; set its autoDelete: true"
    scheduling = node.get("scheduling")
    if not isinstance(scheduling, dict) or "maxRunDuration" not in scheduling:
        yield (
            "a machine that is forgotten would be paid for until somebody sees it; set"
            " node_config.scheduling.maxRunDuration and instanceTerminationAction: DELETE"
        )


def _of_token(plain: Plain) -> Iterator[str]:
    if TOKEN not in _mapping(plain, "file_mounts"):
        yield f"no token for the machines; add it to file_mounts: {TOKEN}: FILE"
    for place in ("head", "worker"):
        commands = _commands(plain, place)
        # Ray's own commands, without any here, have no token.
        if not commands or not _all_have(commands, "RAY_AUTH_MODE=token"):
            yield (
                f"whoever reaches a port of Ray's could run anything; export RAY_AUTH_MODE=token in"
                f" {place}_start_ray_commands"
            )


def _of_commands(plain: Plain) -> Iterator[str]:
    heads, workers = _commands(plain, "head"), _commands(plain, "worker")
    if not any("--head" in command for command in heads):
        yield "no `ray start --head` in head_start_ray_commands; add it"
    if not _all_have(heads, "--autoscaling-config"):
        yield (
            "the head would start no workers; add --autoscaling-config=~/ray_bootstrap_config.yaml"
            " to its `ray start`"
        )
    if not _all_have(workers, "RAY_HEAD_IP"):
        yield 'workers do not know the head; add --address="$RAY_HEAD_IP":6379 to their `ray start`'
    for command in heads:
        for host in re.findall(r"--dashboard-host[= ]['\"]?([^\s'\";]+)", command):
            if host not in _LOOPBACK:
                yield (
                    f"the dashboard would listen on {host}, and it runs what it is told to; set"
                    " --dashboard-host=127.0.0.1, and reach it by `ray dashboard`"
                )
    if not _all_have([*heads, *workers], "unset OMP_NUM_THREADS"):
        yield (
            "`ray up` sets OMP_NUM_THREADS=1 for its commands, and every worker would have one"
            " thread; begin those with `ray start` with `unset OMP_NUM_THREADS`"
        )


def _commands(plain: Plain, place: str) -> list[str]:
    """Those that start Ray on the head, or on a worker."""
    commands = plain.get(f"{place}_start_ray_commands") or []
    return [str(command) for command in commands if "ray start" in str(command)]


def _all_have(commands: list[str], words: str) -> bool:
    return all(words in command for command in commands)


def _mapping(plain: Plain, name: str) -> Plain:
    value = plain.get(name)
    return cast(Plain, value) if isinstance(value, dict) else {}
