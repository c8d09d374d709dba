"""Pooling against shifted images: what each kind keeps of the accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from distcnn.charts import axis
from distcnn.charts.chart import Figure
from distcnn.claims.claim import Seen, Spread, Verdict, grouped
from distcnn.claims.figures import over

if TYPE_CHECKING:
    import torch

    from distcnn.claims.subject import Subject

CLAIM = "Pooling gives some invariance to translation, whichever of the four kinds it is."
FIELDS = _POOLING, _SIZE = "model.pooling", "model.pool_size"
_SHIFTS = (0, 1, 2, 3, 4)
# At which the kinds are compared.
_LOOKED_AT = 2
_NONE = "no pooling"


def measure(subject: Subject) -> dict[str, Any]:
    """The accuracy on images that are shifted by so many pixels, over the four directions."""
    import torch

    kept: list[float] = []
    with torch.inference_mode():
        for pixels in _SHIFTS:
            right = [
                float((subject.network(moved).argmax(dim=1) == subject.labels).float().mean())
                for moved in _moved(subject.images, pixels)
            ]
            kept.append(sum(right) / len(right))
    return {"shifts": list(_SHIFTS), "accuracy": kept}


def _moved(images: torch.Tensor, pixels: int) -> list[torch.Tensor]:
    """Left, right, up and down, zeros coming in; the images themselves for 0."""
    from torch.nn.functional import pad

    if pixels == 0:
        return [images]
    height, width = images.shape[-2:]
    padded = pad(images, (pixels, pixels, pixels, pixels))
    offsets = [(0, pixels), (2 * pixels, pixels), (pixels, 0), (pixels, 2 * pixels)]
    return [padded[..., top : top + height, left : left + width] for top, left in offsets]


def judge(trials: Sequence[Seen]) -> Verdict:
    """Compare each kind with no pooling, by the share of its accuracy that a shift leaves."""
    kinds = grouped(trials, _kind)
    if _NONE not in kinds or len(kinds) < 2:
        return Verdict("open", "Pooling and no pooling have not both been tried.")
    # But for rounding, one network whatever the kind of its windows: it counts once for each seed.
    kinds[_NONE] = max(
        grouped(kinds[_NONE], lambda trial: trial.values[_POOLING]).values(), key=len
    )
    kept = {kind: Spread.of(map(_kept, group)) for kind, group in kinds.items()}
    without = kept.pop(_NONE)
    better = [kind for kind, each in kept.items() if each.low > without.high]
    worse = [kind for kind, each in kept.items() if each.median <= without.median]
    told = ", ".join(f"{kind} {each.percent}" for kind, each in kept.items())
    sentence = (
        f"Of its accuracy, a shift by {_LOOKED_AT} pixels leaves {without.percent} without pooling;"
        f" {told}."
    )
    figures = [_curves(kinds)]
    if len(better) == len(kept):
        return Verdict("yes", sentence, figures)
    return Verdict("no" if len(worse) == len(kept) else "partly", sentence, figures)


def _kind(trial: Seen) -> str:
    return trial.values[_POOLING] if trial.values[_SIZE] > 1 else _NONE


def _kept(trial: Seen) -> float:
    accuracy = trial.measures["accuracy"]
    return accuracy[trial.measures["shifts"].index(_LOOKED_AT)] / accuracy[0]


def _curves(kinds: dict[str, list[Seen]]) -> Figure:
    return over(
        "Shifted images",
        axis.linear("shift in pixels", _SHIFTS, low=0, is_whole=True),
        axis.linear("validation accuracy", [0, 1], low=0, high=1, is_share=True),
        {
            (kind, shift): Spread.of(trial.measures["accuracy"][index] for trial in group)
            for kind, group in kinds.items()
            for index, shift in enumerate(_SHIFTS)
        },
        "Accuracy on shifted validation images, averaged over four directions.",
    )
