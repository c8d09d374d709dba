"""The target kuberay on a fake Kubernetes (see tests/fake_kubernetes.py), with real processes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest

import distcnn
from distcnn.cluster.handle import Handle
from distcnn.cluster.job import Job, job_of_run
from distcnn.cluster.parcel import Parcel
from distcnn.cluster.registry import Remembered
from distcnn.cluster.spec import ClusterSpec
from distcnn.cluster.status import State, Status
from distcnn.config import RunConfig
from distcnn.errors import UserError
from distcnn.findings import Finding
from distcnn.location import location
from distcnn.orchestration.targets import OutOfReachError, kuberay_target
from tests.fake_kubernetes import (
    CONTEXT,
    NAMESPACE,
    FakeKubernetes,
    can_run_pods,
    node,
)

pytestmark = pytest.mark.skipif(not can_run_pods(), reason="this account may make no namespaces")

T = TypeVar("T")
_TIMEOUT_SECONDS = 60
# Stands for a training: it does what the test has written for each attempt, and keeps count in its
# folder, as a run does.
_DRIVER = """
import json, os, signal, sys, time
from pathlib import Path
from typing import TypeVar

def end(number, frame):
    print("asked to end, saving", flush=True)
    time.sleep(float(os.environ.get("SAVING_SECONDS", "0")))
    (folder / "saved").write_text("yes")
    sys.exit(143)

signal.signal(signal.SIGTERM, end)
folder = Path(os.environ["RUNS"])
begun = folder / "attempts"
count = int(begun.read_text()) + 1 if begun.exists() else 1
begun.write_text(str(count))
plan = json.loads(os.environ["PLAN"])
what = plan[min(count, len(plan)) - 1]
print(f"attempt {count}: {what}", flush=True)
print("secret has", len(os.environ.get("KEY", "")), "characters", flush=True)
if what == "train":
    time.sleep(120)
sys.exit(what)
"""


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[FakeKubernetes]:
    (tmp_path / "api" / "claim").mkdir(parents=True)
    fake = FakeKubernetes(tmp_path / "api")
    fake.write_kubeconfig(tmp_path / "kubeconfig")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    yield fake
    fake.close()


def a_job(*plan: int | str, **cluster: object) -> Job:
    environment = {"PLAN": str(list(plan)).replace("'", '"'), "RUNS": "/shared"}
    environment |= cluster.pop("environment", {})  # type: ignore[arg-type]
    values = {
        "target": "kuberay",
        "image": "registry.example/distcnn:1",
        "kuberay": {"namespace": NAMESPACE, "volume_claim": "runs"},
        "environment": environment,
        "grace_seconds": 20,
        **cluster,
    }
    spec = ClusterSpec.model_validate(values)
    return job_of_run(RunConfig(), spec, location("/shared/runs/fmnist-1"), None)


def parcel(driver: str = _DRIVER) -> Parcel:
    package = Path(distcnn.__file__).parent
    saving = (package / "orchestration" / "save_before_end.py").read_bytes()
    return Parcel(
        {
            "distcnn/__init__.py": b"",
            "distcnn/orchestration/__init__.py": b"",
            "distcnn/orchestration/driver.py": driver.encode(),
            "distcnn/orchestration/save_before_end.py": saving,
            "job.json": b"{}",
        }
    )


def attach(handle: Handle) -> kuberay_target.RayJob:
    return kuberay_target.attach(Remembered(Handle.parse(str(handle)), ClusterSpec()))


def wait(attached: kuberay_target.RayJob, *states: State) -> Status:
    seen = wait_until(
        attached.status, lambda status: status.state in states or status.state.has_ended
    )
    assert seen.state in states, (seen, attached.log(0).decode())
    return seen


def wait_until(look: Callable[[], T], is_right: Callable[[T], bool]) -> T:
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    while not is_right(seen := look()):
        assert time.monotonic() < deadline, seen
        time.sleep(0.05)
    return seen


def wait_for_line(attached: kuberay_target.RayJob, line: str) -> str:
    return wait_until(lambda: attached.log(0).decode(), lambda text: line in text)


def attempts(api: FakeKubernetes) -> int:
    return int((api.folder / "claim" / "attempts").read_text())


def test_a_job_succeeds_and_takes_all_that_it_had_with_it(
    api: FakeKubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", "do not show")
    job = a_job(0, secrets=("KEY",))
    handle = kuberay_target.submit(job, parcel())
    assert handle == Handle("kuberay", (CONTEXT, NAMESPACE), "fmnist-1")
    attached = attach(handle)
    assert wait(attached, State.SUCCEEDED).exit_code == 0
    assert "secret has 11 characters" in attached.log(0).decode()
    assert len(api.of_kind("configmaps")) == len(api.of_kind("secrets")) == 1
    kuberay_target._connect(None, NAMESPACE).delete("RayJob", job.id)
    wait_until(lambda: api.objects, lambda objects: not objects)
    assert attached.status().state is State.LOST
    assert "secret has 11 characters" in attached.log(0).decode(), "what was read is kept"


def test_the_log_goes_on_from_an_offset(api: FakeKubernetes) -> None:
    attached = attach(kuberay_target.submit(a_job(0), parcel()))
    wait(attached, State.SUCCEEDED)
    whole = attached.log(0)
    assert attached.log(7) == whole[7:]
    assert attached.log(len(whole)) == b""


def test_a_log_that_is_begun_anew_goes_on(api: FakeKubernetes) -> None:
    attached = attach(kuberay_target.submit(a_job(0), parcel()))
    wait(attached, State.SUCCEEDED)
    whole = attached.log(0)
    [pod] = api.operator.pods.values()
    pod.output.write_bytes(b"and so on\n")  # As the kubelet does after 10 MiB.
    assert attached.log(len(whole)) == b"and so on\n"


@pytest.mark.parametrize("sees_submitter_first", [False, True])
def test_the_exit_code_of_the_driver_is_kept(
    api: FakeKubernetes, sees_submitter_first: bool
) -> None:
    api.operator.sees_submitter_first = sees_submitter_first
    attached = attach(kuberay_target.submit(a_job(7, max_retries=0), parcel()))
    assert wait(attached, State.FAILED).exit_code == 7


def test_a_lost_head_is_taken_up_again_and_the_log_goes_on(api: FakeKubernetes) -> None:
    job = a_job("train", 0)
    attached = attach(kuberay_target.submit(job, parcel()))
    wait_for_line(attached, "attempt 1")
    before = attached.log(0)
    api.operator.lose_head(job.id)
    assert wait(attached, State.SUCCEEDED).exit_code == 0
    assert attached.log(0).startswith(before)
    assert "attempt 2" in attached.log(len(before)).decode()


def test_a_head_that_is_drained_saves_and_is_taken_up_again(api: FakeKubernetes) -> None:
    attached = attach(kuberay_target.submit(a_job("train", 0), parcel()))
    wait_for_line(attached, "attempt 1")
    [head] = api.of_kind("pods")
    with api.lock:
        api.operator.end_pod(head["metadata"]["name"], grace_seconds=20)
    assert wait(attached, State.SUCCEEDED)
    assert (api.folder / "claim" / "saved").exists()
    assert attempts(api) == 2


def test_failures_are_tried_again_as_often_as_is_said(api: FakeKubernetes) -> None:
    attached = attach(kuberay_target.submit(a_job(9, max_retries=2), parcel()))
    assert wait(attached, State.FAILED).exit_code == 9
    assert attempts(api) == 3


def test_stop_lets_the_job_save_and_a_later_submit_goes_on(api: FakeKubernetes) -> None:
    job = a_job("train", 0, environment={"SAVING_SECONDS": "1"})
    attached = attach(kuberay_target.submit(job, parcel()))
    wait_for_line(attached, "attempt 1")
    attached.stop(20)
    assert (api.folder / "claim" / "saved").exists(), "it has ended, and has saved before"
    status = attached.status()
    assert (status.state, status.follow_exit_code) == (State.STOPPED, 3)
    assert not api.of_kind("pods"), "no machine is left"
    again = attach(kuberay_target.submit(replace(job, submission="another"), parcel()))
    assert wait(again, State.SUCCEEDED).exit_code == 0
    assert attempts(api) == 2


def test_stop_kills_what_does_not_save_in_time(
    api: FakeKubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kuberay_target, "_NOTICED_SECONDS", 2.0)
    attached = attach(
        kuberay_target.submit(a_job("train", environment={"SAVING_SECONDS": "100"}), parcel())
    )
    wait_for_line(attached, "attempt 1")
    attached.stop(0)
    assert attached.status().state is State.STOPPED
    assert not (api.folder / "claim" / "saved").exists()


def test_stop_deletes_what_no_operator_suspends(
    api: FakeKubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kuberay_target, "_NOTICED_SECONDS", 1.0)
    api.operator.is_stuck = True
    attached = attach(kuberay_target.submit(a_job(0), parcel()))
    assert attached.status() == Status(State.QUEUED, detail="no pods yet")
    with pytest.raises(UserError, match="whether the KubeRay operator runs"):
        attached.stop(0)
    api.operator.is_stuck = False
    assert wait(attached, State.LOST)


def test_a_submission_is_idempotent(api: FakeKubernetes) -> None:
    job = a_job("train")
    attached = attach(kuberay_target.submit(job, parcel()))
    wait_for_line(attached, "attempt 1")
    kuberay_target.submit(job, parcel())
    kuberay_target.submit(replace(job, submission="another"), parcel())
    assert len(api.of_kind("rayjobs")) == len(api.of_kind("configmaps")) == 1
    assert attempts(api) == 1
    other = replace(job, documents={"config.yaml": "seed: 1"}, submission="yet another")
    with pytest.raises(UserError, match="another job fmnist-1 is there"):
        kuberay_target.submit(other, parcel())


def test_of_two_submissions_at_once_one_is_sent(api: FakeKubernetes) -> None:
    jobs = [replace(a_job("train"), submission=name) for name in ("one", "two", "three")]
    with ThreadPoolExecutor(3) as pool:
        handles = list(pool.map(lambda job: kuberay_target.submit(job, parcel()), jobs))
    assert len(set(handles)) == 1
    [rayjob], [files] = api.of_kind("rayjobs"), api.of_kind("configmaps")
    assert files["metadata"]["ownerReferences"][0]["uid"] == rayjob["metadata"]["uid"]
    wait_for_line(attach(handles[0]), "attempt 1")


def test_an_ended_job_is_replaced(api: FakeKubernetes) -> None:
    job = a_job(5, 0, max_retries=0)
    attached = attach(kuberay_target.submit(job, parcel()))
    wait(attached, State.FAILED)
    again = attach(kuberay_target.submit(replace(job, submission="another"), parcel()))
    assert wait(again, State.SUCCEEDED)
    assert [each["metadata"]["name"] for each in api.of_kind("configmaps")] == ["fmnist-1-another"]


def test_a_job_without_room_is_queued_and_says_why(api: FakeKubernetes) -> None:
    api.operator.lacks_room = True
    attached = attach(kuberay_target.submit(a_job(0, nodes=2), parcel()))
    status = wait_until(attached.status, lambda status: "Insufficient cpu" in status.detail)
    assert status.state is State.QUEUED
    assert attached.log(0) == b""
    api.operator.lacks_room = False
    assert wait(attached, State.SUCCEEDED)


def test_an_api_that_is_away_for_a_while(api: FakeKubernetes) -> None:
    attached = attach(kuberay_target.submit(a_job(0), parcel()))
    wait(attached, State.SUCCEEDED)
    api.is_away = True
    for look in (attached.status, lambda: attached.log(0), lambda: attached.stop(1)):
        with pytest.raises(OutOfReachError):
            look()
    api.is_away = False
    assert attached.status().state is State.SUCCEEDED


def test_an_api_that_is_gone(api: FakeKubernetes) -> None:
    attached = attach(kuberay_target.submit(a_job(0), parcel()))
    api.close()
    with pytest.raises(OutOfReachError, match="does not answer"):
        attached.status()


def test_a_wrong_token_is_no_lost_connection(api: FakeKubernetes, tmp_path: Path) -> None:
    api.write_kubeconfig(tmp_path / "kubeconfig", token="another")
    with pytest.raises(UserError, match="log in again") as caught:
        kuberay_target.submit(a_job(0), parcel())
    assert not isinstance(caught.value, OutOfReachError)


def test_what_is_refused_leaves_nothing_behind(api: FakeKubernetes) -> None:
    api.forbidden = {("create", "rayjobs")}
    with pytest.raises(UserError, match=r"not allowed: .* cannot create resource"):
        kuberay_target.submit(a_job(0), parcel())
    assert not api.objects


def test_an_operator_that_finds_the_job_invalid(api: FakeKubernetes) -> None:
    job = a_job(0)
    kuberay_target.submit(job, parcel())
    with api.lock:
        api.objects["rayjobs", job.id]["spec"]["submissionMode"] = "Sidecar"
        api.objects["rayjobs", job.id]["status"] = {}
    attached = attach(Handle("kuberay", (CONTEXT, NAMESPACE), job.id))
    assert "submissionMode" in wait(attached, State.FAILED).detail


def test_no_kubeconfig_and_no_such_context(
    api: FakeKubernetes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kube = {"namespace": NAMESPACE, "volume_claim": "runs", "context": "elsewhere"}
    with pytest.raises(UserError, match="no kubeconfig with context 'elsewhere'"):
        kuberay_target.submit(a_job(0, kuberay=kube), parcel())
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(UserError, match="no kubeconfig with a current context"):
        kuberay_target.submit(a_job(0), parcel())


def test_a_machine_without_the_client_renders_and_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    monkeypatch.delitem(sys.modules, "distcnn.orchestration.targets.kubernetes_api", raising=False)
    assert "kind: RayJob" in kuberay_target.render(a_job(0), parcel())
    [*_, finding] = kuberay_target.check(a_job(0), parcel())
    assert "pip install 'distcnn[kubernetes]'" in finding.what


def failed(findings: list[Finding]) -> dict[str, str]:
    return {each.subject: each.what for each in findings if each.status == "fail"}


def check(job: Job) -> list[Finding]:
    return list(kuberay_target.check(job, parcel()))


def claim(mode: str) -> dict[str, object]:
    return {"metadata": {"name": "runs", "uid": "1"}, "spec": {"accessModes": [mode]}}


def test_a_check_finds_all_in_order_and_keeps_nothing(api: FakeKubernetes) -> None:
    api.objects["persistentvolumeclaims", "runs"] = claim("ReadWriteMany")
    findings = check(a_job(0, nodes=2))
    assert {finding.status for finding in findings} == {"ok"}
    subjects = [finding.subject for finding in findings]
    assert subjects[-1] == "dry run" and "room" in subjects and "operator" in subjects
    assert not api.of_kind("rayjobs") and not api.of_kind("configmaps")


def test_a_check_names_what_is_missing_with_its_remedy(api: FakeKubernetes) -> None:
    api.forbidden = {("create", "rayjobs"), ("get", "pods/log")}
    api.objects["persistentvolumeclaims", "runs"] = claim("ReadWriteOnce")
    kube = {"namespace": NAMESPACE, "volume_claim": "runs", "service_account": "trainer"}
    found = failed(check(a_job(0, nodes=2, kuberay=kube)))
    assert "may not create rayjobs, get pods/log" in found["rights"]
    assert "ReadWriteMany" in found["PersistentVolumeClaim"]
    assert "create it, or set cluster.kuberay.service_account" in found["ServiceAccount"]


def test_a_check_of_a_namespace_that_refuses_the_operators_own_container(
    api: FakeKubernetes,
) -> None:
    api.namespace_labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    assert "to baseline, or take another" in failed(check(a_job(0)))["namespace"]


@pytest.mark.parametrize("is_installed", [False, True])
def test_a_check_without_a_fit_operator(api: FakeKubernetes, is_installed: bool) -> None:
    api.has_operator = is_installed
    api.operator_lacks = ("preRunningDeadlineSeconds",)
    found = failed(check(a_job(0)))
    assert "have KubeRay 1.6 or newer installed" in found["operator"]


def test_an_old_operator_is_noticed_by_whoever_may_not_look_at_it(api: FakeKubernetes) -> None:
    api.objects["persistentvolumeclaims", "runs"] = claim("ReadWriteMany")
    api.operator_lacks = ("preRunningDeadlineSeconds",)
    api.forbidden = {("get", "customresourcedefinitions")}
    assert 'unknown field "spec.preRunningDeadlineSeconds"' in failed(check(a_job(0)))["dry run"]


def test_a_check_looks_for_room(api: FakeKubernetes) -> None:
    def room(**cluster: object) -> Finding:
        return next(each for each in check(a_job(0, **cluster)) if each.subject == "room")

    assert room(nodes=2, cpus_per_node=7).status == "ok"
    assert room(nodes=3, cpus_per_node=7).status == "note"
    assert "the first needs 0.5 CPU" in room(nodes=2, cpus_per_node=8).what
    assert room(gpus_per_node=1).status == "note"
    gpus = {"ray.io/accelerator-type": "A100"}
    api.nodes.append(node("c", "16", "64Gi", "4", **gpus))
    assert room(gpus_per_node=4, accelerator_type="A100").status == "ok"
    assert "1 of them of the kind" in room(gpus_per_node=8, accelerator_type="A100").what
    assert "0 of them of the kind" in room(gpus_per_node=4, accelerator_type="H100").what


def test_a_check_of_a_missing_namespace_and_of_no_cluster(api: FakeKubernetes) -> None:
    elsewhere = {"namespace": "elsewhere", "volume_claim": "runs"}
    assert (
        "set cluster.kuberay.namespace" in failed(check(a_job(0, kuberay=elsewhere)))["namespace"]
    )
    api.is_away = True
    assert "does not answer" in failed(check(a_job(0)))["cluster"]
