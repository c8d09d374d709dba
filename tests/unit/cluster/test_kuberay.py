import base64
import copy
import io
import json
import os
import random
import shutil
import subprocess
import zipfile
from dataclasses import replace

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from distcnn.cluster import kuberay
from distcnn.cluster.job import Job, job_of_run
from distcnn.cluster.kuberay_rules import violations
from distcnn.cluster.parcel import Parcel, ParcelError, parcel_of
from distcnn.cluster.spec import ClusterSpec
from distcnn.config import RunConfig
from distcnn.errors import UsageError
from distcnn.location import location
from tests import kuberay_schemas
from tests.fake_kubernetes import expanded

needs_schemas = pytest.mark.skipif(not kuberay_schemas.are_there(), reason="no KubeRay schemas")
PARCEL = Parcel({"job.json": b"{}", "distcnn/__init__.py": b""})


def spec_with(**values) -> ClusterSpec:
    return ClusterSpec(
        target="kuberay", image="registry.example:5000/team/distcnn@sha256:0", **values
    )


def job_with(run_dir="s3://bucket/runs/fmnist-1", **values) -> Job:
    return job_of_run(RunConfig(), spec_with(**values), location(run_dir), None)


def rayjob(**values):
    return kuberay.render_job(job_with(**values), PARCEL)[-1]


def pods(manifest):
    spec = manifest["spec"].get("rayClusterSpec", manifest["spec"])
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


SPECS = [
    {},
    {"nodes": 5, "cpus_per_node": 32, "memory_gib_per_node": 200.5},
    {"nodes": 2, "gpus_per_node": 8, "accelerator_type": "H100", "spot": True},
    {"spot": True, "max_retries": 0, "grace_seconds": 3600, "max_seconds": 7200},
    {"environment": {"A": "b"}, "secrets": ("KEY", "TOKEN")},
    {
        "nodes": 3,
        "kuberay": {
            "namespace": "team",
            "volume_claim": "runs",
            "service_account": "trainer",
            "image_pull_secret": "registry",
        },
    },
]


@needs_schemas
@pytest.mark.parametrize("values", SPECS)
def test_whatever_is_rendered_is_valid_and_no_rule_is_broken(values):
    for manifest in (rayjob(**values), kuberay.render_raycluster(spec_with(**values), "shared")):
        assert kuberay_schemas.errors(manifest) == []
        assert list(violations(manifest)) == []


@needs_schemas
def test_the_schemas_refuse_what_is_misspelt():
    manifest = rayjob()
    manifest["spec"]["shutdownAfterJobFinish"] = True
    manifest["spec"]["backoffLimit"] = "3"
    assert len(kuberay_schemas.errors(manifest)) == 2


TEXTS = st.text(
    st.characters(exclude_characters="\0", exclude_categories=("Cs",))
) | st.sampled_from(
    [
        *"yYnN~",
        "on",
        "1e3",
        "0x1f",
        "1:30",
        "$(PATH)",
        "$$(A)",
        "$",
        "a # b",
        "a: b",
        "- x",
        "'\"\n",
    ]
)


@given(st.dictionaries(st.from_regex(r"[A-Z][A-Z0-9_]{0,8}_X", fullmatch=True), TEXTS, max_size=4))
def test_variables_arrive_as_they_were_written(variables):
    text = kuberay.to_yaml(kuberay.render_job(job_with(environment=variables), PARCEL))
    manifest = list(yaml.safe_load_all(text))[-1]
    for pod in pods(manifest):
        env = {each["name"]: each.get("value") for each in pod["containers"][0]["env"]}
        seen = {name: expanded(env[name], {"PATH": "/bin", "A": "other"}) for name in variables}
        assert seen == variables


@given(st.text(st.characters(exclude_characters="\0,:", exclude_categories=("Cs",)), max_size=30))
def test_no_path_reaches_a_command(name):
    run_dir = location(f"/shared/{name}")
    job = replace(job_with(), run_dir=run_dir)
    text = kuberay.to_yaml(kuberay.render_job(job, PARCEL))
    manifest = list(yaml.safe_load_all(text))[-1]
    assert manifest["spec"]["entrypoint"] == (
        "python -m distcnn.orchestration.driver /distcnn/job/job.json"
    )


@given(TEXTS.map(lambda text: text.replace(":", "")))
def test_a_mount_path_arrives_as_it_was_written(name):
    kube = {"volume_claim": "runs", "mount_path": f"/mnt/{name}"}
    manifest = kuberay.render_raycluster(spec_with(kuberay=kube), "shared")
    [again] = yaml.safe_load_all(kuberay.to_yaml([manifest]))
    mounts = pods(again)[0]["containers"][0]["volumeMounts"]
    assert mounts[-1]["mountPath"] == str(spec_with(kuberay=kube).kuberay.mount_path)


def test_text_that_kubectl_reads_has_no_references():
    text = kuberay.to_yaml(kuberay.render_job(job_with(nodes=3, secrets=("KEY",)), PARCEL))
    assert "&id" not in text
    kinds = [manifest["kind"] for manifest in yaml.safe_load_all(text)]
    assert kinds == ["ConfigMap", "Secret", "RayJob"]


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl on this machine")
def test_kubectl_reads_what_was_rendered(tmp_path):
    texts = [
        "on",
        "1e3",
        "0x1f",
        "1:30",
        "1_0",
        "$(PATH)",
        "a # b",
        "a: b",
        "'\"\n",
        "~",
        "=",
        "<<",
    ]
    texts += [
        "2001-01-01",
        "y",
        "N",
        "0o7",
        "\t",
        " x",
        "\x07",
        "\x85",
        "\u2028",
        "\ufeff",
        "\U0001f600",
        "x " * 99,
    ]
    variables = {f"V{number}": text for number, text in enumerate(texts)}
    job = job_with(nodes=2, environment=variables, secrets=("KEY",))
    for manifest in kuberay.render_job(job, PARCEL):
        # The one command that needs no server.
        command = ["kubectl", "label", "--local", "-f", "-", "seen=yes", "-o", "json"]
        text = kuberay.to_yaml([manifest])
        environment = {**os.environ, "HOME": str(tmp_path)}
        done = subprocess.run(command, input=text.encode(), capture_output=True, env=environment)
        assert done.returncode == 0, done.stderr
        read = json.loads(done.stdout)
        assert read["metadata"]["labels"].pop("seen") == "yes"
        assert read == manifest


def test_secrets_are_named_and_their_values_added_only_when_sent(monkeypatch):
    monkeypatch.setenv("KEY", "do not show")
    job = job_with(secrets=("KEY",))
    _, secret, manifest = kuberay.render_job(job, PARCEL)
    assert "do not show" not in kuberay.to_yaml([secret, manifest])
    sent = kuberay.with_values(secret, {"KEY": "do not show", "OTHER": "x"})
    assert sent["stringData"] == {"KEY": "do not show"}
    for pod in pods(manifest):
        [variable] = [each for each in pod["containers"][0]["env"] if each["name"] == "KEY"]
        reference = {"name": secret["metadata"]["name"], "key": "KEY"}
        assert variable["valueFrom"]["secretKeyRef"] == reference
    with pytest.raises(UsageError, match=r"KEY: named in cluster\.secrets, and not set here"):
        kuberay.with_values(secret, {})


def test_a_parcel_travels_whole():
    job = job_with()
    parcel = parcel_of(job)
    config_map = kuberay.render_job(job, parcel)[0]
    [content] = config_map["binaryData"].values()
    with zipfile.ZipFile(io.BytesIO(base64.b64decode(content))) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == dict(parcel.files)


def test_a_parcel_that_no_config_map_holds_is_refused_with_its_largest_files():
    content = random.Random(0).randbytes(2**20)
    with pytest.raises(ParcelError, match=r"the largest files are distcnn/data\.bin \(1\.0 MiB\)"):
        kuberay.render_job(job_with(), Parcel({"distcnn/data.bin": content, "a": b"a"}))


def test_a_job_shuts_down_and_has_an_end():
    spec = rayjob(max_seconds=3600, grace_seconds=100, max_retries=2, nodes=4)["spec"]
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["submissionMode"] == "SidecarMode"
    assert spec["backoffLimit"] == 2
    only_preflight = replace(job_with(), only_preflight=True)
    assert kuberay.render_rayjob(only_preflight)["spec"]["backoffLimit"] == 0
    assert 0 < spec["ttlSecondsAfterFinished"] <= 60
    # Waiting for machines does not take the job's own time.
    assert spec["activeDeadlineSeconds"] >= 3600 + 100 + spec["preRunningDeadlineSeconds"]
    env = yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"]
    assert env == {"RAY_JOB_STOP_WAIT_TIME_S": "100"}
    [group] = spec["rayClusterSpec"]["workerGroupSpecs"]
    assert (group["replicas"], group["minReplicas"], group["maxReplicas"]) == (3, 3, 3)
    assert rayjob()["spec"]["rayClusterSpec"]["workerGroupSpecs"] == []


def test_pods_are_confined_and_save_before_they_end():
    manifest = rayjob(nodes=2, gpus_per_node=2, grace_seconds=90)
    assert manifest["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    assert manifest["spec"]["rayClusterSpec"]["headGroupSpec"]["serviceType"] == "ClusterIP"
    for role, pod in zip(("head", "worker"), pods(manifest), strict=True):
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["terminationGracePeriodSeconds"] > 90
        for container in (*pod["initContainers"], *pod["containers"]):
            confined = container["securityContext"]
            assert confined["allowPrivilegeEscalation"] is False
            assert confined["capabilities"] == {"drop": ["ALL"]}
            resources = container["resources"]
            assert resources["requests"] == resources["limits"]
        [ray] = pod["containers"]
        assert ray["resources"]["limits"] == {"cpu": "2", "memory": "4096Mi", "nvidia.com/gpu": "2"}
        command = ray["lifecycle"]["preStop"]["exec"]["command"]
        assert command[1:] == ["-m", "distcnn.orchestration.save_before_end", role, "90"]
        [code] = [each for each in ray["volumeMounts"] if each["mountPath"] == "/distcnn/job"]
        assert code["readOnly"] is True


def test_a_service_account_has_its_token():
    [pod] = pods(rayjob(kuberay={"service_account": "trainer"}))
    assert pod["serviceAccountName"] == "trainer"
    assert pod["automountServiceAccountToken"] is True


def test_spot_nodes_are_those_of_any_provider_and_of_the_kind_that_is_asked_for():
    [pod] = pods(rayjob(spot=True, gpus_per_node=1, accelerator_type="A100"))
    required = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    terms = [term["matchExpressions"] for term in required["nodeSelectorTerms"]]
    assert {term[0]["key"] for term in terms} == set(kuberay.SPOT_LABELS)
    assert all(term[1]["values"] == ["A100"] for term in terms)
    assert "nvidia.com/gpu" in {each["key"] for each in pod["tolerations"]}
    [anywhere] = pods(rayjob())
    assert "affinity" not in anywhere and "tolerations" not in anywhere


def test_a_cluster_that_stays_gives_idle_workers_back():
    manifest = kuberay.render_raycluster(spec_with(nodes=4, idle_seconds=120), "shared")
    spec = manifest["spec"]
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["autoscalerOptions"] == {"version": "v2", "idleTimeoutSeconds": 120}
    [group] = spec["workerGroupSpecs"]
    assert (group["minReplicas"], group["maxReplicas"]) == (0, 3)
    # The autoscaler, in the head's pod, needs the token of the account that the operator makes.
    assert "automountServiceAccountToken" not in pods(manifest)[0]
    assert all("lifecycle" not in pod["containers"][0] for pod in pods(manifest))


def test_every_submission_has_files_of_its_own():
    job = job_with()
    again = replace(job, submission="another")
    names = [kuberay.render_job(each, PARCEL)[0]["metadata"]["name"] for each in (job, again)]
    assert len(set(names)) == 2
    assert kuberay.render_rayjob(job)["metadata"] == kuberay.render_rayjob(again)["metadata"]


def test_rendering_is_pure():
    job = job_with(nodes=2, secrets=("KEY",))
    assert kuberay.render_job(job, PARCEL) == kuberay.render_job(copy.deepcopy(job), PARCEL)
