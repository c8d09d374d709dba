"""The commands as a user types them, each in a process of its own."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from distcnn.config import RunConfig
from distcnn.network import build_network

ROOT = Path(__file__).parents[2]
SMALL = [
    "data.source=synthetic",
    "data.num_train=1280",
    "data.num_val=500",
    "training.epochs=2",
    "workers.cpus=1",
]


def run(
    *command: object, expected: int = 0, **environment: str
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == expected, done.stderr
    return done


def distcnn(*arguments: object, expected: int = 0, **environment: str):
    return run("-m", "distcnn.cli", *arguments, expected=expected, **environment)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    distcnn("train", "article", *SMALL, "--run-dir", folder / "first")
    return folder / "first"


def test_a_run_leaves_what_the_readme_says(trained: Path) -> None:
    assert {path.name for path in trained.iterdir()} == {
        "checkpoints",
        "config.yaml",
        "events.jsonl",
        "lease",
        "metrics.csv",
        "predictions.safetensors",
        "provenance.json",
        "report.html",
        "results.json",
        "tensorboard",
        "weights.safetensors",
    }
    results = json.loads((trained / "results.json").read_bytes())
    assert results["status"] == "completed"
    assert results["epochs"] == 2
    assert results["num_parameters"] == 29034
    assert results["data"]["name"] == "synthetic"
    assert results["train_seconds"] > 0
    assert results["images_per_second"] == pytest.approx(
        2 * 1280 / results["train_seconds"], rel=0.01
    )
    assert results["test"]["num_samples"] == 5000
    low, high = results["test"]["accuracy_interval_95"]
    assert low < results["test"]["accuracy"] < high
    provenance = json.loads((trained / "provenance.json").read_bytes())
    assert provenance["data"] == results["data"]


def test_training_time_is_that_of_training_alone(trained: Path) -> None:
    """The clock stands still while the run validates and saves: the last row says it all."""
    results = json.loads((trained / "results.json").read_bytes())
    header, *rows = (trained / "metrics.csv").read_text(encoding="utf-8").splitlines()
    seconds = header.split(",").index("train_seconds")
    assert results["train_seconds"] == float(rows[-1].split(",")[seconds])


def test_sizes_that_do_not_fit_leave_nothing_behind(tmp_path: Path) -> None:
    run = tmp_path / "run"
    overrides = ["data.source=synthetic", "data.num_train=100"]
    done = distcnn("train", "article", *overrides, "--run-dir", run, expected=2)
    assert "training.global_batch_size" in done.stderr
    assert not run.exists()


def test_the_resolved_config_runs_again_to_the_same_bits(trained: Path, tmp_path: Path) -> None:
    config = yaml.safe_load((trained / "config.yaml").read_bytes())
    assert config["data"]["source"] == "synthetic"
    assert config["training"]["precision"] in ("32-true", "bf16-mixed")
    assert (config["workers"]["cpus"], config["workers"]["gpus"]) == (1, 0)
    distcnn("train", trained / "config.yaml", "--run-dir", tmp_path / "again")
    digests = {
        json.loads((path / "results.json").read_bytes())["weights_sha256"]
        for path in (trained, tmp_path / "again")
    }
    assert len(digests) == 1


def test_the_weights_are_usable_without_the_trainer(trained: Path) -> None:
    network = build_network(RunConfig().model, seed=5)
    network.load_state_dict(load_file(trained / "weights.safetensors"))


def test_tensorboard_tells_what_metrics_csv_tells(trained: Path) -> None:
    events = EventAccumulator(str(trained / "tensorboard"))
    events.Reload()
    header, *rows = (trained / "metrics.csv").read_text(encoding="utf-8").splitlines()
    accuracy = header.split(",").index("val/accuracy")
    told = [float(row.split(",")[accuracy]) for row in rows if row.split(",")[accuracy]]
    seen = [event.value for event in events.Scalars("val/accuracy")]
    assert seen == pytest.approx(told)


def test_evaluate_uses_validation_unless_told_otherwise(trained: Path) -> None:
    results = json.loads((trained / "results.json").read_bytes())
    by_default = json.loads(distcnn("evaluate", trained, "--json").stdout)
    assert by_default["split"] == "val"
    assert by_default["accuracy"] == results["val"]["accuracy"]
    told = json.loads(distcnn("evaluate", trained, "--split", "test", "--json").stdout)
    assert told["confusion"] == results["test"]["confusion"]
    assert "T-shirt/top" in distcnn("evaluate", trained).stdout


def test_runs_lists_runs(trained: Path) -> None:
    rows = json.loads(distcnn("runs", trained.parent, "--json").stdout)
    assert [(row["run"], row["status"], row["epochs"]) for row in rows] == [
        (str(trained), "completed", 2)
    ]
    assert "completed" in distcnn("runs", trained.parent).stdout


def test_doctor_says_what_this_machine_offers() -> None:
    output = distcnn("doctor").stdout
    for subject in ("Python", "torch", "CPU", "GPU", "memory", "cache", "Fashion-MNIST"):
        assert subject in output


def test_auto_falls_back_loudly_and_fashion_mnist_never_does(tmp_path: Path) -> None:
    nowhere = {
        "DISTCNN_CACHE_DIR": str(tmp_path / "cache"),
        "DISTCNN_DATA_DIR": "",
        # A proxy that refuses: no mirror is to be had, whatever this machine's network is.
        "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
    }
    overrides = [*SMALL[1:], "training.epochs=1"]
    done = distcnn("train", "article", *overrides, "--run-dir", tmp_path / "auto", **nowhere)
    assert "NOT REAL DATA" in done.stderr
    assert json.loads((tmp_path / "auto/results.json").read_bytes())["data"]["name"] == "synthetic"
    refused = distcnn("train", "article", "data.source=fashion-mnist", expected=1, **nowhere).stderr
    assert "train-images-idx3-ubyte.gz" in refused
    assert "DISTCNN_DATA_DIR" in refused
    assert "Traceback" not in refused


def test_the_script_trains_too(tmp_path: Path) -> None:
    done = run("launch/local.py", "article", *SMALL, f"storage.directory={tmp_path}")
    assert "Run completed" in done.stdout
    assert len(list(tmp_path.glob("article-*/results.json"))) == 1


def test_a_terminal_gets_a_bar(tmp_path: Path) -> None:
    """On a real pseudo-terminal."""
    controller, terminal = pty.openpty()
    command = ["train", "article", *SMALL, "--run-dir", str(tmp_path / "run")]
    with subprocess.Popen(
        [sys.executable, "-m", "distcnn.cli", *command], stdout=terminal, stderr=terminal
    ) as process:
        os.close(terminal)
        shown = b""
        while select.select([controller], [], [], 60)[0]:
            try:
                shown += os.read(controller, 65536)
            except OSError:  # Linux's way to say that the other side is closed.
                break
    os.close(controller)
    assert process.returncode == 0
    assert b"epoch 2/2" in shown
    assert b"Run completed" in shown


def test_the_wheel_has_the_configs(tmp_path: Path) -> None:
    run("-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, ROOT)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "installed")
    shipped = {path.name for path in (ROOT / "configs").glob("*.yaml")}
    assert {f"distcnn/configs/{name}" for name in shipped} <= set(names)
    assert not any(name.startswith(("tests/", "launch/", "benchmarks/")) for name in names)
    done = subprocess.run(
        [sys.executable, "-m", "distcnn.cli", "describe", "article"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "installed")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "29,034" in done.stdout
