"""Sigmoid in its tails: how much of the gradient comes through to the first layer."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from distcnn.charts import axis
from distcnn.charts.chart import Figure
from distcnn.claims.claim import Seen, Spread, Verdict, grouped
from distcnn.claims.figures import ends_of, over

if TYPE_CHECKING:
    from distcnn.claims.subject import Subject

CLAIM = "Where sigmoid is saturated, in its tails, its gradient dies, and with it the learning."
FIELDS = _ACTIVATION, _SCALE = "model.activation", "model.initial_scale"
_NUM_IMAGES = 512
# Beyond this, sigmoid's slope is below 0.018, a fourteenth of its greatest.
_TAIL = 4.0
_DEAD = 0.1


def measure(subject: Subject) -> dict[str, Any]:
    """At the start: the gradient of each layer's weights, and the share of units in a tail."""
    from distcnn.claims.subject import gradients, outputs

    network = subject.fresh()
    images, labels = subject.images[:_NUM_IMAGES], subject.labels[:_NUM_IMAGES]
    found = gradients(network, images, labels)
    before_activation = [
        values
        for (name, _), values in zip(
            list(network.named_children())[1:], outputs(network, images).values(), strict=False
        )
        if name.startswith("activation")
    ]
    return {
        "gradient_norms": {name: float(each.norm()) for name, each in found.items()},
        "tails": [float((each.abs() > _TAIL).float().mean()) for each in before_activation],
    }


def judge(trials: Sequence[Seen]) -> Verdict:
    """See what is left of sigmoid's gradient as its inputs are driven into the tails."""
    groups = grouped(trials, lambda trial: (trial.values[_ACTIVATION], trial.values[_SCALE]))
    sigmoid = {scale: group for (name, scale), group in groups.items() if name == "sigmoid"}
    if len(sigmoid) < 2:
        return Verdict("open", "Sigmoid has not been tried at two scales of its weights.")
    figures = [_gradients(groups), _by_layer(sigmoid), _tails(groups)]
    usual, extreme = min(sigmoid), max(sigmoid)
    left = Spread.of(map(_first_gradient, sigmoid[extreme])).median
    of = max(Spread.of(map(_first_gradient, sigmoid[usual])).median, sys.float_info.min)
    tails = Spread.of(trial.measures["tails"][0] for trial in sigmoid[extreme])
    accuracy = {scale: Spread.of(map(_last, group)) for scale, group in sigmoid.items()}
    sentence = (
        f"With weights {extreme:g} times as large, {tails.percent} of sigmoid's first units are in"
        f" a tail, and the gradient of the first convolution is {left / of:.3g} times what it is"
        f" with the usual ones, which pass less of it on themselves; the accuracy is"
        f" {accuracy[extreme].percent} instead of {accuracy[usual].percent}."
    )
    learns_less = accuracy[extreme].median < accuracy[usual].median - 0.02
    if left / of < _DEAD:
        return Verdict("yes" if learns_less else "partly", sentence, figures)
    return Verdict("partly" if learns_less else "no", sentence, figures)


def _first_gradient(trial: Seen) -> float:
    return trial.measures["gradient_norms"]["conv1"]


def _last(trial: Seen) -> float:
    return trial.accuracies[-1]


def _gradients(groups: dict[tuple[str, float], list[Seen]]) -> Figure:
    norms = {key: Spread.of(map(_first_gradient, group)) for key, group in groups.items()}
    return over(
        "What comes through",
        axis.logarithmic("scale of the initial weights", [scale for _, scale in norms]),
        axis.logarithmic("gradient norm, first layer", ends_of(norms)),
        norms,
        "Norm of the gradient of the first convolution's weights before the first step.",
    )


def _by_layer(sigmoid: dict[float, list[Seen]]) -> Figure:
    layers: Sequence[str] = list(next(iter(sigmoid.values()))[0].measures["gradient_norms"])
    norms = {
        (layer, scale): Spread.of(trial.measures["gradient_norms"][layer] for trial in group)
        for layer in layers
        for scale, group in sigmoid.items()
    }
    return over(
        "Sigmoid, layer by layer",
        axis.logarithmic("scale of the initial weights", sigmoid),
        axis.logarithmic("gradient norm", ends_of(norms)),
        norms,
        "Norm of the gradient of each layer's weights before the first step, with sigmoid.",
    )


def _tails(groups: dict[tuple[str, float], list[Seen]]) -> Figure:
    shares = {
        key: Spread.of(trial.measures["tails"][0] for trial in group)
        for key, group in groups.items()
    }
    return over(
        "How many are in a tail",
        axis.logarithmic("scale of the initial weights", [scale for _, scale in shares]),
        axis.linear("share of units", [0, 1], low=0, high=1, is_share=True),
        shares,
        f"Share of the first activation's inputs that are beyond {_TAIL:g} in size.",
    )
