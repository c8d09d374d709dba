"""Pages as people see them: in a real browser, on a desk and on a phone, by day and by night."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

from tests.browser import CHROMIUM, DESKTOP, DRIVER, PHONE, Browser, browser
from tests.integration.runs import OVERRIDES, distcnn, finish, start_and_reach, train_command

pytestmark = pytest.mark.skipif(
    not (CHROMIUM.exists() and DRIVER.exists()), reason="needs chromium and chromium-driver"
)

RUN_HEADINGS = [
    "How it learned",
    "What it recognises",
    "A picture's way through the network",
    "The network",
    "What ran on what",
]
RUN_FIGURES = [
    "Loss",
    "Accuracy",
    "Learning rate",
    "Pace",
    "Confusion",
    "Class by class",
    "Reliability",
]
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
# What is seen to be too wide, without its size, without its words.
TOO_WIDE = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
INVISIBLE = """[...document.querySelectorAll('img, svg[role=img]')].filter(each => {
  const box = each.getBoundingClientRect();
  return box.width < 10 || box.height < 10 || (each.tagName === 'IMG' && !each.naturalWidth);
}).length"""
WORDLESS = """[...document.querySelectorAll('img, svg[role=img]')].filter(each =>
  !(each.getAttribute('alt') || each.getAttribute('aria-label'))).length"""


@pytest.fixture(scope="module")
def chromium() -> Generator[Browser]:
    with browser() as opened:
        yield opened


def assert_well(chromium: Browser, page: Path) -> None:
    """Nothing from elsewhere, nothing wrong, and all to be seen."""
    for size in (DESKTOP, PHONE):
        for is_dark in (False, True):
            chromium.open(page, size, is_dark=is_dark)
            assert chromium.requests() == {page.as_uri()}
            assert chromium.complaints() == []
            assert chromium.ask(TOO_WIDE) <= 0, "the page is wider than its window"
            assert chromium.ask(INVISIBLE) == 0
            assert chromium.ask(WORDLESS) == 0


def texts(chromium: Browser, selector: str) -> list[str]:
    return chromium.ask(f"[...document.querySelectorAll('{selector}')].map(e => e.innerText)")


def test_the_page_of_a_run_is_whole(chromium: Browser, undisturbed: Path):
    page = undisturbed / "report.html"
    assert_well(chromium, page)
    assert texts(chromium, "h2") == RUN_HEADINGS
    assert texts(chromium, "figure h3") == RUN_FIGURES
    assert [each.lower() for each in texts(chromium, ".stage h3")] == [*LAYERS, "fc"]
    assert len(texts(chromium, ".gallery figure")) == 24
    # Bright letters on a dark ground by night, and dark ones on white by day and on paper.
    paper = "getComputedStyle(document.body).backgroundColor"
    chromium.open(page, DESKTOP, is_dark=True)
    assert chromium.ask(paper) != "rgb(255, 255, 255)"
    chromium.call("Emulation.setEmulatedMedia", media="print", features=[])
    assert chromium.ask(paper) == "rgb(255, 255, 255)"


def test_it_is_made_again_from_the_directory_alone(
    undisturbed: Path, monkeypatch: pytest.MonkeyPatch
):
    page = undisturbed / "report.html"
    before = page.read_text(encoding="utf-8")
    page.unlink()
    monkeypatch.setenv("DISTCNN_CACHE_DIR", "/nowhere")
    monkeypatch.setenv("DISTCNN_DATA_DIR", "/nowhere")
    assert finish(distcnn("report", undisturbed)) == f"{page}\n"
    assert page.read_text(encoding="utf-8") == before


def test_a_run_that_has_not_ended_has_a_page(chromium: Browser, tmp_path: Path):
    run = tmp_path / "run"
    process = start_and_reach(train_command(run), run, 18)
    process.kill()
    process.communicate()
    assert finish(distcnn("report", run)) == f"{run / 'report.html'}\n"
    assert_well(chromium, run / "report.html")
    assert texts(chromium, "h2") == ["How it learned", "The network", "What ran on what"]
    resumed = finish(distcnn("resume", run))
    assert "Report: " in resumed
    chromium.open(run / "report.html", DESKTOP, is_dark=False)
    assert "What happened on the way" in texts(chromium, "h2")


def test_a_run_that_has_lost_its_numbers_has_a_page(chromium: Browser, tmp_path: Path):
    run = tmp_path / "run"
    command = distcnn("train", "article", *OVERRIDES, "optimizer.lr=1e30", "--run-dir", run)
    assert f"Report: {run / 'report.html'}" in finish(command, expected=1)
    assert_well(chromium, run / "report.html")
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
    assert_well(chromium, page)
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
