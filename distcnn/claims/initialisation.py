"""Batch norm against weights that begin too small or too large."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from distcnn.charts import axis
from distcnn.charts.chart import Figure
from distcnn.claims.claim import Seen, Spread, Verdict, grouped
from distcnn.claims.figures import over

if TYPE_CHECKING:
    from distcnn.claims.subject import Subject

CLAIM = "Batch normalisation saves a network from an improper initialisation."
FIELDS = _NORM, _SCALE = "model.batch_norm", "model.initial_scale"
# What counts as saved, and as in need of it: points of accuracy below the best scale.
_SAVED, _LOST = 0.05, 0.1


def measure(subject: Subject) -> dict[str, Any]:
    """Nothing more: the accuracy tells."""
    return {}


def judge(trials: Sequence[Seen]) -> Verdict:
    """Compare over all scales what is lost against the best one, with batch norm and without."""
    groups = grouped(trials, lambda trial: (bool(trial.values[_NORM]), float(trial.values[_SCALE])))
    accuracy = {key: Spread.of(max(t.accuracies) for t in group) for key, group in groups.items()}
    with_, without = (
        {scale: each.median for (norm, scale), each in accuracy.items() if norm is wanted}
        for wanted in (True, False)
    )
    in_both = with_.keys() & without
    if len(in_both) < 2:
        return Verdict("open", "Not both kinds have been tried at two scales.")
    with_, without = ({scale: each[scale] for scale in in_both} for each in (with_, without))
    lost_with, lost_without = (max(each.values()) - min(each.values()) for each in (with_, without))
    worst = min(without, key=lambda scale: without[scale])
    sentence = (
        f"Over weights {min(with_):g} to {max(with_):g} times their usual size, accuracy differs by"
        f" {100 * lost_with:.1f} points with batch norm and by {100 * lost_without:.1f} without; at"
        f" {worst:g} times it is {accuracy[True, worst].percent} with, and"
        f" {accuracy[False, worst].percent} without."
    )
    if lost_with <= _SAVED and lost_without >= _LOST:
        holds = "yes"
    else:
        holds = "partly" if lost_with < lost_without else "no"
    return Verdict(holds, sentence, [_curves(accuracy)])


def _curves(accuracy: dict[tuple[bool, float], Spread]) -> Figure:
    return over(
        "Over initialisations",
        axis.logarithmic("scale of the initial weights", [scale for _, scale in accuracy]),
        axis.linear("validation accuracy", [0, 1], low=0, high=1, is_share=True),
        {
            ("with batch norm" if norm else "without", scale): each
            for (norm, scale), each in accuracy.items()
        },
        "Best validation accuracy.",
    )
