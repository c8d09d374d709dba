"""A trained network in use: on people's pictures, and in other programs."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from safetensors.numpy import load_file

from distcnn.data.dataset import load
from distcnn.errors import UserError
from distcnn.run_directory.run import RunDirectory
from tests.runs import distcnn, finish


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Some validation images of the synthetic set, as people have pictures."""
    images = load("synthetic", None, lambda message: None).train_images[:40]
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number:02d}.png")
    return folder


def guesses(run: Path, *pictures: Path) -> list[list[str]]:
    """The labels of each picture's guesses, the likeliest first."""
    said = finish(distcnn("predict", run, *pictures, "--json"))
    told = [json.loads(line) for line in said.splitlines()]
    assert all(
        1 >= each["guesses"][0]["probability"] >= each["guesses"][2]["probability"] >= 0
        for each in told
    )
    return [[guess["label"] for guess in each["guesses"]] for each in told]


def test_pictures_of_any_size_and_polarity_are_recognised(undisturbed: Path, pictures: Path):
    dataset = load("synthetic", None, lambda message: None)
    labels = [dataset.class_names[label] for label in dataset.train_labels[:40]]
    plain = [best for best, *_ in guesses(undisturbed, pictures)]
    assert sum(np.array(plain) == np.array(labels)) >= 28, "it has learned what it was trained on"
    changed = pictures.parent / "changed"
    changed.mkdir()
    for file in sorted(pictures.iterdir()):
        inverted = ImageOps.invert(Image.open(file))
        coloured = inverted.resize((280, 280), Image.Resampling.BICUBIC).convert("RGB")
        coloured.save(changed / f"{file.stem}.jpg", quality=95)
    large = [best for best, *_ in guesses(undisturbed, changed)]
    assert sum(np.array(large) == np.array(plain)) >= 28


def test_a_picture_is_told_on_a_line(undisturbed: Path, pictures: Path):
    said = finish(distcnn("predict", undisturbed, pictures / "00.png"))
    assert said.count("\n") == 1
    assert said.startswith(f"{pictures / '00.png'}: ")
    assert said.count("%") == 3


def test_what_is_no_picture_is_told(undisturbed: Path, tmp_path: Path):
    text = tmp_path / "notes.png"
    text.write_text("not a picture")
    Image.new("L", (28, 28), 0).save(tmp_path / "good.png")
    said = finish(distcnn("predict", undisturbed, text, tmp_path / "good.png"), 1)
    assert f"distcnn: {text} cannot be read as a picture" in said
    assert f"{tmp_path / 'good.png'}: " in said, "the others are looked at all the same"
    told = finish(distcnn("predict", undisturbed, text, tmp_path / "good.png", "--json"), 1)
    bad, good = map(json.loads, told.splitlines())
    assert "cannot be read" in bad["error"]
    assert len(good["guesses"]) == 3
    missing = finish(distcnn("predict", undisturbed, tmp_path / "none.png"), 2)
    assert "there is no picture" in missing
    (tmp_path / "empty").mkdir()
    assert "holds no picture" in finish(distcnn("predict", undisturbed, tmp_path / "empty"), 2)


@pytest.mark.parametrize("format", ["onnx", "torch-export", "safetensors"])
def test_an_export_is_used_without_the_project(format: str, undisturbed: Path, tmp_path: Path):
    path = tmp_path / "network"
    command = distcnn("export", undisturbed, "--format", format, "--output", path)
    assert "as the original on" in finish(command)
    if format == "torch-export":
        with ZipFile(path) as archive:
            contents = [archive.read(name) for name in archive.namelist()]
        assert not [each for each in contents if b"data.pkl" in each or each[:1] == b"\x80"], (
            "loading it unpickles nothing"
        )
    predictions = RunDirectory(undisturbed).read_predictions()
    assert predictions is not None
    images = predictions.mistake_images[:5, None] / np.float32(255)
    np.save(tmp_path / "images.npy", images)
    done = subprocess.run(
        [sys.executable, "-c", USES[format], path, tmp_path / "images.npy"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    expected = predictions.probabilities[predictions.mistakes[:5]].argmax(axis=1)
    assert json.loads(done.stdout) == expected.tolist()


def test_an_export_replaces_nothing_but_a_regular_file(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    Path("folder").mkdir()
    Path("loop").symlink_to("loop")
    refused = {"fifo": "a FIFO", "folder": "a directory", "loop": "a loop of symbolic links"}
    if os.geteuid() == 0:
        os.mknod("null", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
        refused["null"] = "a character device"
    for name, kind in refused.items():
        before = Path(name).lstat().st_ino
        assert f"cannot write {name}: it is {kind}" in export(undisturbed, name, expected=2)
        assert Path(name).lstat().st_ino == before
    assert "its folder does not exist" in export(undisturbed, "nowhere/file", expected=2)
    assert "No such file" in export(undisturbed, "/proc/file", expected=1)
    assert {path.name for path in tmp_path.iterdir()} == set(refused)

    Path("folder/old").write_text("old")
    Path("link").symlink_to("folder/old")
    assert "as the original on" in export(undisturbed, "link")
    assert Path("link").is_symlink()
    assert load_file("folder/old").keys() == load_file(undisturbed / "weights.safetensors").keys()


def export(run: Path, path: str, expected: int = 0) -> str:
    """Export as safetensors."""
    command = distcnn("export", run, "--format", "safetensors", "--output", path)
    return finish(command, expected)


def test_a_report_replaces_nothing_but_a_regular_file(undisturbed: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    (run / "report.html").unlink()
    os.mkfifo(run / "report.html")
    output = finish(distcnn("report", run), expected=2)
    assert f"cannot write {run / 'report.html'}: it is a FIFO" in output


def test_an_export_that_computes_something_else_is_not_written(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("distcnn.training.export")
    load_as_it_is = module.load_safetensors

    def load_changed(content: bytes) -> dict[str, torch.Tensor]:
        return {name: tensor * 1.01 for name, tensor in load_as_it_is(content).items()}

    monkeypatch.setattr(module, "load_safetensors", load_changed)
    with pytest.raises(UserError, match="was not written: as safetensors, the scores"):
        module.export(RunDirectory(undisturbed), "safetensors", tmp_path / "network")
    assert list(tmp_path.iterdir()) == []


USES = {
    "onnx": """
import sys, numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
assert "class_names" in session.get_modelmeta().custom_metadata_map
scores = session.run(["scores"], {"images": numpy.load(sys.argv[2])})[0]
print(scores.argmax(axis=1).tolist())
assert "distcnn" not in sys.modules
""",
    "torch-export": """
import sys, numpy, torch
extra = {"class_names": ""}
network = torch.export.load(sys.argv[1], extra_files=extra).module()
assert extra["class_names"]
print(network(torch.from_numpy(numpy.load(sys.argv[2]))).argmax(dim=1).tolist())
assert "distcnn" not in sys.modules
""",
    "safetensors": """
import sys, numpy, torch
from collections import OrderedDict
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
with safe_open(sys.argv[1], "pt") as file:
    assert "class_names" in file.metadata()
network = nn.Sequential(OrderedDict(
    conv1=nn.Conv2d(1, 16, 5, padding=2), norm1=nn.BatchNorm2d(16), a=nn.ReLU(), b=nn.MaxPool2d(2),
    conv2=nn.Conv2d(16, 32, 5, padding=2), norm2=nn.BatchNorm2d(32), c=nn.ReLU(), d=nn.MaxPool2d(2),
    e=nn.Flatten(), fc=nn.Linear(1568, 10))).eval()
network.load_state_dict(load_file(sys.argv[1]))
print(network(torch.from_numpy(numpy.load(sys.argv[2]))).argmax(dim=1).tolist())
assert "distcnn" not in sys.modules
""",
}
