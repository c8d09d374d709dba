"""Modules that people have besides the docs' example, and what can go wrong in their midst."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.runs import (
    TIMEOUT_SECONDS,
    distcnn,
    events,
    finish,
    start,
    start_and_reach,
    wait_for,
)

# A module made in `setup`, with weights that two layers share, on batches with texts in them.
ODD = """
import os, time
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader

class Odd(pl.LightningModule):
    def setup(self, stage):
        if not hasattr(self, "first"):
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
            self.second.weight = self.first.weight

    def scores(self, batch):
        assert all(text.startswith("sample") for text in batch["text"])
        return self.second(self.first(batch["values"]).relu())

    def training_step(self, batch, batch_idx):
        return {"loss": functional.cross_entropy(self.scores(batch), batch["label"])}

    def validation_step(self, batch, batch_idx):
        scores = self.scores(batch)
        self.log("val/loss", functional.cross_entropy(scores, batch["label"]))
        self.log("val/accuracy", (scores.argmax(1) == batch["label"]).float().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.3)

class Data(pl.LightningDataModule):
    def setup(self, stage):
        values = torch.randn(120, 4, generator=torch.Generator().manual_seed(0))
        self.samples = [
            {"text": f"sample {i}", "values": v, "label": v.argmax()} for i, v in enumerate(values)
        ]

    def train_dataloader(self):
        return DataLoader(self.samples[:80], 8, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.samples[80:], 8)

def odd(config):
    return Odd(), Data()

class Slow(Odd):
    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        open("validating", "w").close()
        while os.path.exists("pause"):
            time.sleep(0.05)

def slow(config):
    return Slow(), Data()

class WithoutNumbers(Odd):
    def validation_step(self, batch, batch_idx):
        self.log("val/loss", torch.tensor(0.1))
        self.log("val/accuracy", torch.tensor(float("nan")))

def without_numbers(config):
    return WithoutNumbers(), Data()

class Rolling(Odd):
    # Draws from a generator of its own, whose state it keeps.

    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(1)

    def training_step(self, batch, batch_idx):
        noise = torch.rand((), generator=self.generator)
        outputs = super().training_step(batch, batch_idx)
        return {"loss": outputs["loss"] * (1 + noise)}

    def on_save_checkpoint(self, checkpoint):
        checkpoint["generator"] = self.generator.get_state()

    def on_load_checkpoint(self, checkpoint):
        self.generator.set_state(checkpoint["generator"])

def rolling(config):
    return Rolling(), Data()

class DyingOnce(Odd):
    def on_validation_epoch_end(self):
        here = os.environ["DISTCNN_WORKLOAD_DIR"]
        if self.global_rank == 1 and self.current_epoch == 1:
            died = os.path.join(here, "died")
            if not os.path.exists(died):
                open(died, "w").close()
                os._exit(1)
        self.all_gather(torch.ones(1))

def dying_once(config):
    return DyingOnce(), Data()
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where somebody has these modules, and types commands."""
    (tmp_path / "modules.py").write_text(ODD, encoding="utf-8")
    config = "workers: {cpus: 1}\ntraining: {epochs: 3}\nworkload: modules:odd\n"
    (tmp_path / "odd.yaml").write_text(config, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_one_made_in_setup_with_shared_weights_and_texts_is_trained_and_restored(folder: Path):
    run = folder / "run"
    finish(distcnn("train", "odd.yaml", "--run-dir", run))
    results = json.loads((run / "results.json").read_bytes())
    assert results["val"]["accuracy"] > 0.5
    assert "test" not in results, "it has no images of that kind"
    measured = json.loads(finish(distcnn("evaluate", run, "--json")))
    assert measured["accuracy"] == results["val"]["accuracy"]


def test_a_signal_in_the_midst_of_its_validation_ends_it_once_that_is_saved(folder: Path):
    run = folder / "run"
    (folder / "pause").touch()
    process = start(distcnn("train", "odd.yaml", "workload=modules:slow", "--run-dir", run))
    wait_for((folder / "validating").exists, process)
    process.send_signal(signal.SIGTERM)
    (folder / "pause").unlink()
    process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == 128 + signal.SIGTERM
    kinds = [event["event"] for event in events(run)]
    assert kinds.count("checkpoint") == 1, "of the epoch that it was in"
    assert "Run completed" in finish(distcnn("resume", run))


def test_an_accuracy_that_is_no_number_is_told(folder: Path):
    said = finish(distcnn("train", "odd.yaml", "workload=modules:without_numbers"), 1)
    assert "val/accuracy became nan" in said


def test_a_worker_that_dies_while_another_is_in_their_code_costs_a_restart(folder: Path):
    """And no bit: once it has died, it does not do so again."""
    run, undisturbed = folder / "run", folder / "undisturbed"
    command = ["odd.yaml", "workload=modules:dying_once", "workers.count=2"]
    said = finish(distcnn("launch", *command, "--run-dir", run))
    assert (folder / "died").exists()
    finish(distcnn("launch", *command, "--run-dir", undisturbed))
    assert "Identical" in finish(distcnn("compare", run, undisturbed))
    assert "Run completed" in said
    results = json.loads((run / "results.json").read_bytes())
    assert results["restarts"]["failures"] == 1
    assert results["attempts"] == 2


def test_a_generator_of_their_own_goes_on_where_it_stood(folder: Path):
    run, undisturbed = folder / "run", folder / "undisturbed"
    command = ["train", "odd.yaml", "workload=modules:rolling", "training.epochs=20", "--run-dir"]
    finish(distcnn(*command, undisturbed))
    process = start_and_reach(distcnn(*command, run), run, num_saves=3)
    process.kill()
    process.communicate()
    finish(distcnn("resume", run))
    assert "Identical" in finish(distcnn("compare", run, undisturbed))
