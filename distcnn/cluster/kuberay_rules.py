"""What KubeRay's operator refuses that its schema lets pass.

The API server takes such an object, and nothing comes of it: the operator only notes that it is
invalid. So it is refused here, before it is sent. The rules are those of KubeRay 1.5 and 1.6 that
concern a RayJob or a RayCluster with a Ray of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

Plain = Mapping[str, Any]

# The operator makes longer names of it: of a cluster, of services.
LONGEST_NAME = {"RayJob": 47, "RayCluster": 63}
_DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_MODES = ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode")
_MANAGERS = ("ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue")
_LEAST_RAY_WITH_TOKENS = (2, 52)
_RESOURCE_PARAMS = ("num-cpus", "num-gpus", "memory", "resources")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")


def violations(manifest: Plain) -> Iterator[str]:
    """Each rule that a RayJob or a RayCluster breaks: the field, and the remedy.

    Args:
        manifest: valid by the schema.
    """
    kind, spec = manifest["kind"], manifest.get("spec") or {}
    yield from _name(manifest.get("metadata", {}).get("name", ""), LONGEST_NAME[kind])
    yield from _managed_by(spec)
    if kind == "RayCluster":
        yield from _cluster(spec, "spec")
        return
    yield from _job(spec)
    if spec.get("rayClusterSpec") is not None:
        yield from _cluster(spec["rayClusterSpec"], "spec.rayClusterSpec")


def _name(name: str, longest: int) -> Iterator[str]:
    if len(name) > longest:
        yield f"metadata.name: {name!r} has {len(name)} characters; {longest} at most"
    if not _DNS_1035.fullmatch(name):
        yield (
            f"metadata.name: {name!r} is no DNS-1035 label; take a-z, 0-9 and '-', beginning with a"
            " letter, not ending with '-'"
        )


def _managed_by(spec: Plain) -> Iterator[str]:
    manager = spec.get("managedBy")
    if manager is not None and manager not in _MANAGERS:
        yield f"spec.managedBy: {manager!r}; it is one of {', '.join(_MANAGERS)}"


def _job(spec: Plain) -> Iterator[str]:
    mode = spec.get("submissionMode", "K8sJobMode")
    if mode not in _MODES:
        yield f"spec.submissionMode: {mode!r}; it is one of {', '.join(_MODES)}"
    if mode != "InteractiveMode" and not spec.get("entrypoint", "").strip():
        yield "spec.entrypoint: missing; say what is to run"
    yield from _ending(spec)
    yield from _whose_cluster(spec, mode)
    yield from _runtime_env(spec.get("runtimeEnvYAML", ""))
    if spec.get("activeDeadlineSeconds", 1) <= 0:
        yield "spec.activeDeadlineSeconds: has to be positive; leave it out for none"
    if spec.get("backoffLimit", 0) < 0:
        yield "spec.backoffLimit: cannot be negative; 0 is never"
    if mode == "InteractiveMode" and spec.get("backoffLimit", 0) > 0:
        yield "spec.backoffLimit: no job is tried again in InteractiveMode; set 0"
    if mode == "SidecarMode":
        yield from _sidecar(spec)


def _ending(spec: Plain) -> Iterator[str]:
    shuts_down = spec.get("shutdownAfterJobFinishes", False)
    ttl = spec.get("ttlSecondsAfterFinished", 0)
    if ttl < 0:
        yield "spec.ttlSecondsAfterFinished: cannot be negative"
    if ttl > 0 and not shuts_down:
        yield "spec.ttlSecondsAfterFinished: set shutdownAfterJobFinishes: true with it"
    if spec.get("suspend") and not shuts_down:
        yield "spec.suspend: set shutdownAfterJobFinishes: true with it"
    strategy = spec.get("deletionStrategy")
    if strategy is not None and shuts_down and strategy.get("deletionRules"):
        yield "spec.deletionStrategy: excludes shutdownAfterJobFinishes; choose one"


def _whose_cluster(spec: Plain, mode: str) -> Iterator[str]:
    selector = spec.get("clusterSelector")
    if not selector:
        if spec.get("rayClusterSpec") is None:
            yield "spec.rayClusterSpec: missing; give it, or a clusterSelector"
        return
    if not selector.get("ray.io/cluster"):
        yield "spec.clusterSelector: name a cluster by its label ray.io/cluster"
    if spec.get("suspend"):
        yield "spec.suspend: a job with a clusterSelector cannot be suspended"
    if mode == "SidecarMode":
        yield "spec.clusterSelector: not in SidecarMode; give a rayClusterSpec"


def _sidecar(spec: Plain) -> Iterator[str]:
    for field in ("submitterPodTemplate", "submitterConfig"):
        if spec.get(field) is not None:
            yield f"spec.{field}: not in SidecarMode; leave it out"
    head = (spec.get("rayClusterSpec") or {}).get("headGroupSpec") or {}
    if _pod(head).get("restartPolicy", "Never") != "Never":
        yield "spec.rayClusterSpec.headGroupSpec: restartPolicy has to be Never in SidecarMode"


def _runtime_env(text: str) -> Iterator[str]:
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        yield f"spec.runtimeEnvYAML: no YAML: {' '.join(str(error).split())}"
        return
    if values is not None and not isinstance(values, dict):
        yield "spec.runtimeEnvYAML: has to hold a mapping (`env_vars:` ...)"


def _cluster(spec: Plain, at: str) -> Iterator[str]:
    head = spec.get("headGroupSpec") or {}
    groups: Sequence[Plain] = spec.get("workerGroupSpecs") or []
    yield from _group(head, f"{at}.headGroupSpec")
    names = [group.get("groupName", "") for group in groups]
    if len(set(names)) < len(names):
        yield f"{at}.workerGroupSpecs: two of one groupName; choose another"
    for number, group in enumerate(groups):
        place = f"{at}.workerGroupSpecs[{number}]"
        yield from _group(group, place)
        yield from _replicas(group, place)
    yield from _head_variables(spec, head, at)
    yield from _autoscaler(spec, [head, *groups], at)
    yield from _tokens(spec, at)


def _group(group: Plain, at: str) -> Iterator[str]:
    containers = _pod(group).get("containers") or []
    if not containers:
        yield f"{at}: has no container; give one with Ray's image"
    for number, container in enumerate(containers):
        if not container.get("image"):
            yield f"{at}: container {number} has no image; name one with Ray in it"
    params = group.get("rayStartParams") or {}
    if group.get("resources") and any(params.get(name) for name in _RESOURCE_PARAMS):
        yield f"{at}: resources stand in rayStartParams and in resources; choose one"
    if "labels" in params:
        yield f"{at}.rayStartParams: labels belong in the group's own labels"
    for key, value in (group.get("labels") or {}).items():
        if not _LABEL_VALUE.fullmatch(value):
            yield f"{at}.labels: {key} = {value!r} is no value of a label"


def _replicas(group: Plain, at: str) -> Iterator[str]:
    least, most = group.get("minReplicas", 0), group.get("maxReplicas", 0)
    wanted = group.get("replicas", least)
    if least < 0:
        yield f"{at}.minReplicas: cannot be negative"
    if least > most:
        yield f"{at}.minReplicas: {least} is more than maxReplicas, {most}; swap them"
    elif not least <= wanted <= most:
        yield f"{at}.replicas: {wanted} is not within {least} and {most}"
    if group.get("numOfHosts", 1) < 1:
        yield f"{at}.numOfHosts: has to be positive"


def _head_variables(spec: Plain, head: Plain, at: str) -> Iterator[str]:
    names = _variables(head)
    if "RAY_REDIS_ADDRESS" in names and spec.get("gcsFaultToleranceOptions") is None:
        yield f"{at}: RAY_REDIS_ADDRESS is set on the head; use gcsFaultToleranceOptions"
    if "REDIS_USERNAME" in names or (head.get("rayStartParams") or {}).get("redis-username"):
        yield f"{at}: a Redis user is set on the head; use gcsFaultToleranceOptions.redisUsername"


def _autoscaler(spec: Plain, groups: Sequence[Plain], at: str) -> Iterator[str]:
    version = _variables(groups[0]).get("RAY_enable_autoscaler_v2")
    if not spec.get("enableInTreeAutoscaling"):
        if version in ("1", "true"):
            yield f"{at}: RAY_enable_autoscaler_v2 needs enableInTreeAutoscaling: true"
        return
    chosen = (spec.get("autoscalerOptions") or {}).get("version")
    if chosen is not None and version is not None:
        yield f"{at}.autoscalerOptions.version: and RAY_enable_autoscaler_v2; choose the former"
    if any(group.get("suspend") for group in groups):
        yield f"{at}: no group can be suspended while there is an autoscaler"
    if chosen == "v2" or version in ("1", "true"):
        for group in groups:
            if _pod(group).get("restartPolicy", "Never") != "Never":
                name = group.get("groupName", "head")
                yield f"{at}: restartPolicy of {name} has to be Never with autoscaler v2"


def _tokens(spec: Plain, at: str) -> Iterator[str]:
    if (spec.get("authOptions") or {}).get("mode") != "token":
        return
    matched = re.match(r"(\d+)\.(\d+)", spec.get("rayVersion", ""))
    if matched is None or (int(matched[1]), int(matched[2])) < _LEAST_RAY_WITH_TOKENS:
        yield f"{at}.rayVersion: tokens (authOptions) need 2.52.0 or newer; say which Ray it is"


def _pod(group: Plain) -> Plain:
    return (group.get("template") or {}).get("spec") or {}


def _variables(group: Plain) -> dict[str, Any]:
    containers = _pod(group).get("containers") or [{}]
    return {each["name"]: each.get("value") for each in containers[0].get("env") or []}
