"""What travels: all that a driver needs, nothing else, and not too much."""

import io
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import distcnn
from distcnn.cluster import parcel as parcels
from distcnn.cluster.job import job_of_run
from distcnn.cluster.parcel import Parcel, ParcelError, parcel_of
from distcnn.cluster.spec import ClusterSpec
from distcnn.config import RunConfig


@pytest.fixture
def job(tmp_path):
    return job_of_run(RunConfig(), ClusterSpec(), tmp_path / "run", None)


def test_a_driver_starts_from_what_travels_alone(job, tmp_path):
    parcel_of(job).unpack(tmp_path / "code")
    asked = "import distcnn.cli, distcnn.orchestration.launch as at; print(at.__file__)"
    command = [sys.executable, "-c", f"import sys; sys.path.pop(0); sys.path[:0] = ['']; {asked}"]
    done = subprocess.run(
        command, cwd=tmp_path / "code", capture_output=True, text=True, check=True
    )
    assert Path(done.stdout.strip()).is_relative_to(tmp_path / "code")
    command = [sys.executable, "-m", "distcnn.cli", "train", "quick", "--dry-run"]
    subprocess.run(command, cwd=tmp_path / "code", capture_output=True, check=True)


def test_what_lies_about_stays_at_home(tmp_path, job, monkeypatch):
    package = tmp_path / "distcnn"
    for name in ("__init__.py", "net.py", "configs/a.yaml", "data/order.py"):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text("#\n")
    for name in (
        "__pycache__/net.pyc",
        ".git/HEAD",
        "runs/a/results.json",
        "checkpoints/index.json",
        "data/train-images-idx3-ubyte.gz",
        "weights.safetensors",
    ):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text("no code")
    monkeypatch.setattr(distcnn, "__file__", str(package / "__init__.py"))
    monkeypatch.setattr(parcels, "shipped_configs", lambda: package / "configs")
    names = {name for name in parcel_of(job).files if name.startswith("distcnn/")}
    assert names == {
        "distcnn/__init__.py",
        "distcnn/net.py",
        "distcnn/configs/a.yaml",
        "distcnn/data/order.py",
    }


def test_the_same_files_are_the_same_bytes(job):
    assert parcel_of(job).sha256 == parcel_of(job).sha256
    with zipfile.ZipFile(io.BytesIO(parcel_of(job).zipped)) as archive:
        assert {"job.json", "config.yaml", "requirements.txt", "distcnn/cli.py"} <= set(
            archive.namelist()
        )


def test_it_is_small(job):
    assert len(parcel_of(job).zipped) < 2**20  # Which is what a ConfigMap takes.


def test_too_much_is_refused_by_name():
    parcel = Parcel({"distcnn/a.bin": bytes(300), "distcnn/b.bin": bytes(200), "c.py": b"#"})
    parcel.check_size()
    with pytest.raises(ParcelError, match=r"the largest files are distcnn/a\.bin .*b\.bin"):
        parcel.check_size(limit=10)


def test_a_workloads_own_code_travels(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    code = ("mine/__init__.py", "mine/net.py", "mine/runs/__init__.py", "alone.py", "other.py")
    for name in (*code, "alone/data.py", "mine/checkpoints/old.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("#\n")

    def names(workload):
        job = job_of_run(RunConfig(workload=workload), ClusterSpec(), tmp_path / "run", None)
        return {
            name for name in parcel_of(job).files if name.endswith(".py") and "distcnn" not in name
        }

    assert names("mine.net:make") == {"mine/__init__.py", "mine/net.py", "mine/runs/__init__.py"}
    assert names("alone:make") == {"alone.py"}, "which Python prefers to a mere folder"
    assert names("torchvision:make") == set(), "what is installed is installed there as well"
