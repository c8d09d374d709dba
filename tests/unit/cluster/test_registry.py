"""Jobs, remembered across shells."""

import json

import pytest

from distcnn.cluster import registry
from distcnn.cluster.handle import Handle, HandleError
from distcnn.cluster.job import job_of_run
from distcnn.cluster.registry import find, remember, remembered
from distcnn.cluster.spec import ClusterSpec, RaySpec
from distcnn.config import RunConfig
from distcnn.errors import UserError
from distcnn.files import DamagedFileError


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DISTCNN_STATE_DIR", str(tmp_path / "state"))


def a_job(tmp_path, name="mine"):
    spec = ClusterSpec(target="ray", ray=RaySpec(address="http://head:8265"))
    return job_of_run(RunConfig(), spec, tmp_path / name, None)


def test_found_by_its_handle_and_by_its_id(tmp_path):
    job, handle = a_job(tmp_path), Handle("ray", ("head:8265",), "mine")
    registry.prepare()
    remember(job, handle)
    assert find("mine") == find(str(handle))
    record = find("mine")
    assert (record.handle, record.spec, record.run_dir) == (handle, job.spec, job.run_dir)
    assert record.digest == job.digest
    assert list(remembered()) == [record]
    assert registry.state_directory().joinpath("jobs").stat().st_mode & 0o777 == 0o700


def test_what_cannot_be_read_is_told_where_it_is_asked_for_and_passed_over_elsewhere(tmp_path):
    registry.prepare()
    remember(a_job(tmp_path), Handle("ray", ("head:8265",), "mine"))
    folder = registry.state_directory() / "jobs"
    later = json.loads((folder / "mine.json").read_text())
    later["spec"]["antigravity"] = True
    for name, text in (("torn", '{"id": "to'), ("empty", "{}"), ("later", json.dumps(later))):
        (folder / f"{name}.json").write_text(text)
        with pytest.raises(DamagedFileError, match=f"{name}.json is damaged"):
            find(name)
    assert [record.id for record in remembered()] == ["mine"]
    assert find("mine").id == "mine"


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_sent(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DISTCNN_STATE_DIR", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"nothing was sent: .* set DISTCNN_STATE_DIR"):
        registry.prepare()


def test_a_handle_is_enough_where_nothing_is_remembered():
    record = find("kuberay://prod/team/mine")
    assert record.handle == Handle("kuberay", ("prod", "team"), "mine")
    assert record.spec.grace_seconds == ClusterSpec().grace_seconds


def test_an_id_that_is_not_remembered_is_told_with_those_that_are(tmp_path):
    registry.prepare()
    remember(a_job(tmp_path), Handle("ray", ("head:8265",), "mine"))
    with pytest.raises(HandleError, match=r"no job 'yours' is remembered here \(there are: mine\)"):
        find("yours")
