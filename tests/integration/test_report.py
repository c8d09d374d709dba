"""Pages as people see them: in a real browser, on a desk and on a phone, by day and by night."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.browser import DESKTOP, Browser, assert_well_shown, needs_browser, texts
from tests.runs import OVERRIDES, distcnn, finish, start_and_reach, train_command

pytestmark = needs_browser

SWEEP_FIGURES = [
    "Dead kernels",
    "Accuracy",
    "By learning rate",
    "As they learned",
    "Against trainable parameters",
    "Against seconds of training",
    "Learning rate and channels",
    "Every trial across its values",
    "What mattered",
]
LAYERS = [
    f"{layer} {number}" for number in (1, 2) for layer in ("conv", "batch norm", "relu", "pool")
]


def test_the_page_of_a_run_is_whole(chromium: Browser, undisturbed: Path):
    """Its headings and figures are looked at in `tests/smoke`."""
    page = undisturbed / "report.html"
    chromium.open(page, DESKTOP, is_dark=False)
    assert [each.lower() for each in texts(chromium, ".stage h3")] == [*LAYERS, "fc"]
    assert len(texts(chromium, ".gallery figure")) == 24
    # Bright letters on a dark ground by night, and dark ones on white by day and on paper.
    paper = "getComputedStyle(document.body).backgroundColor"
    chromium.open(page, DESKTOP, is_dark=True)
    assert chromium.ask(paper) != "rgb(255, 255, 255)"
    chromium.call("Emulation.setEmulatedMedia", media="print", features=[])
    assert chromium.ask(paper) == "rgb(255, 255, 255)"


def test_it_is_made_again_from_the_directory_alone(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    page = run / "report.html"
    finish(distcnn("report", run))  # A page names the folder of its run.
    before = page.read_text(encoding="utf-8")
    page.unlink()
    monkeypatch.setenv("DISTCNN_CACHE_DIR", "/nowhere")
    monkeypatch.setenv("DISTCNN_DATA_DIR", "/nowhere")
    assert finish(distcnn("report", run)) == f"{page}\n"
    assert page.read_text(encoding="utf-8") == before


def test_a_run_that_has_not_ended_has_a_page(chromium: Browser, tmp_path: Path):
    run = tmp_path / "run"
    process = start_and_reach(train_command(run), run, 18)
    process.kill()
    process.communicate()
    assert finish(distcnn("report", run)) == f"{run / 'report.html'}\n"
    assert_well_shown(chromium, run / "report.html")
    assert texts(chromium, "h2") == ["How it learned", "The network", "What ran on what"]
    resumed = finish(distcnn("resume", run))
    assert "Report: " in resumed
    chromium.open(run / "report.html", DESKTOP, is_dark=False)
    assert "What happened on the way" in texts(chromium, "h2")


def test_a_run_that_has_lost_its_numbers_has_a_page(chromium: Browser, tmp_path: Path):
    run = tmp_path / "run"
    command = distcnn("train", "article", *OVERRIDES, "optimizer.lr=1e30", "--run-dir", run)
    assert f"Report: {run / 'report.html'}" in finish(command, expected=1)
    assert_well_shown(chromium, run / "report.html")
    assert "What it recognises" not in texts(chromium, "h2")


def test_what_is_no_run_is_told(tmp_path: Path):
    said = finish(distcnn("report", tmp_path), expected=2)
    assert "is not a run directory" in said


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of four trials, two fields, and a claim."""
    folder = tmp_path_factory.mktemp("swept")
    (folder / "study.yaml").write_text(
        """
name: study
base: article
claim: dead-units
space:
  optimizer.lr: {grid: [0.001, 0.3]}
  model.channels: {grid: [[4, 8], [8, 16]]}
search: grid
scheduler: none
""",
        encoding="utf-8",
    )
    sweep = folder / "sweep"
    small = ["data.source=synthetic", "data.num_train=640", "training.epochs=2"]
    said = finish(distcnn("tune", folder / "study.yaml", *small, "--run-dir", sweep))
    assert f"Report: {sweep / 'report.html'}" in said
    return sweep


def test_the_page_of_a_sweep_is_whole(chromium: Browser, swept: Path):
    page = swept / "report.html"
    assert_well_shown(chromium, page)
    assert texts(chromium, "h2") == ["The evidence", "What was found", "Trials"]
    assert texts(chromium, "figure h3") == SWEEP_FIGURES
    assert len(texts(chromium, "tbody tr")) == 2 + 4  # Of the heat map, and of the trials.
    [verdict] = texts(chromium, ".verdict")
    assert "The claim: " in verdict
    assert " here" in verdict


def test_a_page_of_a_sweep_is_made_again(swept: Path):
    page = swept / "report.html"
    before = page.read_text(encoding="utf-8")
    page.unlink()
    assert finish(distcnn("report", swept)) == f"{page}\n"
    assert page.read_text(encoding="utf-8") == before
