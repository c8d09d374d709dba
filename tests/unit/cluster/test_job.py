"""Jobs: what they are called, where they are kept, what their drivers are told."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distcnn import config_file
from distcnn.cluster.handle import ID
from distcnn.cluster.job import checked_id, job_of_run, kept_at, requirements
from distcnn.cluster.spec import ClusterSpec, KubeRaySpec
from distcnn.cluster.ticket import Ticket, versions
from distcnn.config import RunConfig
from distcnn.errors import UsageError
from distcnn.location import location


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", fullmatch=True))
def test_whatever_a_run_is_called_its_job_has_a_name_that_all_targets_take(name):
    assert ID.fullmatch(checked_id(None, None, name))


def test_a_job_is_called_as_its_folder_where_that_may_be():
    assert checked_id(None, Path("/runs/mine"), "article") == "mine"
    assert checked_id(None, Path("/runs/Mine.2"), "article") == "mine-2"
    assert checked_id(None, Path("/runs/7"), "article") == "run-7"
    assert checked_id(None, None, "My.Run").startswith("my-run-20")
    assert checked_id("other", Path("/runs/mine"), "article") == "other"


@pytest.mark.parametrize("job_id", ["Mine", "1st", "a_b", "a" * 48, "a-", "", "a b", "$(id)"])
def test_other_names_are_refused(job_id):
    with pytest.raises(UsageError, match="Kubernetes takes no other names"):
        checked_id(job_id, None, "article")


KUBERAY = {"target": "kuberay", "image": "registry/distcnn:1"}


@pytest.mark.parametrize(
    ("run_dir", "spec", "told"),
    [
        ("runs/a", ClusterSpec(target="ray"), "by its whole path, or s3://"),
        ("/runs/a", ClusterSpec(**KUBERAY), "would be gone with its pod"),
        (
            "/runs/a",
            ClusterSpec(**KUBERAY, kuberay=KubeRaySpec(volume_claim="disk")),
            "storage.directory=/shared/runs",
        ),
    ],
)
def test_a_folder_that_others_do_not_see_is_refused(run_dir, spec, told):
    with pytest.raises(UsageError, match=told):
        kept_at(location(run_dir), spec)


def test_places_that_all_see_are_taken():
    on_disk = ClusterSpec(**KUBERAY, kuberay=KubeRaySpec(volume_claim="disk"))
    assert kept_at(Path("/shared/runs/a"), on_disk) == Path("/shared/runs/a")
    assert kept_at(Path("a"), ClusterSpec()) == Path("a").absolute()
    place = location("s3://bucket/a")
    assert kept_at(place, ClusterSpec(**KUBERAY)) == place


def test_a_driver_reads_what_it_was_told(tmp_path):
    job = job_of_run(RunConfig(), ClusterSpec(), tmp_path / "mine", None)
    assert Ticket.from_json(job.ticket.to_json()) == job.ticket
    assert job.ticket.run_dir == str(tmp_path / "mine")
    (tmp_path / "config.yaml").write_text(job.documents["config.yaml"])
    config = config_file.load(str(tmp_path / "config.yaml"))
    assert config == RunConfig().with_values(storage={"directory": str(tmp_path)})


def test_the_same_job_has_the_same_digest_and_another_submission(tmp_path):
    one, same = (job_of_run(RunConfig(), ClusterSpec(), tmp_path / "a", None) for _ in range(2))
    other = job_of_run(RunConfig(seed=1), ClusterSpec(), tmp_path / "a", None)
    assert one.digest == same.digest != other.digest
    assert one.submission != same.submission


def test_a_folder_of_data_is_named_by_its_whole_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = RunConfig().with_values(data={"directory": "images"})
    job = job_of_run(config, ClusterSpec(), tmp_path / "a", None)
    assert f"directory: {tmp_path}/images" in job.documents["config.yaml"]
    with pytest.raises(UsageError, match="name it by its whole path"):
        job_of_run(config, ClusterSpec(target="ray"), tmp_path / "a", None)


def test_versions_are_exact_and_without_what_they_were_built_for():
    lines = requirements().splitlines()
    assert f"torch=={versions()['torch']}" in lines
    assert f"ray[default,train,tune]=={versions()['ray']}" in lines
    assert not any("+" in line for line in lines)
