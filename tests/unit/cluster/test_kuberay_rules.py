import copy

import pytest

from distcnn.cluster import kuberay
from distcnn.cluster.job import job_of_run
from distcnn.cluster.kuberay_rules import violations
from distcnn.cluster.spec import ClusterSpec
from distcnn.config import RunConfig
from distcnn.location import location
from tests import kuberay_schemas

_SPEC = ClusterSpec(target="kuberay", image="distcnn:1", nodes=3)
_JOB = kuberay.render_rayjob(
    job_of_run(RunConfig(), _SPEC, location("s3://bucket/runs/fmnist-1"), None)
)
_CLUSTER = kuberay.render_raycluster(_SPEC, "shared")
_REMOVED = object()


def changed(manifest, changes):
    """A copy with other values at dotted paths."""
    manifest = copy.deepcopy(manifest)
    for path, value in changes.items():
        *places, last = [int(part) if part.isdigit() else part for part in path.split("/")]
        at = manifest
        for place in places:
            at = at[place]
        if value is _REMOVED:
            del at[last]
        else:
            at[last] = value
    return manifest


HEAD = "spec/rayClusterSpec/headGroupSpec"
HEAD_POD = f"{HEAD}/template/spec"
WORKERS = "spec/rayClusterSpec/workerGroupSpecs/0"

BROKEN = {
    "too long a name": ({"metadata/name": "a" * 48}, "47 at most"),
    "a name of no DNS label": ({"metadata/name": "1-Run"}, "no DNS-1035 label"),
    "a name that ends with -": ({"metadata/name": "run-"}, "no DNS-1035 label"),
    "another manager": ({"spec/managedBy": "me"}, "spec.managedBy"),
    "an unknown mode": ({"spec/submissionMode": "Sidecar"}, "spec.submissionMode: 'Sidecar'"),
    "no entry point": ({"spec/entrypoint": " "}, "spec.entrypoint: missing"),
    "a ttl without shutdown": (
        {"spec/shutdownAfterJobFinishes": False},
        "set shutdownAfterJobFinishes: true",
    ),
    "a negative ttl": ({"spec/ttlSecondsAfterFinished": -1}, "cannot be negative"),
    "suspended without shutdown": (
        {
            "spec/shutdownAfterJobFinishes": False,
            "spec/ttlSecondsAfterFinished": 0,
            "spec/suspend": True,
        },
        "spec.suspend: set shutdownAfterJobFinishes",
    ),
    "two ways to delete": (
        {"spec/deletionStrategy": {"deletionRules": [{"policy": "DeleteSelf", "condition": {}}]}},
        "spec.deletionStrategy: excludes",
    ),
    "no cluster": ({"spec/rayClusterSpec": _REMOVED}, "spec.rayClusterSpec: missing"),
    "a selector of nothing": (
        {"spec/clusterSelector": {"a": "b"}, "spec/submissionMode": "K8sJobMode"},
        "ray.io/cluster",
    ),
    "a selector in SidecarMode": (
        {"spec/clusterSelector": {"ray.io/cluster": "c"}},
        "spec.clusterSelector: not in SidecarMode",
    ),
    "a suspended selector": (
        {
            "spec/clusterSelector": {"ray.io/cluster": "c"},
            "spec/submissionMode": "K8sJobMode",
            "spec/suspend": True,
        },
        "cannot be suspended",
    ),
    "YAML that is none": ({"spec/runtimeEnvYAML": "a: [b"}, "spec.runtimeEnvYAML: no YAML"),
    "YAML of a list": ({"spec/runtimeEnvYAML": "- a"}, "has to hold a mapping"),
    "no time": ({"spec/activeDeadlineSeconds": 0}, "spec.activeDeadlineSeconds"),
    "negative retries": ({"spec/backoffLimit": -1}, "spec.backoffLimit: cannot be negative"),
    "retries of an interactive job": (
        {"spec/submissionMode": "InteractiveMode"},
        "no job is tried again in InteractiveMode",
    ),
    "a submitter's config": ({"spec/submitterConfig": {}}, "spec.submitterConfig: not in Sidecar"),
    "a head that starts again": (
        {f"{HEAD_POD}/restartPolicy": "Always"},
        "restartPolicy has to be Never in SidecarMode",
    ),
    "no container": ({f"{HEAD_POD}/containers": []}, "has no container"),
    "no image": ({f"{HEAD_POD}/containers/0/image": _REMOVED}, "has no image"),
    "resources twice": (
        {f"{HEAD}/resources": {"cpu": "1"}, f"{HEAD}/rayStartParams": {"num-cpus": "1"}},
        "choose one",
    ),
    "labels as parameters": ({f"{HEAD}/rayStartParams": {"labels": "a=b"}}, "group's own labels"),
    "a label of no value": ({f"{HEAD}/labels": {"zone": "a b"}}, "is no value of a label"),
    "min above max": ({f"{WORKERS}/maxReplicas": 1}, "2 is more than maxReplicas, 1"),
    "replicas outside": ({f"{WORKERS}/replicas": 1}, "1 is not within 2 and 2"),
    "no hosts": ({f"{WORKERS}/numOfHosts": 0}, "numOfHosts: has to be positive"),
    "Redis by the back door": (
        {f"{HEAD_POD}/containers/0/env": [{"name": "RAY_REDIS_ADDRESS", "value": "redis:6379"}]},
        "use gcsFaultToleranceOptions",
    ),
    "an autoscaler that is off": (
        {f"{HEAD_POD}/containers/0/env": [{"name": "RAY_enable_autoscaler_v2", "value": "1"}]},
        "needs enableInTreeAutoscaling",
    ),
    "tokens without a version": ({"spec/rayClusterSpec/rayVersion": _REMOVED}, "2.52.0 or newer"),
    "tokens of an old Ray": ({"spec/rayClusterSpec/rayVersion": "2.9.3"}, "2.52.0 or newer"),
}
BROKEN_CLUSTERS = {
    "too long a name": ({"metadata/name": "a" * 64}, "63 at most"),
    "workers that start again": (
        {"spec/workerGroupSpecs/0/template/spec/restartPolicy": "Always"},
        "restartPolicy of workers has to be Never with autoscaler v2",
    ),
    "a suspended group": ({"spec/workerGroupSpecs/0/suspend": True}, "no group can be suspended"),
    "two of one name": (
        {"spec/workerGroupSpecs": [_CLUSTER["spec"]["workerGroupSpecs"][0]] * 2},
        "two of one groupName",
    ),
}
# What the schema refuses as well.
_BROKEN_SCHEMA = {"two ways to delete"}


@pytest.mark.parametrize("what", BROKEN)
def test_a_job_that_the_operator_would_refuse_is_refused_with_a_remedy(what):
    changes, expected = BROKEN[what]
    found = list(violations(changed(_JOB, changes)))
    assert len(found) == 1, found
    assert expected in found[0]


@pytest.mark.skipif(not kuberay_schemas.are_there(), reason="no KubeRay schemas")
@pytest.mark.parametrize("what", sorted(set(BROKEN) - _BROKEN_SCHEMA))
def test_the_schema_would_let_it_pass(what):
    assert kuberay_schemas.errors(changed(_JOB, BROKEN[what][0])) == []


@pytest.mark.parametrize("what", BROKEN_CLUSTERS)
def test_a_cluster_that_the_operator_would_refuse_is_refused_with_a_remedy(what):
    changes, expected = BROKEN_CLUSTERS[what]
    found = list(violations(changed(_CLUSTER, changes)))
    assert len(found) == 1, found
    assert expected in found[0]


def test_what_is_rendered_breaks_no_rule():
    assert list(violations(_JOB)) == list(violations(_CLUSTER)) == []
