"""Somebody's own module and data by the same commands: the docs' example, and mistakes in it."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.runs import (
    TIMEOUT_SECONDS,
    distcnn,
    events,
    finish,
    saves,
    start,
    told,
    wait_for,
)

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where somebody has the example, and types commands."""
    for file in EXAMPLES.iterdir():
        if file.is_file():
            shutil.copy(file, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def results(run: Path) -> dict[str, object]:
    return json.loads((run / "results.json").read_bytes())


def test_plateaus_and_callbacks_of_their_own_go_on_where_they_stood(folder: Path):
    (folder / "careful.py").write_text(CAREFUL, encoding="utf-8")
    undisturbed, killed = folder / "undisturbed", folder / "killed"
    command = ["train", "spirals.yaml", "workload=careful:careful", "--run-dir"]
    (folder / "pause").touch()
    for again, num_saves in (([*command, killed], 2), (["resume", killed], 5)):
        process = start(distcnn(*again))
        wait_for(lambda enough=num_saves: saves(killed) >= enough, process)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=TIMEOUT_SECONDS)
    (folder / "pause").unlink()
    finish(distcnn("resume", killed))
    finish(distcnn(*command, undisturbed))
    assert results(undisturbed)["epochs"] == 5, "ended by a callback"
    rates = sorted({float(row[5]) for row in told(undisturbed)}, reverse=True)
    assert rates == pytest.approx([0.01 * 0.7**cut for cut in range(4)]), "as steps were made"
    assert told(killed) == told(undisturbed)
    assert results(killed)["weights_sha256"] == results(undisturbed)["weights_sha256"]


CAREFUL = """
import os, time
import torch
from pytorch_lightning.callbacks import EarlyStopping
import spirals

class Careful(spirals.Classifier):
    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), self.lr)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, mode="max", factor=0.7, patience=0, threshold=10.0)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "monitor": "val/accuracy"},
        }

    def configure_callbacks(self):
        return [EarlyStopping("val/accuracy", min_delta=1.0, patience=4, mode="max")]

    def on_train_end(self):
        while os.path.exists("pause"):
            time.sleep(0.1)

def careful(config, hidden):
    _, data = spirals.spirals(config, hidden)
    return Careful(hidden, config.optimizer.lr), data
"""


def test_two_workers_train_it_and_the_winner_of_a_sweep_is_tested(folder: Path):
    run = folder / "launched"
    (folder / "seen.py").write_text(SEEN, encoding="utf-8")
    command = ["spirals.yaml", "workload=seen:seen", "workers.count=2"]
    finish(distcnn("launch", *command, "--run-dir", run))
    shares = [set((folder / f"seen-0-{rank}").read_text().split()) for rank in range(2)]
    assert not shares[0] & shares[1], "each sees its part of an epoch"
    assert len(shares[0] | shares[1]) == 1500
    ended = results(run)
    assert ended["workers"]["count"] == 2
    assert ended["test"]["accuracy"] > 0.8
    sweep = folder / "sweep"
    finish(distcnn("tune", "spirals_search.yaml", "--run-dir", sweep))
    best = results(sweep)["best"]
    assert best["values"]["parameters.hidden"] == 48
    assert best["test"]["accuracy"] > 0.8


SEEN = """
import os
import spirals

class Seen(spirals.Classifier):
    def training_step(self, batch, batch_idx):
        name = f"seen-{self.current_epoch}-{self.global_rank}"
        with open(os.path.join(os.environ["DISTCNN_WORKLOAD_DIR"], name), "a") as file:
            print(*(point.sum().item() for point in batch[0]), file=file)
        return super().training_step(batch, batch_idx)

def seen(config, hidden):
    _, data = spirals.spirals(config, hidden)
    return Seen(hidden, config.optimizer.lr), data
"""


def test_other_commands_say_what_they_can_and_cannot(folder: Path):
    run = folder / "run"
    finish(distcnn("train", "spirals.yaml", "training.epochs=1", "--run-dir", run))
    said = finish(distcnn("evaluate", run, "--json"))
    assert json.loads(said)["accuracy"] == results(run)["val"]["accuracy"]
    assert (run / "report.html").exists()
    picture = folder / "picture.png"
    shutil.copy(EXAMPLES.parent / "architecture.svg", picture)
    assert "for its own code" in finish(distcnn("predict", run, picture), 2)
    refused = finish(distcnn("export", run, "--format", "onnx"), 2)
    assert "for its own code" in refused
    assert not list(folder.glob("*.onnx"))
    for field in ("training.reproducible=across-workers", "training.checkpoint_every_steps=1"):
        assert "workload" in finish(distcnn("train", "spirals.yaml", field), 2)
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["training"]["precision"] == "32-true", "whatever this CPU has"


WITH_MISTAKES: dict[str, tuple[Callable[[str], str], str]] = {
    "raises": (
        lambda text: text.replace(
            "return functional.cross", "oops()\n        return functional.cross", 1
        ),
        "NameError: name 'oops' is not defined",
    ),
    "logs nothing": (
        lambda text: text.replace('self.log(f"{split}/accuracy"', 'self.log("other"'),
        "does not log val/accuracy",
    ),
    "returns no pair": (
        lambda text: text.replace(", data\n", "\n"),
        "has to return a LightningModule and a LightningDataModule, and returned Classifier",
    ),
    "imports what is not there": (
        lambda text: "import nowhere\n" + text,
        "No module named 'nowhere'",
    ),
    "is no Python": (lambda text: text + "\ndef (\n", "SyntaxError"),
    "keeps what cannot be kept": (
        lambda text: text.replace(
            "self.lr = lr", 'self.lr = lr\n        self.save_hyperparameters({"made": object()})'
        ),
        'self.save_hyperparameters(ignore=["made"])',
    ),
    "takes no such parameter": (
        lambda text: text.replace("hidden=32", "hiden=32"),
        "got an unexpected keyword argument 'hidden'",
    ),
    "has no such function": (
        lambda text: text.replace("def spirals(", "def other("),
        "has no function 'spirals'",
    ),
}


@pytest.mark.parametrize("mistake", WITH_MISTAKES)
def test_a_mistake_is_told_with_their_lines_and_not_with_ours(mistake: str, folder: Path):
    spoil, expected = WITH_MISTAKES[mistake]
    file = folder / "spirals.py"
    file.write_text(spoil(file.read_text(encoding="utf-8")), encoding="utf-8")
    command = distcnn("train", "spirals.yaml", "training.epochs=1", "--run-dir", folder / "run")
    output = finish(command, expected=1)
    assert expected in output
    assert "pytorch_lightning" not in output
    assert "distcnn/training" not in output
    if mistake == "raises":
        assert events(folder / "run")[-1]["event"] == "failed"
        results = json.loads((folder / "run" / "results.json").read_bytes())
        assert results["status"] == "failed"
        assert results["reason"] in output
        assert (folder / "run" / "report.html").is_file()
        assert 'spirals.py", line' in output
        assert len(output.splitlines()) < 15, "three of them are said before"


def test_what_is_not_there_is_told(folder: Path):
    said = finish(distcnn("train", "spirals.yaml", "workload=nowhere:factory"), 1)
    assert "there is no module nowhere" in said
    assert "Traceback" not in said
