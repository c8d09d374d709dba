"""A real training in the head's pod of a RayJob: a real Ray in a namespace, a fake Kubernetes."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from distcnn import config_file
from distcnn.cluster.job import job_of_run
from distcnn.cluster.parcel import parcel_of
from distcnn.cluster.registry import Remembered
from distcnn.cluster.spec import ClusterSpec
from distcnn.cluster.status import State
from distcnn.location import location
from distcnn.orchestration.targets import kuberay_target
from tests.fake_kubernetes import NAMESPACE, FakeKubernetes, can_run_pods
from tests.runs import events

pytestmark = pytest.mark.skipif(not can_run_pods(), reason="this account may make no namespaces")

_TIMEOUT_SECONDS = 180
_OVERRIDES = [
    "data.source=synthetic",
    "data.num_train=3200",
    "data.num_val=500",
    "training.epochs=4",
    "training.checkpoint_every_steps=5",
    "workers.count=1",
    "workers.cpus=1",
]


def test_a_training_is_stopped_goes_on_and_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeKubernetes(tmp_path)
    fake.operator.runs_ray = True
    fake.operator.sees_submitter_first = True
    fake.write_kubeconfig(tmp_path / "kubeconfig")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    claim = tmp_path / "claim"
    kube = {"namespace": NAMESPACE, "volume_claim": "runs", "mount_path": str(claim)}
    values = {"target": "kuberay", "image": "distcnn:1", "kuberay": kube}
    run = claim / "runs" / "fmnist-1"
    config = config_file.load("article", _OVERRIDES)
    job = job_of_run(config, ClusterSpec.model_validate(values), location(str(run)), None)
    try:
        handle = kuberay_target.submit(job, parcel_of(job))
        attached = kuberay_target.attach(Remembered(handle, job.spec))

        def saves() -> int:
            return sum(event["event"] == "checkpoint" for event in events(run))

        deadline = time.monotonic() + _TIMEOUT_SECONDS
        while saves() < 2:
            assert time.monotonic() < deadline, attached.log(0).decode()
            assert not attached.status().state.has_ended, attached.log(0).decode()
            time.sleep(0.2)
        attached.stop(job.spec.grace_seconds)
        assert attached.status().state is State.STOPPED
        assert json.loads((run / "results.json").read_bytes())["status"] == "stopped"

        kuberay_target.submit(job, parcel_of(job))
        while not (status := attached.status()).state.has_ended:
            assert time.monotonic() < deadline, attached.log(0).decode()
            time.sleep(0.5)
        assert (status.state, status.exit_code) == (State.SUCCEEDED, 0), attached.log(0).decode()
        results = json.loads((run / "results.json").read_bytes())
        assert (results["status"], results["attempts"]) == ("completed", 2)
        assert "Preflight passed" in attached.log(0).decode()
    finally:
        fake.close()
