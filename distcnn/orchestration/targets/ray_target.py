"""Jobs on a Ray cluster that runs already, through its dashboard's Jobs API."""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import requests
from ray.dashboard.modules.dashboard_sdk import AuthenticationError, SubmissionClient
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from distcnn.cluster.handle import Handle
from distcnn.cluster.job import Job
from distcnn.cluster.parcel import Parcel
from distcnn.cluster.registry import Remembered
from distcnn.cluster.request import Node, shortfall
from distcnn.cluster.spec import RaySpec, host_of
from distcnn.cluster.status import State, Status
from distcnn.cluster.ticket import TICKET
from distcnn.cluster.workload import workload_of
from distcnn.config_file import plain_to_yaml
from distcnn.errors import UserError
from distcnn.findings import Finding
from distcnn.orchestration.targets import OutOfReachError, ends_within, refuse_another_config

_ANSWER_SECONDS = 30.0
_DIGEST = "distcnn-digest"
# Beyond its grace, for Ray to notice that a driver has ended.
_NOTICED_SECONDS = 30.0
# What Ray's client says of an answer that may be another one soon.
_BUSY = re.compile(r"status code 5\d\d")
_ENTRYPOINT = f"python -m distcnn.orchestration.driver {TICKET}"
_STATES = {
    JobStatus.PENDING: State.STARTING,
    JobStatus.RUNNING: State.RUNNING,
    JobStatus.STOPPED: State.STOPPED,
    JobStatus.SUCCEEDED: State.SUCCEEDED,
    JobStatus.FAILED: State.FAILED,
}


def render(job: Job, parcel: Parcel) -> str:
    """What the Jobs API would be sent, and the files that travel."""
    sent = {
        "address": _address(job.spec.ray),
        "submission_id": job.id,
        "entrypoint": _ENTRYPOINT,
        "runtime_env": {"working_dir": sorted(parcel.files), "env_vars": _variables(job)},
    }
    return plain_to_yaml(sent) + job.documents_text


def check(job: Job, parcel: Parcel) -> Iterator[Finding]:
    """Whether the cluster answers, takes the token, and has the same Ray."""
    if job.spec.secrets:
        named = ", ".join(job.spec.secrets)
        remedy = "give them to the cluster's nodes when those are started, and leave them out here"
        what = f"{named} would be shown to everybody who sees the cluster's jobs; {remedy}"
        yield Finding("fail", "secrets", what)
    try:
        client = _client(job.spec.ray)
        version = client.ray_version()
    except UserError as error:
        yield Finding("fail", "cluster", str(error))
        return
    yield Finding("ok", "cluster", f"{client.get_address()} answers, and takes the token")
    if version == ray.__version__:
        yield Finding("ok", "ray", f"{version} here and there")
    else:
        what = f"{ray.__version__} here, {version} there; install the same"
        yield Finding("fail", "ray", what)
    yield from _check_room(job, client)


def _check_room(job: Job, client: _Client) -> Iterator[Finding]:
    request, nodes = workload_of(job).request, client.nodes()
    lacking = shortfall(request, nodes)
    if lacking is None:
        yield Finding("ok", "room", f"{request} fit on its {len(nodes)} node(s)")
    else:
        yield Finding("note", "room", f"unless an autoscaler adds nodes, {lacking}")


def submit(job: Job, parcel: Parcel) -> Handle:
    """Send it, unless it is there.

    Raises:
        UserError: the cluster does not take it.
    """
    parcel.check_size()
    client = _client(job.spec.ray)
    handle = Handle("ray", (client.get_address().partition("://")[2],), job.id)
    with _explained(client.get_address()):
        known = client.find(job.id)
        if known is not None and not known.status.is_terminal():
            refuse_another_config(job, (known.metadata or {}).get(_DIGEST), handle)
            return handle
        if known is not None:
            client.delete_job(job.id)
        with tempfile.TemporaryDirectory(prefix="distcnn-parcel-") as folder:
            parcel.unpack(Path(folder))
            client.submit_job(
                entrypoint=_ENTRYPOINT,
                submission_id=job.id,
                runtime_env={"working_dir": folder, "env_vars": _variables(job)},
                metadata={_DIGEST: job.digest},
            )
    return handle


def attach(remembered: Remembered) -> RayJob:
    """Take hold of a job."""
    [host] = remembered.handle.places
    spec = remembered.spec.ray
    if host_of(spec) != host:
        spec = spec.model_copy(update={"address": host})
    return RayJob(spec, remembered.handle.id)


class RayJob:
    """A job on a Ray cluster, by its submission id."""

    def __init__(self, spec: RaySpec, job_id: str) -> None:
        self._spec = spec
        self._id = job_id
        self._connected: _Client | None = None

    def status(self) -> Status:
        """How it is."""
        with self._cluster() as client:
            known = client.find(self._id)
        if known is None:
            what = "its cluster does not know it: the head was started anew, or it was deleted"
            return Status(State.LOST, detail=what)
        return _status(known)

    def log(self, offset: int) -> bytes:
        """What its driver has printed, from so many bytes on."""
        with self._cluster() as client:
            if client.find(self._id) is None:
                return b""
            return client.get_job_logs(self._id).encode()[offset:]

    def stop(self, grace_seconds: int) -> None:
        """Have it save and end; Ray kills it after the grace that it was submitted with."""
        with self._cluster() as client:
            if client.find(self._id) is not None:
                client.stop_job(self._id)
        if not ends_within(self, grace_seconds + _NOTICED_SECONDS):
            raise UserError(f"{self._id} has not ended; look at the cluster's dashboard")

    @contextmanager
    def _cluster(self) -> Generator[_Client]:
        self._connected = self._connected or _client(self._spec)
        with _explained(self._connected.get_address()):
            yield self._connected


class _Client(JobSubmissionClient):
    """Ray's own client, which would wait for ever for an answer.

    And it would prefer the address of `RAY_API_SERVER_ADDRESS` to the one that it is given.
    """

    def __init__(self, address: str, headers: dict[str, str]) -> None:
        self._client_ray_version = ray.__version__
        SubmissionClient.__init__(self, address=address, headers=headers)

    def _do_request(self, *arguments: Any, **options: Any) -> requests.Response:
        return super()._do_request(*arguments, **{"timeout": _ANSWER_SECONDS, **options})

    def find(self, job_id: str) -> JobDetails | None:
        """The job of that submission id; None where there is none."""
        try:
            return self.get_job_info(job_id)
        except RuntimeError as error:
            if "status code 404" in str(error):
                return None
            raise

    def ray_version(self) -> str:
        """Of the cluster."""
        return self._asked("/api/version")["ray_version"]

    def nodes(self) -> list[Node]:
        """Those that are alive, by their total resources."""
        answer = self._asked("/api/v0/nodes?detail=True")
        found: list[dict[str, Any]] = answer["data"]["result"]["result"]
        return [
            Node(
                id=node["node_id"],
                host=node["node_name"],
                resources=node["resources_total"],
                labels=node.get("labels") or {},
            )
            for node in found
            if node["state"] == "ALIVE"
        ]

    def _asked(self, question: str) -> dict[str, Any]:
        answer = self._do_request("GET", question)
        answer.raise_for_status()
        return answer.json()


def _client(spec: RaySpec) -> _Client:
    """Connect.

    Raises:
        OutOfReachError: nothing answers there.
        UserError: it does not take the token, or there is none to be read.
    """
    headers: dict[str, str] = {}
    if spec.token_file is not None:
        try:
            token = spec.token_file.expanduser().read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"cannot read a token from {spec.token_file}: {error}; set cluster.ray.token_file"
            ) from error
        headers = {"Authorization": f"Bearer {token}"}
    address = _address(spec)
    # It tells each step of an upload.
    logging.getLogger("ray.dashboard.modules.dashboard_sdk").setLevel(logging.WARNING)
    with _explained(address):
        client = _Client(address, headers)
        client.ray_version()
        return client


def _address(spec: RaySpec) -> str:
    if not spec.address:
        raise UserError(
            "which Ray cluster? Give its dashboard's address: --address http://host:8265 (or"
            " cluster.ray.address, or RAY_API_SERVER_ADDRESS); from outside of its network,"
            " through a tunnel: ssh -L 8265:127.0.0.1:8265 head"
        )
    address = spec.address.rstrip("/")
    return address if "://" in address else f"http://{address}"


@contextmanager
def _explained(address: str) -> Generator[None]:
    try:
        yield
    except AuthenticationError as error:
        raise UserError(
            f"{address} does not take the token (or was given none); set cluster.ray.token_file to"
            " the file with that cluster's token"
        ) from error
    except (ConnectionError, requests.RequestException) as error:
        raise OutOfReachError(
            f"{address} does not answer ({type(error).__name__}): is it a Ray dashboard, and is the"
            " tunnel to it open?"
        ) from error
    except RuntimeError as error:
        kind = OutOfReachError if _BUSY.search(str(error)) else UserError
        raise kind(f"{address} refused: {error}") from error


def _variables(job: Job) -> dict[str, str]:
    return {
        **job.spec.environment,
        "PYTHONUNBUFFERED": "1",
        # Ray kills after 3 seconds by default.
        "RAY_JOB_STOP_WAIT_TIME_S": str(job.spec.grace_seconds),
    }


def _status(known: JobDetails) -> Status:
    # While all is well, Ray says in a sentence what the state says.
    is_well = known.status in (JobStatus.RUNNING, JobStatus.SUCCEEDED)
    detail = "" if is_well else (known.message or "").partition("\n")[0]
    if known.status is JobStatus.FAILED and known.driver_exit_code is not None:
        return Status.ended(known.driver_exit_code, detail)
    return Status(_STATES[known.status], known.driver_exit_code, detail)
