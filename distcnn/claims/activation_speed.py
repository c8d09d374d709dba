"""ReLU against sigmoid and tanh: how many epochs each takes to the same accuracy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from distcnn.charts import axis
from distcnn.charts.chart import Chart, Figure
from distcnn.claims.claim import Seen, Spread, Verdict, grouped
from distcnn.wording import percent

if TYPE_CHECKING:
    from distcnn.claims.subject import Subject

CLAIM = "A network with ReLU converges six times faster than one with sigmoid or tanh."
# What all three reach on the study's budget; the best of them go on to some 0.87.
_TARGET = 0.8
_TIMES = 6
FIELDS = _RATE, _ACTIVATION = "optimizer.lr", "model.activation"


def measure(subject: Subject) -> dict[str, Any]:
    """Nothing more: the learning curve tells."""
    return {}


def judge(trials: Sequence[Seen]) -> Verdict:
    """Compare the activations, each at the learning rate at which it is fastest."""
    fastest = {
        activation: _fastest(of_activation)
        for activation, of_activation in grouped(trials, lambda t: t.values[_ACTIVATION]).items()
    }
    if set(fastest) != {"relu", "sigmoid", "tanh"}:
        return Verdict("open", "Not all of relu, sigmoid and tanh have been tried.")
    figures = [_curves(fastest)]
    epochs = {name: Spread.of(map(epochs_to, of_rate)) for name, of_rate in fastest.items()}
    relu = epochs["relu"].median
    if not math.isfinite(relu):
        return Verdict("open", f"ReLU itself has not reached {percent(_TARGET, 0)}.", figures)
    ratios = {name: epochs[name].median / relu for name in ("sigmoid", "tanh")}
    told = ", ".join(f"{name} {epochs[name]}" for name in ("relu", "tanh", "sigmoid"))
    sentence = (
        f"Epochs to {percent(_TARGET, 0)} of the validation images,"
        f" each at its best learning rate: {told}."
        f" ReLU is {_times(ratios['tanh'])} as fast as tanh and {_times(ratios['sigmoid'])} as fast"
        " as sigmoid."
    )
    if min(ratios.values()) >= _TIMES:
        return Verdict("yes", sentence, figures)
    return Verdict("partly" if max(ratios.values()) > 1 else "no", sentence, figures)


def _times(ratio: float) -> str:
    return f"{ratio:.1f} times" if math.isfinite(ratio) else "beyond measure"


def _fastest(trials: Sequence[Seen]) -> list[Seen]:
    """Those of the learning rate with the fewest epochs, in the median over the seeds."""
    by_rate = grouped(trials, lambda trial: float(trial.values[_RATE])).values()
    return min(
        by_rate,
        key=lambda group: (Spread.of(map(epochs_to, group)).median, -max(map(_best, group))),
    )


def _best(trial: Seen) -> float:
    return max(trial.accuracies, default=0.0)


def epochs_to(trial: Seen, target: float = _TARGET) -> float:
    """How many epochs to an accuracy above guessing's, between two of them by a straight line.

    Infinity where it is not reached.
    """
    before = 0.1  # Of guessing.
    for epoch, accuracy in enumerate(trial.accuracies, start=1):
        if accuracy >= target:
            return epoch - (accuracy - target) / (accuracy - before)
        before = accuracy
    return math.inf


def _curves(fastest: dict[str, list[Seen]]) -> Figure:
    all_trials = [trial for group in fastest.values() for trial in group]
    longest = max(len(trial.accuracies) for trial in all_trials)
    chart = Chart(
        axis.linear("epoch", [longest], low=0, is_whole=True),
        axis.linear("validation accuracy", [0, 1], low=0, high=1, is_share=True),
    )
    marks = [
        chart.line(list(enumerate(trial.accuracies, start=1)), number)
        for number, group in enumerate(fastest.values())
        for trial in group
    ]
    names = [f"{name}, rate {group[0].values[_RATE]:g}" for name, group in fastest.items()]
    caption = "Each activation at its best learning rate, one line a seed."
    return Figure("How fast they learn", chart.drawn(caption, marks), caption, names)
