"""All-positive activations: whether gradients share their signs, and steps turn back and forth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from distcnn.charts import axis
from distcnn.charts.chart import Figure
from distcnn.claims.claim import Seen, Spread, Verdict, grouped
from distcnn.claims.figures import ends_of, over

if TYPE_CHECKING:
    import torch

    from distcnn.claims.subject import Subject

CLAIM = (
    "Where all activations are positive, the gradients of a unit's weights all have one sign, and"
    " the steps zig-zag."
)
FIELDS = _ACTIVATION, _RATE = "model.activation", "optimizer.lr"
_NUM_STEPS = 60
_BATCH_SIZE = 64


def measure(subject: Subject) -> dict[str, Any]:
    """From a fresh network: how alike in sign a unit's gradients are, and how steps turn.

    Plain gradient descent of the weights, at the trial's learning rate, the biases left as they
    are; over images of the validation split, which nothing is chosen by here.
    """
    import torch

    from distcnn.claims.subject import gradients

    network = subject.fresh().train()
    steps: list[torch.Tensor] = []
    agreements: list[float] = []
    for number in range(_NUM_STEPS):
        start = number * _BATCH_SIZE % max(1, len(subject.images) - _BATCH_SIZE + 1)
        batch = slice(start, start + _BATCH_SIZE)
        found = gradients(network, subject.images[batch], subject.labels[batch])
        agreements.append(_agreement(found["fc"]))
        steps.append(found["fc"].flatten())
        with torch.no_grad():
            for name, gradient in found.items():
                weight = network.get_parameter(f"{name}.weight")
                weight -= subject.config.optimizer.lr * gradient
    cosines = [
        float(torch.cosine_similarity(one, following, dim=0)) for one, following in pairwise(steps)
    ]
    return {
        "agreement": sum(agreements) / len(agreements),
        "turns": sum(cosine < 0 for cosine in cosines) / len(cosines),
    }


def _agreement(gradient: torch.Tensor) -> float:
    """Of the rows of a gradient, one a unit: how far all entries share a sign, 0 to 1."""
    return float((gradient.sum(dim=1).abs() / gradient.abs().sum(dim=1).clamp_min(1e-30)).mean())


def judge(trials: Sequence[Seen]) -> Verdict:
    """Compare sigmoid, all of whose outputs are positive, with tanh, centred on 0.

    Steps are compared at each learning rate by itself: near the largest that an activation bears,
    they turn back and forth for that reason alone.
    """
    groups = grouped(trials, lambda trial: (trial.values[_ACTIVATION], float(trial.values[_RATE])))
    rates = sorted(rate for name, rate in groups if name == "sigmoid" and ("tanh", rate) in groups)
    if not rates:
        return Verdict("open", "Sigmoid and tanh have not been tried at one learning rate yet.")
    agreement = {name: _of_all(trials, name) for name in ("sigmoid", "tanh")}
    turns = {key: _spread(group, "turns") for key, group in groups.items()}
    turning = [
        rate for rate in rates if turns["sigmoid", rate].median > turns["tanh", rate].median + 0.02
    ]
    compared = "; ".join(
        f"at {rate:g} {turns['sigmoid', rate].percent} and {turns['tanh', rate].percent}"
        for rate in rates
    )
    sentence = (
        f"A unit's gradients share their sign to {agreement['sigmoid'].percent} after sigmoid and"
        f" to {agreement['tanh'].percent} after tanh. Of the steps, so many turn against the one"
        f" before, by learning rate: {compared}."
    )
    figures = [
        _by_rate(groups, "agreement", "One sign", "How far the gradients of a unit share a sign."),
        _by_rate(groups, "turns", "Turns", "Share of steps that go against the one before."),
    ]
    one_sign = agreement["sigmoid"].median > agreement["tanh"].median + 0.1
    if one_sign and turning == rates:
        return Verdict("yes", sentence, figures)
    return Verdict("partly" if one_sign or turning else "no", sentence, figures)


def _of_all(trials: Sequence[Seen], activation: str) -> Spread:
    chosen = [trial for trial in trials if trial.values[_ACTIVATION] == activation]
    return _spread(chosen, "agreement")


def _spread(trials: Sequence[Seen], name: str) -> Spread:
    return Spread.of(trial.measures[name] for trial in trials)


def _by_rate(
    groups: Mapping[tuple[str, float], Sequence[Seen]], name: str, heading: str, caption: str
) -> Figure:
    spreads = {key: _spread(group, name) for key, group in groups.items()}
    return over(
        heading,
        axis.logarithmic("learning rate", [rate for _, rate in spreads]),
        axis.linear("share", [0, *ends_of(spreads)], low=0, is_share=True),
        spreads,
        caption,
    )
