"""What a person reads while a run trains."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from distcnn.progress import (
    EpochReport,
    PlainWatcher,
    StepReport,
    TerminalWatcher,
    WorkersReport,
    duration,
)


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


# Launched runs: their workers, and what comes after a restart.


def terminal() -> tuple[TerminalWatcher, io.StringIO]:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120, highlight=False)
    return TerminalWatcher(console), screen


def test_on_a_terminal_the_workers_their_speed_and_the_accuracy_are_shown() -> None:
    watcher, screen = terminal()
    watcher.workers(WorkersReport(alive=2, count=3, restarts=1))
    watcher.begin(num_epochs=3, steps_per_epoch=100)
    watcher.epoch(EPOCH)
    watcher.step(replace(step_report(5), num_workers=3))
    watcher.end()
    shown = screen.getvalue()
    status = "train/loss 0.5000  9,000 images/s (3 x 3,000)  val/accuracy 0.9000"
    assert f"{status}  workers 2/3  restarts 1" in shown
    assert "50/100" in shown


def test_on_a_terminal_the_workers_are_shown_before_the_first_step() -> None:
    watcher, screen = terminal()
    watcher.workers(WorkersReport(alive=1, count=2, restarts=0))
    watcher.end()
    assert "workers 1/2  restarts 0" in screen.getvalue()
    assert "starting" in screen.getvalue()


def test_one_worker_alone_has_no_speed_of_its_own() -> None:
    watcher, screen = terminal()
    watcher.begin(num_epochs=3, steps_per_epoch=100)
    watcher.step(step_report(5))
    watcher.end()
    assert "9,000 images/s" in screen.getvalue()
    assert "images/s (" not in screen.getvalue()


def test_on_a_terminal_it_goes_on_after_a_restart() -> None:
    watcher, screen = terminal()
    for restarts in range(3):
        watcher.workers(WorkersReport(alive=2, count=2, restarts=restarts))
        watcher.begin(num_epochs=3, steps_per_epoch=100)
        watcher.step(step_report(5))
        if restarts < 2:  # The last group of workers ends as it should; others just die.
            watcher.note("a worker is gone")
    watcher.epoch(EPOCH)
    watcher.end()
    watcher.end()
    shown = screen.getvalue()
    assert shown.count("a worker is gone") == 2
    assert "restarts 2" in shown
    assert shown.count("epoch 2/3  train/loss") == 1


def test_a_terminal_is_left_with_its_cursor() -> None:
    watcher, screen = terminal()
    watcher.workers(WorkersReport(alive=2, count=2, restarts=0))
    watcher.begin(num_epochs=3, steps_per_epoch=100)
    watcher.end()
    watcher.begin(num_epochs=3, steps_per_epoch=100)
    watcher.end()
    shown = screen.getvalue()
    assert shown.rfind("\x1b[?25h") > shown.rfind("\x1b[?25l")


def test_without_a_terminal_the_workers_have_a_line_when_something_changed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    watcher = PlainWatcher()
    for alive, restarts in [(0, 0), (2, 0), (2, 0), (3, 0), (3, 0), (0, 0), (3, 1), (3, 1)]:
        watcher.workers(WorkersReport(alive, 3, restarts))
    assert capsys.readouterr().err.splitlines() == [
        "workers 2/3  restarts 0",
        "workers 3/3  restarts 0",
        "workers 3/3  restarts 1",
    ]


def test_without_a_terminal_lines_go_on_after_a_restart_from_far_back(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The clock of training stands again where the checkpoint was made."""
    watcher = PlainWatcher()
    watcher.begin(num_epochs=3, steps_per_epoch=100)
    watcher.step(replace(step_report(3600), num_workers=3))
    watcher.begin(num_epochs=3, steps_per_epoch=100)
    watcher.step(step_report(1800))
    watcher.step(step_report(1801))
    watcher.step(step_report(1811))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert "9,000 images/s (3 x 3,000)" in lines[0]
