"""Jobs as RayJobs in Kubernetes, which the KubeRay operator runs."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from distcnn.cluster import kuberay
from distcnn.cluster.handle import Handle
from distcnn.cluster.job import Job
from distcnn.cluster.kuberay_rules import violations
from distcnn.cluster.parcel import Parcel
from distcnn.cluster.registry import Remembered
from distcnn.cluster.spec import ClusterSpec
from distcnn.cluster.status import State, Status
from distcnn.errors import UserError
from distcnn.findings import Finding, any_failed
from distcnn.orchestration.targets import ends_within

if TYPE_CHECKING:
    from distcnn.orchestration.targets.kubernetes_api import Kubernetes

Plain = dict[str, Any]

_LOOK_EVERY_SECONDS = 0.5
# For the operator to take notice, and for Kubernetes to clear up.
_NOTICED_SECONDS = 60.0
_DEFINITION = f"rayjobs.{kuberay.API_GROUP}"
# Ray's words, in the operator's message and at the end of the submitter's log.
_EXIT_CODE = re.compile(r"Job entrypoint command failed with exit code (-?\d+)")
_STOPPING = Status(State.RUNNING, None, "it was asked to stop, and saves", is_stopping=True)
_HEAD_LABELS = {"ray.io/node-type": "head"}
# What a job of ours uses that came last: KubeRay 1.6.
_NEEDED_FIELDS = ("preRunningDeadlineSeconds", "rayClusterSpec.authOptions", "submissionMode")
_LEAST_KUBERAY = "KubeRay 1.6"
# Of a namespace: the standard that its pods have to meet.
_ENFORCED = "pod-security.kubernetes.io/enforce"


def render(job: Job, parcel: Parcel) -> str:
    """The objects as `kubectl apply -f -` takes them; of secrets only the names."""
    return kuberay.to_yaml(kuberay.render_job(job, parcel))


def submit(job: Job, parcel: Parcel) -> Handle:
    """Send it, unless it is there: one that was stopped goes on, one that has ended is replaced.

    Raises:
        UserError: it is refused, or another job of this name has not ended.
    """
    manifests = _sendable(job, parcel)
    api = _api(job.spec)
    handle = Handle("kuberay", (api.context, api.namespace), job.id)
    if _is_taken_up(api, job, parcel):
        return handle
    for manifest in manifests:
        api.create(manifest, dry_run=True)
    _send(api, manifests)
    return handle


def _sendable(job: Job, parcel: Parcel) -> list[Plain]:
    manifests = kuberay.render_job(job, parcel)
    broken = list(violations(manifests[-1]))
    if broken:
        raise UserError("\n".join(["KubeRay would refuse the job", *broken]))
    return [
        kuberay.with_values(manifest, os.environ) if manifest["kind"] == "Secret" else manifest
        for manifest in manifests
    ]


def _is_taken_up(api: Kubernetes, job: Job, parcel: Parcel) -> bool:
    """Whether there is such a job already, which has not ended."""
    known = api.find("RayJob", job.id)
    if known is None:
        return False
    status = known.get("status") or {}
    annotations = known["metadata"].get("annotations") or {}
    is_suspended = bool(known["spec"].get("suspend"))
    # One that was stopped goes on as it is; with other code, or machines, it is another object.
    is_other = annotations.get(kuberay.SENT_ANNOTATION) != kuberay.sent_digest(job, parcel)
    if (
        "deletionTimestamp" in known["metadata"]
        or _has_ended(status)
        or (is_suspended and is_other)
    ):
        api.delete("RayJob", job.id)
        _wait(lambda: api.find("RayJob", job.id) is None, f"RayJob {job.id} is not deleted yet")
        return False
    if annotations.get(kuberay.DIGEST_ANNOTATION) != job.digest:
        raise UserError(
            f"another job {job.id} is there, and has not ended; stop that one, or choose --id"
        )
    if is_suspended:
        api.patch("RayJob", job.id, {"spec": {"suspend": False}})
    return True


def _send(api: Kubernetes, manifests: list[Plain]) -> None:
    *files, rayjob = manifests
    try:
        for manifest in files:
            api.create(manifest)
        created = api.create(rayjob)
    except UserError:
        _discard(api, files)
        raise
    if created is None:  # Somebody else sent this job at the same moment.
        _discard(api, files)
        return
    # From now on they go with the RayJob.
    owner = {
        "apiVersion": rayjob["apiVersion"],
        "kind": rayjob["kind"],
        "name": rayjob["metadata"]["name"],
        "uid": created["metadata"]["uid"],
    }
    for manifest in files:
        changes = {"metadata": {"ownerReferences": [owner]}}
        api.patch(manifest["kind"], manifest["metadata"]["name"], changes)


def _discard(api: Kubernetes, files: list[Plain]) -> None:
    for manifest in files:
        with suppress(UserError):
            api.delete(manifest["kind"], manifest["metadata"]["name"])


def attach(remembered: Remembered) -> RayJob:
    """Take hold of a job."""
    context, namespace = remembered.handle.places
    return RayJob(context, namespace, remembered.handle.id)


class RayJob:
    """A job in Kubernetes, by its name."""

    def __init__(self, context: str, namespace: str, name: str) -> None:
        self._place = (context, namespace)
        self._name = name
        self._connected: Kubernetes | None = None
        self._logs: dict[str, list[bytes]] = {}
        """Of each head pod by its uid, in their order: they go with their pods."""

    @property
    def _api(self) -> Kubernetes:
        if self._connected is None:
            self._connected = _connect(*self._place)
        return self._connected

    def status(self) -> Status:
        """How it is."""
        known = self._api.find("RayJob", self._name)
        if known is None:
            return Status(State.LOST, detail="Kubernetes does not know it: it was deleted")
        status = known.get("status") or {}
        match status.get("jobDeploymentStatus", ""):
            case "Complete":
                is_whole = status.get("jobStatus") == "SUCCEEDED"
                return Status.ended(0) if is_whole else Status(State.STOPPED)
            case "Failed" | "ValidationFailed":
                return self._failed(status)
            case "Suspending":
                return _STOPPING
            case "Suspended" if not known["spec"].get("suspend"):
                return Status(State.QUEUED, detail="it goes on as soon as the operator sees that")
            case "Suspended":
                if self._pods():
                    return _STOPPING
                return Status(State.STOPPED, detail="it saved, and can be gone on with")
            case "Retrying":
                retry = f"failure {status.get('failed', 1)}: {_headline(status)}"
                return Status(State.STARTING, detail=f"it is taken up again after {retry}")
            case "Running":
                begun = status.get("jobStatus") in ("RUNNING", "SUCCEEDED", "FAILED", "STOPPED")
                return Status(State.RUNNING if begun else State.STARTING)
            case _:
                return _before_it_runs(self._pods())

    def _failed(self, status: Plain) -> Status:
        detail = _headline(status)
        reason = status.get("reason", "")
        if reason == "DeadlineExceeded":
            return Status(State.STOPPED, detail="its time (max_seconds) is over")
        # The operator may see the submitter fail before it sees why.
        # Of several attempts, the last one counts.
        told = _EXIT_CODE.findall(status.get("message", ""))
        told = told or _EXIT_CODE.findall(self.log(0).decode(errors="replace"))
        if told and int(told[-1]) != 0:
            return Status.ended(int(told[-1]), detail)
        return Status(State.FAILED, detail=f"{reason}: {detail}".strip(": "))

    def log(self, offset: int) -> bytes:
        """What its driver has printed, from so many bytes on; of pods that are gone, as far as it
        was read before."""
        for pod in self._pods(**_HEAD_LABELS):
            printed = self._api.log(pod["metadata"]["name"], kuberay.SUBMITTER)
            if printed is None:
                continue
            files = self._logs.setdefault(pod["metadata"]["uid"], [b""])
            if len(printed) < len(files[-1]):  # Kubernetes begins a new file after 10 MiB.
                files.append(printed)
            else:
                files[-1] = printed
        return b"".join(file for files in self._logs.values() for file in files)[offset:]

    def stop(self, grace_seconds: int) -> None:
        """Have the operator suspend it: its pods save and go. What is left is killed."""
        if self.status().state.has_ended:
            return
        self._api.patch("RayJob", self._name, {"spec": {"suspend": True}})
        if ends_within(self, grace_seconds + _NOTICED_SECONDS):
            return
        for pod in self._pods():
            self._api.delete("Pod", pod["metadata"]["name"], grace_seconds=0)
        if ends_within(self, _NOTICED_SECONDS):
            return
        self._api.delete("RayJob", self._name)
        _wait(
            lambda: self.status().state.has_ended,
            f"{self._name} has not ended; see `kubectl describe rayjob {self._name}`, and whether"
            " the KubeRay operator runs",
        )

    def _pods(self, **labels: str) -> list[Plain]:
        return self._api.pods({kuberay.JOB_LABEL: self._name, **labels})


def _before_it_runs(pods: list[Plain]) -> Status:
    if not pods:
        return Status(State.QUEUED, detail="no pods yet")
    for pod in pods:
        for condition in pod["status"].get("conditions") or []:
            if condition["type"] == "PodScheduled" and condition["status"] == "False":
                what = f"{pod['metadata']['name']}: {condition.get('message', 'no place yet')}"
                return Status(State.QUEUED, detail=what)
    waiting = [
        f"{pod['metadata']['name']}: {state['waiting'].get('reason', 'waiting')}"
        f" {state['waiting'].get('message', '')}".rstrip()
        for pod in pods
        for state in _container_states(pod)
        if "waiting" in state
    ]
    return Status(State.STARTING, detail=waiting[0] if waiting else "")


def _container_states(pod: Plain) -> Iterator[Plain]:
    for group in ("initContainerStatuses", "containerStatuses"):
        for container in pod["status"].get(group) or []:
            yield container.get("state") or {}


def _headline(status: Plain) -> str:
    return status.get("message", "").partition("\n")[0]


def _has_ended(status: Plain) -> bool:
    return status.get("jobDeploymentStatus") in ("Complete", "Failed", "ValidationFailed")


def _wait(is_over: Callable[[], bool], complaint: str) -> None:
    deadline = time.monotonic() + _NOTICED_SECONDS
    while not is_over():
        if time.monotonic() > deadline:
            raise UserError(complaint)
        time.sleep(_LOOK_EVERY_SECONDS)


def _api(spec: ClusterSpec) -> Kubernetes:
    return _connect(spec.kuberay.context, spec.kuberay.namespace)


def _connect(context: str | None, namespace: str) -> Kubernetes:
    try:
        from distcnn.orchestration.targets.kubernetes_api import Kubernetes
    except ImportError as error:
        raise UserError(
            "the target kuberay needs the client of Kubernetes: pip install 'distcnn[kubernetes]'"
        ) from error
    return Kubernetes(context, namespace)


def check(job: Job, parcel: Parcel) -> Iterator[Finding]:
    """What the API answers, allows and takes, and whether there is room."""
    manifests: list[Plain] = []
    try:
        manifests = _sendable(job, parcel)
        yield Finding("ok", "parcel", f"{len(parcel.zipped) / 2**20:.2f} MiB; 1 MiB may travel")
        api = _api(job.spec)
        what = f"{api.context} answers: Kubernetes {api.version()}"
        yield Finding("ok", "cluster", what)
    except UserError as error:
        yield Finding("fail", "cluster" if manifests else "job", str(error))
        return
    found: list[Finding] = []
    for examine in (_rights, _operator, _surroundings):
        for finding in _told(examine, api, job.spec):
            found.append(finding)
            yield finding
    yield from _told(_room, api, job.spec)
    if not any_failed(found):
        yield from _dry_run(api, manifests)


def _told(
    examine: Callable[[Kubernetes, ClusterSpec], Iterator[Finding]],
    api: Kubernetes,
    spec: ClusterSpec,
) -> Iterator[Finding]:
    try:
        yield from examine(api, spec)
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
