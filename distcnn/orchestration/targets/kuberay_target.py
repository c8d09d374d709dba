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
from distcnn.findings import Finding
from distcnn.orchestration.targets import ends_within
from distcnn.orchestration.targets.kubernetes_checks import examine

if TYPE_CHECKING:
    from distcnn.orchestration.targets.kubernetes_api import Kubernetes

Plain = dict[str, Any]

_LOOK_EVERY_SECONDS = 0.5
# For the operator to take notice, and for Kubernetes to clear up.
_NOTICED_SECONDS = 60.0
# Ray's words, in the operator's message and at the end of the submitter's log.
_EXIT_CODE = re.compile(r"Job entrypoint command failed with exit code (-?\d+)")
_STOPPING = Status(State.RUNNING, None, "it was asked to stop, and saves", is_stopping=True)
_HEAD_LABELS = {"ray.io/node-type": "head"}


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
    yield from examine(api, job.spec, manifests)
