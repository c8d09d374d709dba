"""ReLU under large learning rates: how many units are 0 for every image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from distcnn.charts import axis
from distcnn.charts.chart import Figure
from distcnn.claims.claim import Seen, Spread, Verdict, grouped
from distcnn.claims.figures import over

if TYPE_CHECKING:
    from distcnn.claims.subject import Subject

CLAIM = "Under a large learning rate ReLU units die: they give 0 for every image, and stay so."
_RATE = "optimizer.lr"
FIELDS = (_RATE,)
_MANY, _FEW = 0.2, 0.05


def measure(subject: Subject) -> dict[str, Any]:
    """The share of kernels whose map is 0 everywhere, on all images, after each ReLU."""
    from distcnn.claims.subject import outputs

    found = outputs(subject.network, subject.images)
    return {
        "dead": {
            name.replace("activation", "block "): float(
                (maps.amax(dim=(0, 2, 3)) <= 0).float().mean()
            )
            for name, maps in found.items()
            if name.startswith("activation")
        }
    }


def judge(trials: Sequence[Seen]) -> Verdict:
    """Compare the smallest learning rate with the largest."""
    groups = grouped(trials, lambda trial: float(trial.values[_RATE]))
    if len(groups) < 2:
        return Verdict("open", "Fewer than two learning rates have been tried.")
    dead = {rate: Spread.of(map(_dead, group)) for rate, group in groups.items()}
    low, high = min(dead), max(dead)
    accuracy = {rate: Spread.of(t.accuracies[-1] for t in group) for rate, group in groups.items()}
    sentence = (
        f"At a learning rate of {low:g}, {dead[low].percent} of a layer's kernels are dead, on"
        f" average over the layers; at {high:g}, {dead[high].percent}, and the accuracy is"
        f" {accuracy[high].percent} instead of {accuracy[low].percent}."
    )
    figures = [_shares(groups), _accuracies(accuracy)]
    if dead[high].median >= _MANY and dead[low].median <= _FEW:
        return Verdict("yes", sentence, figures)
    return Verdict("partly" if dead[high].median > dead[low].median else "no", sentence, figures)


def _dead(trial: Seen) -> float:
    """The mean over the layers of the share of each."""
    shares = trial.measures["dead"].values()
    return sum(shares) / len(shares)


def _shares(groups: dict[float, list[Seen]]) -> Figure:
    layers = next(iter(groups.values()))[0].measures["dead"]
    return over(
        "Dead kernels",
        axis.logarithmic("learning rate", groups),
        axis.linear("dead kernels", [0, 1], low=0, high=1, is_share=True),
        {
            (layer, rate): Spread.of(trial.measures["dead"][layer] for trial in group)
            for layer in layers
            for rate, group in groups.items()
        },
        "Share of kernels whose map is 0 everywhere, on every validation image looked at.",
    )


def _accuracies(accuracy: dict[float, Spread]) -> Figure:
    return over(
        "Accuracy",
        axis.logarithmic("learning rate", accuracy),
        axis.linear("validation accuracy", [0, 1], low=0, high=1, is_share=True),
        {("", rate): each for rate, each in accuracy.items()},
        "What is left of the accuracy.",
    )
