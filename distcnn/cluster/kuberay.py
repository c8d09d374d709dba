"""What Kubernetes is sent for a job: a RayJob, and the ConfigMap and Secret that its pods read."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Any

from distcnn.cluster.job import Job
from distcnn.cluster.parcel import Parcel
from distcnn.cluster.spec import ClusterSpec
from distcnn.cluster.ticket import TICKET
from distcnn.config_file import plain_to_yaml
from distcnn.errors import UsageError

Manifest = dict[str, Any]

API_GROUP = "ray.io"
API_VERSION = "v1"
JOB_LABEL = "distcnn/job"
DIGEST_ANNOTATION = "distcnn/digest"
SENT_ANNOTATION = "distcnn/sent"
# As Ray names it; nodes have it where somebody who runs the cluster has put it there.
ACCELERATOR_LABEL = "ray.io/accelerator-type"
# Any of them says that a node is cheap and can be taken away: Karpenter's, those of the large
# clouds, and Ray's own.
SPOT_LABELS = {
    "karpenter.sh/capacity-type": "spot",
    "cloud.google.com/gke-spot": "true",
    "eks.amazonaws.com/capacityType": "SPOT",
    "kubernetes.azure.com/scalesetpriority": "spot",
    "ray.io/market-type": "spot",
}
# What the operator adds to the head's pod in SidecarMode, by its name and what it asks for.
SUBMITTER = "ray-job-submitter"
SUBMITTER_CPUS = 0.5
SUBMITTER_MEMORY_GIB = 0.2
# Of a ConfigMap, and of a Secret.
LARGEST_BYTES = 2**20

# Pods that have no place by then will hardly get one; their job fails, and says so.
_START_SECONDS = 3600
# For a pod to end after its driver has saved, before it is killed.
_MARGIN_SECONDS = 30
# Pods stay so long after the end, for whoever follows to read the last lines.
_LINGER_SECONDS = 30
# The user of Ray's images, an ordinary one.
_USER_ID = 1000
_OBJECT_STORE_BYTES = 80 * 2**20
_PARCEL_FOLDER, _PARCEL_FILE = "/distcnn/parcel", "parcel.zip"
_JOB_FOLDER = "/distcnn/job"
_PARCEL_VOLUME, _JOB_VOLUME = "distcnn-parcel", "distcnn-job"
_STORAGE_VOLUME, _SHM_VOLUME = "distcnn-storage", "distcnn-shm"


def render_job(job: Job, parcel: Parcel) -> list[Manifest]:
    """All objects of a job, in the order in which they are sent; of secrets only the names.

    Raises:
        ParcelError: the parcel is larger than a ConfigMap may be.
    """
    parcel.check_size(LARGEST_BYTES)
    secrets = [_secret(job)] if job.spec.secrets else []
    rayjob = render_rayjob(job)
    rayjob["metadata"]["annotations"][SENT_ANNOTATION] = sent_digest(job, parcel)
    return [_config_map(job, parcel), *secrets, rayjob]


def sent_digest(job: Job, parcel: Parcel) -> str:
    """Of all that a job is: what it computes, on which machines, by which code; SHA-256."""
    # Each submission has a ticket of its own.
    code = Parcel({name: text for name, text in parcel.files.items() if name != TICKET})
    parts = (job.digest, job.spec.model_dump_json(), code.sha256)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def to_yaml(manifests: list[Manifest]) -> str:
    """Objects as `kubectl apply -f -` takes them."""
    return "---\n".join(plain_to_yaml(manifest) for manifest in manifests)


def files_name(job: Job) -> str:
    """Of the ConfigMap and the Secret: one for each time that the job is submitted."""
    return f"{job.id}-{job.submission[:8]}"


def with_values(secret: Manifest, environment: Mapping[str, str]) -> Manifest:
    """The Secret as it is sent, with the values that `environment` has for its names.

    Raises:
        UsageError: it lacks one.
    """
    missing = sorted(set(secret["stringData"]) - set(environment))
    if missing:
        raise UsageError(
            f"{', '.join(missing)}: named in cluster.secrets, and not set here; export it first"
        )
    return {**secret, "stringData": {name: environment[name] for name in secret["stringData"]}}


def render_rayjob(job: Job) -> Manifest:
    """The RayJob: a Ray cluster of the job's own, which goes when the job has ended."""
    spec = job.spec
    stop_seconds = spec.grace_seconds + _MARGIN_SECONDS
    return {
        "apiVersion": f"{API_GROUP}/{API_VERSION}",
        "kind": "RayJob",
        "metadata": {
            **_metadata(job.id, spec, job.id),
            "annotations": {DIGEST_ANNOTATION: job.digest},
        },
        "spec": {
            # In the head's pod: no further pod, and nothing comes from outside of it.
            "submissionMode": "SidecarMode",
            "entrypoint": f"python -m distcnn.orchestration.driver {_JOB_FOLDER}/{TICKET}",
            "runtimeEnvYAML": plain_to_yaml(
                # Ray kills after 3 seconds by default.
                {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(spec.grace_seconds)}}
            ),
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": _LINGER_SECONDS,
            "preRunningDeadlineSeconds": _START_SECONDS,
            # Counts from when the pods are asked for; the driver's own time begins later.
            "activeDeadlineSeconds": _START_SECONDS + spec.max_seconds + stop_seconds,
            # What a preflight finds, it would find again.
            "backoffLimit": 0 if job.only_preflight else spec.max_retries,
            "rayClusterSpec": {
                **_cluster(spec),
                "headGroupSpec": _head(spec, job),
                "workerGroupSpecs": _workers(spec, job, at_least=spec.nodes - 1),
            },
        },
    }


def render_raycluster(spec: ClusterSpec, name: str) -> Manifest:
    """A RayCluster that stays, for jobs of the target `ray`; idle workers are given back.

    Args:
        spec: of the cluster; `nodes` is the most that it grows to.
        name: a label of the DNS.
    """
    head = _head(spec, None)
    # The autoscaler, which the operator puts there, talks to Kubernetes.
    head["template"]["spec"].pop("automountServiceAccountToken", None)
    return {
        "apiVersion": f"{API_GROUP}/{API_VERSION}",
        "kind": "RayCluster",
        "metadata": _metadata(name, spec, name),
        "spec": {
            **_cluster(spec),
            "enableInTreeAutoscaling": True,
            "autoscalerOptions": {"version": "v2", "idleTimeoutSeconds": spec.idle_seconds},
            "headGroupSpec": head,
            "workerGroupSpecs": _workers(spec, None, at_least=0),
        },
    }


def _metadata(name: str, spec: ClusterSpec, label: str) -> Manifest:
    return {"name": name, "namespace": spec.kuberay.namespace, "labels": {JOB_LABEL: label}}


def _config_map(job: Job, parcel: Parcel) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(files_name(job), job.spec, job.id),
        "immutable": True,
        "binaryData": {_PARCEL_FILE: base64.b64encode(parcel.zipped).decode()},
    }


def _secret(job: Job) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": _metadata(files_name(job), job.spec, job.id),
        "immutable": True,
        "type": "Opaque",
        "stringData": {name: f"<the value of {name}>" for name in job.spec.secrets},
    }


def _cluster(spec: ClusterSpec) -> Manifest:
    return {
        "rayVersion": metadata.version("ray").partition("+")[0],
        # The operator makes a token for each cluster, and a Secret of it that goes with it.
        "authOptions": {"mode": "token"},
    }


def _head(spec: ClusterSpec, job: Job | None) -> Manifest:
    return {
        "serviceType": "ClusterIP",
        "rayStartParams": _start_params(),
        "template": _pod(spec, job, "head"),
    }


def _workers(spec: ClusterSpec, job: Job | None, at_least: int) -> list[Manifest]:
    if spec.nodes == 1:
        return []
    group = {
        "groupName": "workers",
        "numOfHosts": 1,
        "replicas": at_least,
        "minReplicas": at_least,
        "maxReplicas": spec.nodes - 1,
        "rayStartParams": _start_params(),
        "template": _pod(spec, job, "worker"),
    }
    return [group]


def _start_params() -> dict[str, str]:
    # Nothing large goes through Ray's object store here; its default is 30 % of the memory.
    return {"object-store-memory": str(_OBJECT_STORE_BYTES)}


def _pod(spec: ClusterSpec, job: Job | None, role: str) -> Manifest:
    kube = spec.kuberay
    secrets = [{"name": kube.image_pull_secret}] if kube.image_pull_secret else []
    account = {"serviceAccountName": kube.service_account} if kube.service_account else {}
    labels = {JOB_LABEL: job.id} if job else {}
    return {
        "metadata": {"labels": labels},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": spec.grace_seconds + _MARGIN_SECONDS,
            **account,
            "automountServiceAccountToken": bool(kube.service_account),
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": _USER_ID,
                # A volume is handed over once, not file by file at each start.
                "fsGroup": _USER_ID,
                "fsGroupChangePolicy": "OnRootMismatch",
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            **({"imagePullSecrets": secrets} if secrets else {}),
            **_placement(spec),
            "initContainers": [_unpacker(spec)] if job else [],
            "containers": [_ray_container(spec, job, role)],
            "volumes": list(_volumes(spec, job)),
        },
    }


def _unpacker(spec: ClusterSpec) -> Manifest:
    """Unpacks the parcel, before Ray starts."""
    small = {"cpu": "200m", "memory": "128Mi"}
    archive = f"{_PARCEL_FOLDER}/{_PARCEL_FILE}"
    return {
        "name": "unpack",
        "image": spec.image,
        "command": ["python", "-m", "zipfile", "-e", archive, _JOB_FOLDER],
        "resources": {"requests": small, "limits": dict(small)},
        "securityContext": _confined(),
        "volumeMounts": [
            {"name": _PARCEL_VOLUME, "mountPath": _PARCEL_FOLDER, "readOnly": True},
            {"name": _JOB_VOLUME, "mountPath": _JOB_FOLDER},
        ],
    }


def _ray_container(spec: ClusterSpec, job: Job | None, role: str) -> Manifest:
    container = {
        "name": f"ray-{role}",
        "image": spec.image,
        "env": list(_environment(spec, job)),
        "resources": {"requests": _resources(spec), "limits": _resources(spec)},
        "securityContext": _confined(),
        "volumeMounts": list(_mounts(spec, job)),
    }
    if job is None:
        return container
    # Whoever deletes the pod: the job saves before it goes.
    command = ["python", "-m", "distcnn.orchestration.save_before_end", role]
    hook = {"preStop": {"exec": {"command": [*command, str(spec.grace_seconds)]}}}
    return {**container, "lifecycle": hook}


def _environment(spec: ClusterSpec, job: Job | None) -> Iterator[Manifest]:
    if job is not None:
        yield {"name": "PYTHONPATH", "value": _JOB_FOLDER}
    if "RAY_USAGE_STATS_ENABLED" not in spec.environment:
        yield {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"}
    for name, value in spec.environment.items():
        # Kubernetes would put other variables in for `$(NAME)`.
        yield {"name": name, "value": value.replace("$", "$$")}
    for name in spec.secrets if job else ():
        assert job is not None
        source = {"name": files_name(job), "key": name}
        yield {"name": name, "valueFrom": {"secretKeyRef": source}}


def _resources(spec: ClusterSpec) -> Manifest:
    # What is asked for and what is allowed are the same: no pod is evicted for another's sake.
    gpus = {"nvidia.com/gpu": str(spec.gpus_per_node)} if spec.gpus_per_node else {}
    memory = f"{round(spec.memory_gib_per_node * 1024)}Mi"
    return {"cpu": str(spec.cpus_per_node), "memory": memory, **gpus}


def _confined() -> Manifest:
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def _mounts(spec: ClusterSpec, job: Job | None) -> Iterator[Manifest]:
    if job is not None:
        yield {"name": _JOB_VOLUME, "mountPath": _JOB_FOLDER, "readOnly": True}
    yield {"name": _SHM_VOLUME, "mountPath": "/dev/shm"}  # noqa: S108 - of the pod
    if spec.kuberay.volume_claim:
        yield {"name": _STORAGE_VOLUME, "mountPath": str(spec.kuberay.mount_path)}


def _volumes(spec: ClusterSpec, job: Job | None) -> Iterator[Manifest]:
    if job is not None:
        yield {"name": _PARCEL_VOLUME, "configMap": {"name": files_name(job)}}
        yield {"name": _JOB_VOLUME, "emptyDir": {"sizeLimit": "64Mi"}}
    # Ray's object store, and what workers on one machine exchange; it counts as memory.
    shared = max(_OBJECT_STORE_BYTES // 2**20 + 128, round(spec.memory_gib_per_node * 1024 / 4))
    yield {"name": _SHM_VOLUME, "emptyDir": {"medium": "Memory", "sizeLimit": f"{shared}Mi"}}
    if spec.kuberay.volume_claim:
        claim = {"claimName": spec.kuberay.volume_claim}
        yield {"name": _STORAGE_VOLUME, "persistentVolumeClaim": claim}


def _placement(spec: ClusterSpec) -> Manifest:
    """Which nodes may be taken, and which of their taints do not matter."""
    tolerated = ["nvidia.com/gpu"] if spec.gpus_per_node else []
    if spec.spot:
        tolerated += [key for key in SPOT_LABELS if not key.startswith("ray.io/")]
    placement: Manifest = {}
    if tolerated:
        placement["tolerations"] = [{"key": key, "operator": "Exists"} for key in tolerated]
    terms = [{"matchExpressions": term} for term in node_terms(spec)]
    if terms:
        required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
        placement["affinity"] = {"nodeAffinity": required}
    return placement


def node_terms(spec: ClusterSpec) -> list[list[Manifest]]:
    """What a node's labels have to be: all expressions of one of the terms; any where there is
    none."""
    kind = [_is(ACCELERATOR_LABEL, spec.accelerator_type)] if spec.accelerator_type else []
    if spec.spot:
        return [[_is(key, value), *kind] for key, value in SPOT_LABELS.items()]
    return [kind] if kind else []


def _is(key: str, value: str) -> Manifest:
    return {"key": key, "operator": "In", "values": [value]}
