"""What targets make of a handle, and of what clusters say: without a cluster."""

import pytest

from distcnn.cluster.handle import Handle
from distcnn.cluster.registry import Remembered
from distcnn.cluster.spec import ClusterSpec, RaySpec, host_of
from distcnn.cluster.status import State
from distcnn.orchestration.targets import OutOfReachError, kuberay_target, ray_target


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ("http://head:8265", "http://head:8265"),
        ("https://head:8265/", "https://head:8265"),
        ("head:8265", "http://head:8265"),
        (None, "http://head:8265"),
        ("https://another:8265", "http://head:8265"),
    ],
)
def test_a_ray_job_is_asked_for_where_it_was_sent(given, asked):
    spec = ClusterSpec(target="ray", ray=RaySpec(address=given))
    held = ray_target.attach(Remembered(Handle("ray", ("head:8265",), "mine"), spec))
    assert ray_target._address(held._spec) == asked


def test_the_host_of_an_address():
    assert host_of(RaySpec(address="https://head:8265/")) == "head:8265"
    assert host_of(RaySpec(address="head:8265")) == "head:8265"
    assert host_of(RaySpec()) is None


def test_a_cluster_that_is_busy_may_answer_later():
    with pytest.raises(OutOfReachError), ray_target._explained("http://head"):
        raise RuntimeError("Request failed with status code 503: try again.")


FAILED = "Job entrypoint command failed with exit code {}, last available logs ..."


@pytest.mark.parametrize(
    ("log", "state", "exit_code"),
    [
        ([143, 7], State.FAILED, 7),
        ([7, 143], State.STOPPED, 143),
        ([-9], State.FAILED, 137),
        ([0], State.FAILED, None),
        ([], State.FAILED, None),
    ],
)
def test_of_several_attempts_the_last_one_counts(monkeypatch, log, state, exit_code):
    job = kuberay_target.RayJob("context", "namespace", "mine")
    said = "\n".join(FAILED.format(code) for code in log).encode()
    monkeypatch.setattr(job, "log", lambda offset: said)
    ended = job._failed({"message": "the submitter has failed", "reason": "AppFailed"})
    assert (ended.state, ended.exit_code) == (state, exit_code)
    assert ended.follow_exit_code != 0
