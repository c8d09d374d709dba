"""What a person reads while a run trains."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from distcnn.progress import EpochReport, PlainWatcher, StepReport, TerminalWatcher, duration


def step_report(train_seconds: float) -> StepReport:
    return StepReport(
        epoch=2,
        step=50,
        train_loss=0.5,
        images_per_second=9000,
        seconds_left=61,
        train_seconds=train_seconds,
    )


EPOCH = EpochReport(
    epoch=2, train_loss=0.5, val_loss=0.4, val_accuracy=0.9, is_best=True, train_seconds=30
)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (187, "3 min 07 s"),
        (7500, "2 h 05 min"),
    ],
)
def test_durations_read_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_without_a_terminal_lines_are_whole_and_few(capsys: pytest.CaptureFixture[str]) -> None:
    watcher = PlainWatcher()
    watcher.begin(num_epochs=3, steps_per_epoch=100)
    for tenth_of_a_second in range(250):
        watcher.step(step_report(tenth_of_a_second / 10))
    watcher.epoch(EPOCH)
    watcher.end()
    output = capsys.readouterr()
    lines = output.err.splitlines()
    assert output.out == ""
    assert len(lines) == 3
    assert lines[0] == "epoch 2/3  step 50/100  train/loss 0.5000  9,000 images/s  1 min 01 s left"
    assert lines[-1].endswith("val/accuracy 0.9000  30 s  (best)")
    assert "\r" not in output.err
    assert "\x1b" not in output.err


def test_on_a_terminal_a_bar_moves_and_epochs_stay() -> None:
    screen = io.StringIO()
    watcher = TerminalWatcher(Console(file=screen, force_terminal=True, width=120, highlight=False))
    watcher.begin(num_epochs=3, steps_per_epoch=100)
    watcher.step(step_report(5))
    watcher.epoch(EPOCH)
    watcher.note("brackets [like these] are text")
    watcher.end()
    shown = screen.getvalue()
    assert "epoch 2/3  train/loss 0.5000" in shown
    assert "[like these]" in shown
