"""What a Kubernetes cluster allows, has and takes, before a job is sent: each with its remedy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from distcnn.cluster import kuberay
from distcnn.cluster.spec import ClusterSpec
from distcnn.errors import UserError
from distcnn.findings import Finding, any_failed

if TYPE_CHECKING:
    from distcnn.orchestration.targets.kubernetes_api import Kubernetes

Plain = dict[str, Any]

_DEFINITION = f"rayjobs.{kuberay.API_GROUP}"
# What a job of ours uses that came last: KubeRay 1.6.
_NEEDED_FIELDS = ("preRunningDeadlineSeconds", "rayClusterSpec.authOptions", "submissionMode")
_LEAST_KUBERAY = "KubeRay 1.6"
# Of a namespace: the standard that its pods have to meet.
_ENFORCED = "pod-security.kubernetes.io/enforce"


def examine(api: Kubernetes, spec: ClusterSpec, manifests: list[Plain]) -> Iterator[Finding]:
    """Rights, operator, surroundings and room; then a dry run by the server.

    Args:
        api: which answers.
        spec: of the job's cluster.
        manifests: what would be sent.
    """
    found: list[Finding] = []
    for look in (_rights, _operator, _surroundings):
        for finding in _told(look, api, spec):
            found.append(finding)
            yield finding
    yield from _told(_room, api, spec)
    if not any_failed(found):
        yield from _dry_run(api, manifests)


def _told(
    look: Callable[[Kubernetes, ClusterSpec], Iterator[Finding]],
    api: Kubernetes,
    spec: ClusterSpec,
) -> Iterator[Finding]:
    try:
        yield from look(api, spec)
    except UserError as error:
        yield Finding("fail", "cluster", str(error))


def _rights(api: Kubernetes, spec: ClusterSpec) -> Iterator[Finding]:
    needed = [
        *((verb, kuberay.API_GROUP, "rayjobs", "") for verb in ("create", "get", "patch")),
        ("delete", kuberay.API_GROUP, "rayjobs", ""),
        *((verb, "", "configmaps", "") for verb in ("create", "patch", "delete")),
        ("list", "", "pods", ""),
        ("delete", "", "pods", ""),
        ("get", "", "pods", "log"),
    ]
    if spec.secrets:
        needed += [(verb, "", "secrets", "") for verb in ("create", "patch", "delete")]
    missing = [
        f"{verb} {resource}{'/' * bool(sub)}{sub}"
        for verb, group, resource, sub in needed
        if not api.may(verb, group, resource, sub)
    ]
    if missing:
        remedy = "ask who runs the cluster for a role that may"
        what = f"in namespace {api.namespace} you may not {', '.join(missing)}; {remedy}"
        yield Finding("fail", "rights", what)
    else:
        yield Finding("ok", "rights", f"all that is needed in namespace {api.namespace}")


def _operator(api: Kubernetes, spec: ClusterSpec) -> Iterator[Finding]:
    remedy = f"have {_LEAST_KUBERAY} or newer installed (helm install kuberay-operator)"
    try:
        definition = api.find_definition(_DEFINITION)
    except UserError as error:
        # Few users may; the dry run tells what matters.
        yield Finding("note", "operator", f"its resources cannot be looked at: {error}")
        return
    served = {
        version["name"]: version
        for version in (definition or {"spec": {"versions": []}})["spec"]["versions"]
        if version["served"]
    }
    if kuberay.API_VERSION not in served:
        yield Finding("fail", "operator", f"there are no RayJobs ({_DEFINITION}); {remedy}")
        return
    schema = served[kuberay.API_VERSION]["schema"]["openAPIV3Schema"]
    missing = [field for field in _NEEDED_FIELDS if not _has_field(schema, f"spec.{field}")]
    if missing:
        yield Finding("fail", "operator", f"it is too old for {', '.join(missing)}; {remedy}")
    else:
        yield Finding("ok", "operator", f"its RayJobs have all that is needed ({_LEAST_KUBERAY})")


def _has_field(schema: Plain, path: str) -> bool:
    for name in path.split("."):
        properties: Plain = schema.get("properties", {})
        if name not in properties:
            return False
        schema = properties[name]
    return True


def _surroundings(api: Kubernetes, spec: ClusterSpec) -> Iterator[Finding]:
    kube = spec.kuberay
    named = [
        ("PersistentVolumeClaim", kube.volume_claim, "cluster.kuberay.volume_claim"),
        ("ServiceAccount", kube.service_account, "cluster.kuberay.service_account"),
        ("Secret", kube.image_pull_secret, "cluster.kuberay.image_pull_secret"),
    ]
    namespace = api.find_namespace()
    if namespace is None:
        remedy = "create it, or set cluster.kuberay.namespace"
        yield Finding("fail", "namespace", f"there is no {api.namespace}; {remedy}")
        return
    if (namespace["metadata"].get("labels") or {}).get(_ENFORCED) == "restricted":
        # Ours would meet that; the operator's own has no securityContext, and none can be given.
        remedy = f"set the label {_ENFORCED} to baseline, or take another namespace"
        what = f"{api.namespace} refuses the pods in which KubeRay's {kuberay.SUBMITTER} is"
        yield Finding("fail", "namespace", f"{what}; {remedy}")
    for kind, name, field in named:
        if name is None:
            continue
        there = api.find(kind, name)
        if there is None:
            remedy = f"create it, or set {field}"
            yield Finding("fail", kind, f"there is no {name} in {api.namespace}; {remedy}")
        elif kind == "PersistentVolumeClaim" and spec.nodes > 1 and not _is_shared(there):
            remedy = "take a claim with accessModes: [ReadWriteMany]"
            yield Finding("fail", kind, f"{name} can be written by one node only; {remedy}")
        else:
            yield Finding("ok", kind, f"{name} is there")


def _is_shared(claim: Plain) -> bool:
    return "ReadWriteMany" in claim["spec"]["accessModes"]


def _room(api: Kubernetes, spec: ClusterSpec) -> Iterator[Finding]:
    try:
        nodes = api.nodes()
    except UserError as error:
        yield Finding("note", "room", f"the nodes cannot be looked at: {error}")
        return
    asked = f"{spec.nodes} x {spec.cpus_per_node} CPU, {spec.memory_gib_per_node:g} GiB" + (
        f", {spec.gpus_per_node} GPU" if spec.gpus_per_node else ""
    )
    fitting = [node for node in nodes if _suits(node, spec)]
    count = sum(_how_many(node, spec) for node in fitting)
    has_place_for_head = any(_takes_head(node, spec) for node in fitting)
    if count >= spec.nodes and has_place_for_head:
        yield Finding("ok", "room", f"asked: {asked}; there is room for {count}, when all is free")
        return
    labels = "" if len(fitting) == len(nodes) else f", {len(fitting)} of them of the kind asked for"
    more = f"{kuberay.SUBMITTER_CPUS} CPU and {kuberay.SUBMITTER_MEMORY_GIB} GiB on top"
    what = (
        f"asked: {asked} (the first needs {more}); {len(nodes)} node(s){labels}, with room for"
        f" {count}. An autoscaler may add some; else set cluster.nodes, cpus_per_node,"
        " memory_gib_per_node, gpus_per_node, accelerator_type, spot"
    )
    yield Finding("note", "room", what)


def _suits(node: Plain, spec: ClusterSpec) -> bool:
    labels = node["metadata"].get("labels") or {}
    terms = kuberay.node_terms(spec)
    return not terms or any(
        all(labels.get(each["key"]) in each["values"] for each in term) for term in terms
    )


def _how_many(node: Plain, spec: ClusterSpec) -> int:
    cpus, memory_gib, gpus = _capacity(node)
    counts = [int(cpus // spec.cpus_per_node), int(memory_gib // spec.memory_gib_per_node)]
    return min([*counts, *([int(gpus // spec.gpus_per_node)] if spec.gpus_per_node else [])])


def _takes_head(node: Plain, spec: ClusterSpec) -> bool:
    cpus, memory_gib, _ = _capacity(node)
    return (
        _how_many(node, spec) > 0
        and cpus >= spec.cpus_per_node + kuberay.SUBMITTER_CPUS
        and memory_gib >= spec.memory_gib_per_node + kuberay.SUBMITTER_MEMORY_GIB
    )


def _capacity(node: Plain) -> tuple[float, float, float]:
    """CPUs, memory in GiB, GPUs."""
    from kubernetes.utils.quantity import parse_quantity

    there = node["status"]["allocatable"]
    cpus, memory, gpus = (
        float(parse_quantity(there.get(name, "0"))) for name in ("cpu", "memory", "nvidia.com/gpu")
    )
    return cpus, memory / 2**30, gpus


def _dry_run(api: Kubernetes, manifests: list[Plain]) -> Iterator[Finding]:
    try:
        for manifest in manifests:
            api.create(manifest, dry_run=True)
    except UserError as error:
        yield Finding("fail", "dry run", str(error))
    else:
        yield Finding("ok", "dry run", "the server takes all objects of the job")
