"""A fake Kubernetes API server, and a fake KubeRay operator: neither is the real thing.

The server speaks as much of the API over HTTP on a free loopback port as distcnn uses: objects are
created (also as dry runs), read, listed by labels, patched and deleted with what they own; RayJobs
are held against KubeRay's schema where it is at hand; one bearer token is known. The operator moves
RayJobs through KubeRay's states as its source has them, a hundred times as fast. A pod is a process
namespace on this machine: its init container and the job's entry point really run there, on the
files that the ConfigMap holds, with the variables of the container, and whoever deletes the pod has
its preStop hook run before it is signalled. There is no image in it, no user, no limit; and no Ray,
unless a test wants one in the head's pod.
"""

from __future__ import annotations

import base64
import copy
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import psutil
import yaml
from werkzeug import Request, Response
from werkzeug.serving import make_server

from distcnn.cluster.kuberay import SUBMITTER
from distcnn.cluster.kuberay_rules import violations
from tests import kuberay_schemas

TOKEN = "the-only-token"
NAMESPACE = "training"
CONTEXT = "arn:fake/cluster"
_TICK_SECONDS = 0.05
_PLURALS = {
    "RayJob": "rayjobs",
    "ConfigMap": "configmaps",
    "Secret": "secrets",
    "Pod": "pods",
    "PersistentVolumeClaim": "persistentvolumeclaims",
    "ServiceAccount": "serviceaccounts",
}
_PATH = re.compile(
    r"/(?:api/v1|apis/(?P<group>[^/]+)/v1)/namespaces/(?P<namespace>[^/]+)"
    r"(?:/(?P<plural>[a-z]+)(?:/(?P<name>[^/]+)(?:/(?P<sub>log))?)?)?"
)

Plain = dict[str, Any]


class RefusedError(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def can_run_pods() -> bool:
    """Whether this account may make namespaces."""
    command = ["unshare", "--pid", "--net", "--fork", "--mount-proc", "true"]
    return (
        bool(shutil.which("nsenter"))
        and not subprocess.run(command, capture_output=True).returncode
    )


def expanded(value: str, variables: dict[str, str]) -> str:
    """What becomes of a variable's value in Kubernetes: `$(NAME)` is replaced, `$$` is `$`."""

    def one(matched: re.Match[str]) -> str:
        if matched[0] == "$$":
            return "$"
        return variables.get(matched[1], matched[0])

    return re.sub(r"\$\$|\$\(([^()]*)\)", one, value)


class FakeKubernetes:
    """Runs in threads of this process from its making to `close`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.objects: dict[tuple[str, str], Plain] = {}
        """By their plural and name, all in one namespace."""
        self.forbidden: set[tuple[str, str]] = set()
        """Verbs and plurals that the token is not allowed."""
        self.is_away = False
        """Answers 503 to everything."""
        self.has_operator = True
        self.operator_lacks: tuple[str, ...] = ()
        """Fields of a RayJob's spec that the installed version does not know."""
        self.namespace_labels: dict[str, str] = {}
        self.nodes: list[Plain] = [node("a", "8", "16Gi"), node("b", "8", "16Gi")]
        self.lock = threading.RLock()
        self.operator = FakeOperator(self)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        self._serving = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), daemon=True
        )
        self._serving.start()
        self.operator.start()

    def close(self) -> None:
        self.operator.close()
        self._server.shutdown()
        self._serving.join()
        self._server.server_close()

    def write_kubeconfig(self, path: Path, token: str = TOKEN) -> None:
        url = f"http://127.0.0.1:{self._server.server_port}"
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": CONTEXT,
            "contexts": [{"name": CONTEXT, "context": {"cluster": "fake", "user": "me"}}],
            "clusters": [{"name": "fake", "cluster": {"server": url}}],
            "users": [{"name": "me", "user": {"token": token}}],
        }
        path.write_text(yaml.safe_dump(config))

    def of_kind(self, plural: str) -> list[Plain]:
        return [each for (kind, _), each in list(self.objects.items()) if kind == plural]

    def remove(self, plural: str, name: str) -> None:
        """And what it owns."""
        gone = self.objects.pop((plural, name), None)
        if gone is None:
            return
        uid = gone["metadata"]["uid"]
        for key, other in list(self.objects.items()):
            owners = other["metadata"].get("ownerReferences") or []
            if any(owner["uid"] == uid for owner in owners):
                self.remove(*key)

    def _answer(self, environ: Any, start_response: Any) -> Any:
        request = Request(environ)
        try:
            with self.lock:
                response = self._handle(request)
        except RefusedError as refusal:
            status = {"kind": "Status", "status": "Failure", "message": str(refusal)}
            response = _json(status, refusal.status)
        return response(environ, start_response)

    def _handle(self, request: Request) -> Response:
        if self.is_away:
            raise RefusedError(503, "the server is currently unable to handle the request")
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise RefusedError(401, "Unauthorized")
        if request.path == "/version/":
            return _json({"gitVersion": "v1.34.0-fake"})
        if request.path == "/api/v1/nodes":
            self._allow("list", "nodes")
            return _json({"items": self.nodes})
        if request.path.endswith("/customresourcedefinitions/rayjobs.ray.io"):
            self._allow("get", "customresourcedefinitions")
            return _json(self._definition())
        if request.path.endswith("/selfsubjectaccessreviews"):
            asked = request.get_json(force=True)["spec"]["resourceAttributes"]
            plural = "/".join(filter(None, (asked["resource"], asked.get("subresource"))))
            allowed = (asked["verb"], plural) not in self.forbidden
            return _json({"status": {"allowed": allowed}}, 201)
        matched = _PATH.fullmatch(request.path)
        if matched is None:
            raise RefusedError(404, "the server could not find the requested resource")
        return self._in_namespace(request, **matched.groupdict())

    def _in_namespace(
        self,
        request: Request,
        group: str | None,
        namespace: str,
        plural: str | None,
        name: str | None,
        sub: str | None,
    ) -> Response:
        if namespace != NAMESPACE:
            raise RefusedError(404, f'namespaces "{namespace}" not found')
        if plural is None:
            metadata = {"name": namespace, "labels": self.namespace_labels}
            return _json({"kind": "Namespace", "metadata": metadata})
        if plural == "rayjobs" and not self.has_operator:
            raise RefusedError(404, "the server could not find the requested resource")
        verbs = {"POST": "create", "GET": "get" if name else "list", "PATCH": "patch"}
        self._allow(verbs.get(request.method, "delete"), f"{plural}/log" if sub else plural)
        if request.method == "POST":
            return self._create(request, plural)
        if name is None:
            return _json({"items": self._selected(plural, request.args.get("labelSelector", ""))})
        known = self.objects.get((plural, name))
        if known is None:
            raise RefusedError(404, f'{plural} "{name}" not found')
        if sub:
            return self.operator.log(known, request.args["container"])
        if request.method == "GET":
            return _json(known)
        if request.method == "PATCH":
            return self._patch(known, request)
        return self._delete(known, plural, request)

    def _allow(self, verb: str, plural: str) -> None:
        if (verb, plural) in self.forbidden:
            raise RefusedError(403, f'User "me" cannot {verb} resource "{plural}"')

    def _selected(self, plural: str, selector: str) -> list[Plain]:
        wanted = dict(each.split("=") for each in selector.split(",") if each)
        return [
            each
            for each in self.of_kind(plural)
            if wanted.items() <= (each["metadata"].get("labels") or {}).items()
        ]

    def _create(self, request: Request, plural: str) -> Response:
        manifest = request.get_json(force=True)
        name = manifest["metadata"]["name"]
        if _PLURALS[manifest["kind"]] != plural or manifest["metadata"]["namespace"] != NAMESPACE:
            raise RefusedError(400, "the object does not belong here")
        if (plural, name) in self.objects:
            raise RefusedError(409, f'{plural} "{name}" already exists')
        if plural == "rayjobs":
            self._check(manifest, request.args.get("fieldValidation") == "Strict")
        if plural == "configmaps":
            size = sum(len(base64.b64decode(each)) for each in manifest["binaryData"].values())
            if size > 2**20:
                raise RefusedError(
                    422, "ConfigMap is invalid: Too long: may not be more than 1048576"
                )
        if plural == "secrets":
            texts = manifest.pop("stringData", {})
            data = {key: base64.b64encode(text.encode()).decode() for key, text in texts.items()}
            manifest["data"] = data
        self._stamp(manifest)
        if request.args.get("dryRun") != "All":
            self.objects[plural, name] = manifest
        return _json(manifest, 201)

    def _check(self, manifest: Plain, is_strict: bool) -> None:
        if kuberay_schemas.are_there():
            errors = kuberay_schemas.errors(manifest)
            if errors:
                raise RefusedError(422, f"RayJob is invalid: {'; '.join(errors)}")
        unknown = [each for each in self.operator_lacks if each in manifest["spec"]]
        if unknown and is_strict:
            raise RefusedError(400, f'strict decoding error: unknown field "spec.{unknown[0]}"')

    def _stamp(self, manifest: Plain) -> None:
        now = datetime.now(UTC).isoformat(timespec="microseconds")
        manifest["metadata"] |= {"uid": str(uuid.uuid4()), "creationTimestamp": now}
        self._touch(manifest)

    def _touch(self, manifest: Plain) -> None:
        manifest["metadata"]["resourceVersion"] = uuid.uuid4().hex

    def _patch(self, known: Plain, request: Request) -> Response:
        kinds = ("application/merge-patch+json", "application/strategic-merge-patch+json")
        if request.content_type not in kinds:
            raise RefusedError(
                415, f"the body of the request was in an unknown format: {request.content_type}"
            )
        changes = json.loads(request.data)
        version = changes.get("metadata", {}).get("resourceVersion")
        if version not in (None, known["metadata"]["resourceVersion"]):
            raise RefusedError(409, "the object has been modified; please apply your changes to it")
        _merge(known, changes)
        self._touch(known)
        return _json(known)

    def _delete(self, known: Plain, plural: str, request: Request) -> Response:
        if plural == "pods":
            self.operator.end_pod(
                known["metadata"]["name"], int(request.args.get("gracePeriodSeconds", 30))
            )
        elif plural == "rayjobs" and self.operator.is_alive():
            # The operator's finalizer keeps it for as long as it is needed.
            known["metadata"]["deletionTimestamp"] = datetime.now(UTC).isoformat()
        else:
            self.remove(plural, known["metadata"]["name"])
        return _json({"kind": "Status", "status": "Success"})

    def _definition(self) -> Plain:
        if not self.has_operator:
            raise RefusedError(404, 'customresourcedefinitions "rayjobs.ray.io" not found')
        spec: Plain = {
            "submissionMode": {},
            "preRunningDeadlineSeconds": {},
            "rayClusterSpec": {"properties": {"authOptions": {}}},
        }
        for lacking in self.operator_lacks:
            del spec[lacking]
        schema = {"openAPIV3Schema": {"properties": {"spec": {"properties": spec}}}}
        return {"spec": {"versions": [{"name": "v1", "served": True, "schema": schema}]}}


@dataclass
class _Pod:
    """The process of a head's pod."""

    folder: Path
    process: subprocess.Popen[bytes]
    hook: list[str]
    variables: dict[str, str]
    ending: threading.Thread | None = None
    exit_code: int | None = None

    @property
    def output(self) -> Path:
        return self.folder / "output"


class FakeOperator(threading.Thread):
    """Moves RayJobs on."""

    def __init__(self, api: FakeKubernetes) -> None:
        super().__init__(daemon=True)
        self.api = api
        self.is_stuck = False
        """Does nothing."""
        self.lacks_room = False
        """No pod finds a node."""
        self.sees_submitter_first = False
        """Notes that the submitter has failed before it knows why, as the real one often does."""
        self.runs_ray = False
        """Head pods start a real Ray, and submit the job to it as the operator's sidecar does."""
        self.ray_folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
        self.pods: dict[str, _Pod] = {}
        """Of heads, by their name."""
        self._is_over = threading.Event()

    def close(self) -> None:
        self._is_over.set()
        self.join()
        for pod in self.pods.values():
            pod.process.kill()
            pod.process.wait()
        shutil.rmtree(self.ray_folder, ignore_errors=True)

    def run(self) -> None:
        while not self._is_over.wait(_TICK_SECONDS):
            with self.api.lock:
                for job in self.api.of_kind("rayjobs") if not self.is_stuck else []:
                    self._reconcile(job)
                self._collect()

    def lose_head(self, name: str) -> None:
        """Its node fails: nothing of it is heard again."""
        with self.api.lock:
            for pod in self._pods_of(name):
                self.pods[pod["metadata"]["name"]].process.kill()
                self.api.remove("pods", pod["metadata"]["name"])

    def _reconcile(self, job: Plain) -> None:
        name, spec = job["metadata"]["name"], job["spec"]
        status = job.setdefault("status", {})
        if "deletionTimestamp" in job["metadata"]:
            self._end_pods(name)
            self.api.remove("rayjobs", name)
            return
        broken = list(violations(job))
        if broken:
            status |= {
                "jobDeploymentStatus": "ValidationFailed",
                "reason": "ValidationFailed",
                "message": broken[0],
            }
            return
        match status.get("jobDeploymentStatus", ""):
            case "":
                status |= {
                    "jobDeploymentStatus": "Initializing",
                    "jobStatus": "",
                    "rayClusterName": f"{name}-{uuid.uuid4().hex[:5]}",
                }
            case "Initializing" | "Running" if spec.get("suspend"):
                status["jobDeploymentStatus"] = "Suspending"
            case "Initializing":
                self._initialize(job)
            case "Running":
                self._watch(job)
            case "Suspending" | "Retrying" as before:
                # The cluster's object is gone at once; its pods end in their own time.
                self._end_pods(name)
                for field_name in ("message", "reason", "jobStatus", "rayClusterName"):
                    status.pop(field_name, None)
                after = "Suspended" if before == "Suspending" else ""
                status["jobDeploymentStatus"] = after
            case "Suspended" if not spec.get("suspend"):
                status["jobDeploymentStatus"] = ""
            case _:
                pass
        self.api._touch(job)

    def _initialize(self, job: Plain) -> None:
        cluster = job["status"]["rayClusterName"]
        pods = [each for each in self.api.of_kind("pods") if each["metadata"]["cluster"] == cluster]
        if not pods:
            spec = job["spec"]["rayClusterSpec"]
            self._make_pod(job, spec["headGroupSpec"]["template"], "head", f"{cluster}-head")
            for group in spec["workerGroupSpecs"]:
                for number in range(group["replicas"]):
                    self._make_pod(job, group["template"], "worker", f"{cluster}-{number}")
            return
        if self.lacks_room:
            return
        for pod in pods:
            pod["status"] = {"phase": "Running", "conditions": []}
            if pod["metadata"]["labels"]["ray.io/node-type"] == "head":
                self.pods[pod["metadata"]["name"]] = self._start(job, pod)
        job["status"] |= {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}

    def _make_pod(
        self, job: Plain, template: Plain, role: Literal["head", "worker"], name: str
    ) -> None:
        labels = {**template["metadata"]["labels"], "ray.io/node-type": role}
        placed = {"type": "PodScheduled", "status": "True"}
        if self.lacks_room:
            what = "0/2 nodes are available: 2 Insufficient cpu."
            placed |= {"status": "False", "reason": "Unschedulable", "message": what}
        metadata = {"name": name, "labels": labels, "cluster": job["status"]["rayClusterName"]}
        pod = {
            "metadata": metadata,
            "spec": copy.deepcopy(template["spec"]),
            "status": {"phase": "Pending", "conditions": [placed]},
        }
        self.api._stamp(pod)
        self.api.objects["pods", name] = pod

    def _start(self, job: Plain, pod: Plain) -> _Pod:
        """Unpack, and run the entry point, as the pod says."""
        folder = Path(tempfile.mkdtemp(dir=self.api.folder))
        volumes = {each["name"]: folder / each["name"] for each in pod["spec"]["volumes"]}
        for volume in pod["spec"]["volumes"]:
            at = volumes[volume["name"]]
            if "persistentVolumeClaim" in volume:
                volumes[volume["name"]] = at = self.api.folder / "claim"
            at.mkdir(exist_ok=True)
            if "configMap" in volume:
                files = self.api.objects["configmaps", volume["configMap"]["name"]]["binaryData"]
                for name, content in files.items():
                    (at / name).write_bytes(base64.b64decode(content))
        [unpack] = pod["spec"]["initContainers"]
        command = [_located(word, unpack, volumes) for word in unpack["command"]]
        subprocess.run([sys.executable, *command[1:]], check=True)
        [ray] = pod["spec"]["containers"]
        variables = self._variables(ray, volumes)
        entrypoint = _located(job["spec"]["entrypoint"], ray, volumes)
        run_env = yaml.safe_load(job["spec"]["runtimeEnvYAML"])
        if self.runs_ray:
            params = job["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]
            cpus = ray["resources"]["limits"]["cpu"]
            script = _with_ray(entrypoint, run_env, {**params, "num-cpus": cpus})
            variables |= self._ray_variables()
        else:
            script = f"{entrypoint} & wait $!"
            variables |= run_env["env_vars"]
        with (folder / "output").open("wb") as output:
            process = subprocess.Popen(
                [
                    *("unshare", "--pid", "--net", "--fork", "--kill-child", "--mount-proc"),
                    *("sh", "-c", script),
                ],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=variables,
                # Where Python looks for modules first.
                cwd=folder,
            )
        hook = ray["lifecycle"]["preStop"]["exec"]["command"]
        return _Pod(folder, process, [sys.executable, *hook[1:]], variables)

    def _ray_variables(self) -> dict[str, str]:
        """A token, as the operator makes one for each cluster, and a short path for sockets."""
        return {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": uuid.uuid4().hex,
            "RAY_TMPDIR": str(self.ray_folder),
        }

    def _variables(self, container: Plain, volumes: dict[str, Path]) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        variables = {"PATH": path, "HOME": str(self.api.folder)}
        for each in container["env"]:
            if "valueFrom" in each:
                source = each["valueFrom"]["secretKeyRef"]
                data = self.api.objects["secrets", source["name"]]["data"]
                variables[each["name"]] = base64.b64decode(data[source["key"]]).decode()
            else:
                value = expanded(each["value"], variables)
                variables[each["name"]] = _located(value, container, volumes)
        return variables

    def _watch(self, job: Plain) -> None:
        status = job["status"]
        pods = self._pods_of(job["metadata"]["name"])
        if not pods:
            self._fail(job, "AppFailed", "Ray head pod not found.")
            return
        pod = self.pods[pods[-1]["metadata"]["name"]]
        code = pod.process.poll()
        if code is None:
            return
        if pod.exit_code is None:
            self._note_end(pod, code)
        if code == 0:
            status |= {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED", "succeeded": 1}
        elif self.sees_submitter_first:
            what = f"Ray head pod container {SUBMITTER} terminated with exit code 1: Error"
            self._fail(job, "SubmissionFailed", what)
        else:
            status["jobStatus"] = "FAILED"
            self._fail(job, "AppFailed", _ray_message(code))

    def _note_end(self, pod: _Pod, code: int) -> None:
        """As `ray job submit` ends its output."""
        pod.exit_code = code
        if code and not self.runs_ray:
            with pod.output.open("ab") as output:
                output.write(f"Status message: {_ray_message(code)}\n".encode())

    def _fail(self, job: Plain, reason: str, message: str) -> None:
        status = job["status"]
        status["failed"] = status.get("failed", 0) + 1
        status |= {"jobDeploymentStatus": "Failed", "reason": reason, "message": message}
        if status["failed"] < job["spec"]["backoffLimit"] + 1:
            status["jobDeploymentStatus"] = "Retrying"

    def _pods_of(self, name: str) -> list[Plain]:
        return [
            pod
            for pod in self.api.of_kind("pods")
            if pod["metadata"]["labels"].get("distcnn/job") == name
            and pod["metadata"]["labels"]["ray.io/node-type"] == "head"
            and "deletionTimestamp" not in pod["metadata"]
        ]

    def _end_pods(self, job: str) -> None:
        for pod in self.api.of_kind("pods"):
            if pod["metadata"]["labels"].get("distcnn/job") == job:
                self.end_pod(pod["metadata"]["name"], pod["spec"]["terminationGracePeriodSeconds"])

    def end_pod(self, name: str, grace_seconds: int) -> None:
        """As the kubelet does it."""
        pod = self.pods.get(name)
        self.api.objects["pods", name]["metadata"]["deletionTimestamp"] = str(datetime.now(UTC))
        if pod is None:
            self.api.remove("pods", name)
        elif grace_seconds == 0:
            pod.process.kill()
        elif pod.ending is None:
            pod.ending = threading.Thread(target=_end, args=(pod, grace_seconds), daemon=True)
            pod.ending.start()

    def _collect(self) -> None:
        """Forget pods that have ended on request."""
        for name, pod in self.pods.items():
            known = self.api.objects.get(("pods", name))
            is_asked = known is not None and "deletionTimestamp" in known["metadata"]
            if is_asked and pod.process.poll() is not None:
                self.api.remove("pods", name)

    def log(self, pod: Plain, container: str) -> Response:
        running = self.pods.get(pod["metadata"]["name"])
        if container != SUBMITTER or running is None:
            raise RefusedError(400, f'container "{container}" is waiting to start: PodInitializing')
        return Response(running.output.read_bytes(), mimetype="text/plain")


def _with_ray(entrypoint: str, run_env: Plain, params: dict[str, str]) -> str:
    """What the two containers of a head's pod do together; ends when the submitter does."""
    options = " ".join(f"--{name}={value}" for name, value in params.items())
    submit = "ray job submit --address http://127.0.0.1:8265 --runtime-env-json"
    return f"""
        ip link set lo up
        ray start --head --block --node-ip-address=127.0.0.1 --dashboard-host=0.0.0.0 {options} \\
            >>ray.log 2>&1 &
        until ray health-check --address 127.0.0.1:6379 >>ray.log 2>&1; do sleep 0.5; done
        until {sys.executable} -c "import urllib.request as r
r.urlopen('http://127.0.0.1:8265/api/gcs_healthz')" >>ray.log 2>&1; do sleep 0.5; done
        {submit} {shlex.quote(json.dumps(run_env))} -- {entrypoint} &
        wait $!
    """


def _end(pod: _Pod, grace_seconds: int) -> None:
    deadline = time.monotonic() + grace_seconds
    children = psutil.Process(pod.process.pid).children() if pod.process.poll() is None else []
    if children:
        command = ["nsenter", "-t", str(children[0].pid), "--pid", "--mount", *pod.hook]
        subprocess.run(
            command, env=pod.variables, cwd=pod.folder, timeout=grace_seconds, check=False
        )
        for child in children:
            if child.is_running():
                child.send_signal(signal.SIGTERM)
    try:
        pod.process.wait(max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        pod.process.kill()


def _located(text: str, container: Plain, volumes: dict[str, Path]) -> str:
    """Paths in the container as they are on this machine."""
    for mount in container["volumeMounts"]:
        text = text.replace(mount["mountPath"], str(volumes[mount["name"]]))
    return text


def _ray_message(code: int) -> str:
    what = "last available logs (truncated to 20,000 chars):\n..."
    return f"Job entrypoint command failed with exit code {code}, {what}"


def _merge(known: Plain, changes: Plain) -> None:
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(known.get(key), dict):
            _merge(known[key], value)
        else:
            known[key] = value


def _json(answer: Plain, status: int = 200) -> Response:
    return Response(json.dumps(answer), status, mimetype="application/json")


def node(name: str, cpus: str, memory: str, gpus: str = "0", **labels: str) -> Plain:
    allocatable = {"cpu": cpus, "memory": memory, "nvidia.com/gpu": gpus}
    return {"metadata": {"name": name, "labels": labels}, "status": {"allocatable": allocatable}}
