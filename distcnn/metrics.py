"""What an evaluation measures, as torchmetrics objects: sums and counts, never means of means."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torchmetrics import MeanMetric
from torchmetrics.classification import (
    MulticlassCalibrationError,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
)

# The usual number of confidence bins (Guo et al., 2017).
_NUM_CALIBRATION_BINS = 15
# The largest float32 below 1.
_BELOW_1 = 1 - 2**-24


class EvaluationMetrics(nn.Module):
    """Collects batches of class probabilities; every sample counts once.

    Of several workers, each counts all samples: the objects' own ways to exchange what they have
    counted are switched off, since sums of parts differ in the last digit by the number of parts.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        alike: dict[str, Any] = {"validate_args": False, "sync_on_compute": False}
        self.loss = MeanMetric(sync_on_compute=False)
        self.macro_f1 = MulticlassF1Score(num_classes, average="macro", **alike)
        self.confusion = MulticlassConfusionMatrix(num_classes, **alike)
        self.calibration_error = MulticlassCalibrationError(
            num_classes, n_bins=_NUM_CALIBRATION_BINS, norm="l1", **alike
        )

    def update(self, probabilities: torch.Tensor, labels: torch.Tensor) -> None:
        """Count a batch: probabilities `(n, classes)`, labels `(n,)`."""
        log_probabilities = probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()
        losses = functional.nll_loss(log_probabilities, labels, reduction="none")
        self.loss.update(losses)
        for metric in (self.confusion, self.macro_f1):
            metric.update(probabilities, labels)
        # torchmetrics would give a confidence of exactly 1 a bin of its own.
        self.calibration_error.update(probabilities.clamp_max(_BELOW_1), labels)

    def compute(self) -> dict[str, Any]:
        """All measures as plain numbers, ready for JSON.

        `confusion[i][j]` counts the samples of class i that were taken for class j. The accuracy
        of a class without samples is None.
        """
        # Accuracies from the counts, so that they are exact to the last digit.
        confusion = self.confusion.compute().double()
        correct = confusion.diagonal()
        counts = confusion.sum(dim=1)
        return {
            "accuracy": (correct.sum() / confusion.sum()).item(),
            "loss": self.loss.compute().item(),
            "macro_f1": self.macro_f1.compute().item(),
            "calibration_error": self.calibration_error.compute().item(),
            "per_class_accuracy": [
                right / count if count else None
                for right, count in zip(correct.tolist(), counts.tolist(), strict=True)
            ],
            "confusion": confusion.long().tolist(),
            "num_samples": int(confusion.sum()),
        }

    def reset(self) -> None:
        """Begin anew."""
        for metric in (self.loss, self.confusion, self.macro_f1, self.calibration_error):
            metric.reset()
