"""The API of Kubernetes as this target needs it: plain objects, and errors with a remedy."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import urllib3
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException

from distcnn.cluster.kuberay import API_GROUP, API_VERSION
from distcnn.errors import UserError
from distcnn.orchestration.targets import OutOfReachError

Plain = dict[str, Any]

# To connect, and for the answer.
_TIMEOUT_SECONDS = (5.0, 30.0)
_RAYJOBS = (API_GROUP, API_VERSION)
# As the client's methods name them.
_KINDS = {
    "ConfigMap": "config_map",
    "Secret": "secret",
    "Pod": "pod",
    "PersistentVolumeClaim": "persistent_volume_claim",
    "ServiceAccount": "service_account",
}


class Kubernetes:
    """One namespace of a cluster, as a context of the kubeconfig reaches it.

    Attributes:
        context: its name.
        namespace: all objects are in.
    """

    def __init__(self, context: str | None, namespace: str) -> None:
        """Read the kubeconfig (`KUBECONFIG`, `~/.kube/config`); nothing is sent yet.

        Raises:
            UserError: there is none, or it has no such context.
        """
        settings = client.Configuration()
        # A failure is told at once: whoever asks knows how long to go on asking.
        settings.retries = 0
        try:
            # The client has looked for it when it was imported.
            file = os.environ.get("KUBECONFIG")
            _, active = config.list_kube_config_contexts(file)
            self.context = context or cast(str, active["name"])
            config.load_kube_config(file, self.context, client_configuration=settings)
        except ConfigException as error:
            named = f"context {context!r}" if context else "a current context"
            raise UserError(
                f"no kubeconfig with {named}: {error}; see `kubectl config get-contexts`, and set"
                " cluster.kuberay.context or KUBECONFIG"
            ) from error
        self.namespace = namespace
        api = client.ApiClient(settings)
        self._core = client.CoreV1Api(api)
        self._custom = client.CustomObjectsApi(api)
        self._extensions = client.ApiextensionsV1Api(api)
        self._authorization = client.AuthorizationV1Api(api)
        self._version = client.VersionApi(api)

    def version(self) -> str:
        """Kubernetes' own."""
        return self._answer(self._version.get_code)["gitVersion"]

    def find(self, kind: str, name: str) -> Plain | None:
        """The object of that name in the namespace; None where there is none."""
        return self._found(self._method("read", kind), *self._place(kind, name))

    def find_namespace(self) -> Plain | None:
        """The namespace itself."""
        return self._found(self._core.read_namespace, self.namespace)

    def find_definition(self, name: str) -> Plain | None:
        """A custom resource's definition."""
        return self._found(self._extensions.read_custom_resource_definition, name)

    def nodes(self) -> list[Plain]:
        """All machines."""
        return self._answer(self._core.list_node)["items"]

    def pods(self, labels: Mapping[str, str]) -> list[Plain]:
        """Those with all these labels, the oldest first."""
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        answer = self._answer(
            self._core.list_namespaced_pod, self.namespace, label_selector=selector
        )
        return sorted(answer["items"], key=lambda pod: pod["metadata"]["creationTimestamp"])

    def create(self, manifest: Plain, *, dry_run: bool = False) -> Plain | None:
        """Send an object; a dry run is checked by the server as a whole, and kept nowhere.

        Returns:
            The object as it is kept; None where there is one of that name already.

        Raises:
            UserError: it is refused, also for fields that the server does not know.
        """
        options = {"dry_run": "All"} if dry_run else {}
        kind = manifest["kind"]
        return self._unless(
            409,
            self._method("create", kind),
            *self._place(kind),
            body=manifest,
            field_validation="Strict",
            **options,
        )

    def patch(self, kind: str, name: str, changes: Plain) -> None:
        """Lay changes over an object."""
        self._answer(self._method("patch", kind), *self._place(kind, name), body=changes)

    def delete(self, kind: str, name: str, grace_seconds: int | None = None) -> None:
        """Have an object, and all that it owns, deleted; nothing where there is none."""
        options = {} if grace_seconds is None else {"grace_period_seconds": grace_seconds}
        self._found(
            self._method("delete", kind),
            *self._place(kind, name),
            propagation_policy="Background",
            **options,
        )

    def log(self, pod: str, container: str) -> bytes | None:
        """What a container has printed; None where it has not begun, or is gone."""
        with _explained():
            try:
                answer = self._core.read_namespaced_pod_log(
                    pod,
                    self.namespace,
                    container=container,
                    _preload_content=False,
                    _request_timeout=_TIMEOUT_SECONDS,
                )
            except ApiException as error:
                if error.status in (400, 404):
                    return None
                raise
            return cast(urllib3.BaseHTTPResponse, answer).data

    def may(self, verb: str, group: str, resource: str, subresource: str = "") -> bool:
        """Whether whom the context stands for is allowed that, in the namespace."""
        asked = {
            "namespace": self.namespace,
            "verb": verb,
            "group": group,
            "resource": resource,
            "subresource": subresource,
        }
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": asked},
        }
        create = self._authorization.create_self_subject_access_review
        return self._answer(create, body=review)["status"]["allowed"]

    def _method(self, verb: str, kind: str) -> Callable[..., Any]:
        if kind == "RayJob":
            verb = "get" if verb == "read" else verb
            return getattr(self._custom, f"{verb}_namespaced_custom_object")
        return getattr(self._core, f"{verb}_namespaced_{_KINDS[kind]}")

    def _place(self, kind: str, *name: str) -> tuple[str, ...]:
        if kind == "RayJob":
            return (*_RAYJOBS, self.namespace, "rayjobs", *name)
        return (*name, self.namespace)

    def _found(self, method: Callable[..., Any], *place: str, **options: Any) -> Plain | None:
        return self._unless(404, method, *place, **options)

    def _unless(
        self, status: int, method: Callable[..., Any], *place: str, **options: Any
    ) -> Plain | None:
        with _explained():
            try:
                return _sent(method, *place, **options)
            except ApiException as error:
                if error.status == status:
                    return None
                raise

    def _answer(self, method: Callable[..., Any], *place: str, **options: Any) -> Plain:
        with _explained():
            return _sent(method, *place, **options)


def _sent(method: Callable[..., Any], *place: str, **options: Any) -> Plain:
    # Undecoded: the client's own classes do not take all that a server may say.
    answer = method(*place, **options, _preload_content=False, _request_timeout=_TIMEOUT_SECONDS)
    return json.loads(answer.data)


@contextmanager
def _explained() -> Generator[None]:
    try:
        yield
    except ApiException as error:
        raise _explanation(error) from error
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise OutOfReachError(
            f"Kubernetes does not answer ({type(error).__name__}); is the way to it open?"
        ) from error


def _explanation(error: ApiException) -> UserError:
    status, said = error.status or 0, _said(error)
    if status in (0, 429) or status >= 500:
        return OutOfReachError(f"Kubernetes does not answer as it should ({status}): {said}")
    if status == 401:
        return UserError(
            f"Kubernetes does not take the kubeconfig's credentials ({said}); log in again"
        )
    if status == 403:
        return UserError(f"not allowed: {said}; ask who runs the cluster for a role that may")
    return UserError(f"Kubernetes refused: {said}")


def _said(error: ApiException) -> str:
    try:
        return json.loads(error.body or "")["message"]
    except (ValueError, KeyError, TypeError):  # What stands in between may answer in HTML.
        return str(error.reason)
