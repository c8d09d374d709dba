"""What is seen of a followed job."""

import io

from rich.console import Console

from distcnn.cluster.status import State, Status
from distcnn.cluster.view import PlainView, TerminalView


def test_plain_output_is_the_log_and_a_line_for_each_change(capfdbinary):
    view = PlainView("mine")
    view.status(Status(State.QUEUED, detail="Resources"))
    view.status(Status(State.QUEUED, detail="Resources"))
    view.status(Status(State.RUNNING))
    view.log(b"epoch 1/3 \xff\n")
    view.trouble("out of reach")
    view.trouble("out of reach")
    view.trouble("")
    view.end()
    out, errors = capfdbinary.readouterr()
    assert out == b"epoch 1/3 \xff\n"
    assert errors.decode().splitlines() == [
        "[mine] QUEUED: Resources",
        "[mine] RUNNING",
        "[mine] out of reach",
        "[mine] it answers again",
    ]


def test_on_a_terminal_figures_take_each_others_place(monkeypatch):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120, highlight=False)
    monkeypatch.setattr("distcnn.cluster.view.Console", lambda **_: console)
    view = TerminalView("mine")
    view.status(Status(State.RUNNING))
    view.log(b"Run directory: /runs/mine\nepoch 1/3  step 5/375  train/loss 0.9  9 images/s\n")
    view.log(b"epoch 1/3  step 10/375  train/loss 0.5  9 images/s\nepo")
    view.log(b"ch 1/3  train/loss 0.4  val/accuracy 0.9\n")
    shown = "".join(line.plain for line in view._render().renderables)
    view.end()
    assert "RUNNING" in shown
    assert "step 10/375" in shown
    assert "Ctrl-C detaches" in shown
    scrolled = screen.getvalue()
    assert "Run directory: /runs/mine" in scrolled
    assert "epoch 1/3  train/loss 0.4  val/accuracy 0.9" in scrolled
    assert "step 5/375" not in shown


def test_a_last_line_without_an_end_is_shown(monkeypatch):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120, highlight=False)
    monkeypatch.setattr("distcnn.cluster.view.Console", lambda **_: console)
    view = TerminalView("mine")
    view.log(b"Killed")
    view.end()
    assert "Killed" in screen.getvalue()
