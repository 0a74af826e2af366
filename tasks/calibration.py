"""Calibration: does a model's confidence equal its accuracy?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sensweep.tasks.api import Context, Measurement, measure
from sensweep.tasks.evaluation import logits
from sensweep.tasks.isolation import isolated
from sensweep.tasks.params.calibration import CalibrationParams
from sensweep.tasks.subject import subject


def calibration(params: Mapping[str, object], context: Context) -> Iterator[Measurement]:
    """Yield `ece`, `signed_ece`, `confidence`, `accuracy` and `nll` (nats) of one checkpoint.

    With `diagram`, also `bin_fraction` of each bin, and `bin_confidence` and `bin_accuracy` of
    those that are not empty; their coordinate bin is the bin's upper end.

    Raises:
        TaskError: no single checkpoint.
    """
    p = CalibrationParams.model_validate(params)
    with isolated(context.device, context.threads, context.stream("calibration")):
        model, (x, y), step = subject(context, p.split, p.images)
        scores = logits(model, x, p.batch_size).double()
        confidence, predicted = scores.softmax(1).max(1)
        correct = predicted == y
        bins = reliability(confidence, correct, p.bins)
        nll = F.cross_entropy(scores, y).item()
    yield measure("ece", bins.ece, step=step)
    yield measure("signed_ece", bins.signed_ece, step=step)
    yield measure("confidence", confidence.mean().item(), step=step)
    yield measure("accuracy", correct.double().mean().item(), step=step)
    yield measure("nll", nll, step=step, unit="nats")
    if not p.diagram:
        return
    for index, fraction in enumerate(bins.fraction.tolist()):
        upper = (index + 1) / p.bins
        yield measure("bin_fraction", fraction, step=step, bin=upper)
        if fraction > 0:
            yield measure("bin_confidence", bins.confidence[index].item(), step=step, bin=upper)
            yield measure("bin_accuracy", bins.accuracy[index].item(), step=step, bin=upper)


class Reliability(NamedTuple):
    """The bins of a reliability diagram.

    Attributes:
        fraction: float64 [bins], share of the predictions that fall into each bin (P).
        confidence: float64 [bins], their mean confidence (c); NaN in an empty bin.
        accuracy: float64 [bins], the share of them that are correct (o); NaN in an empty bin.
    """

    fraction: Tensor
    confidence: Tensor
    accuracy: Tensor

    @property
    def ece(self) -> float:
        """Expected calibration error, sum of P |o - c|; in [0, 1]."""
        return (self.fraction * self._gap.abs()).sum().item()

    @property
    def signed_ece(self) -> float:
        """Sum of P (o - c), in [-1, 1]: above 0 underconfident, below 0 overconfident."""
        return (self.fraction * self._gap).sum().item()

    @property
    def _gap(self) -> Tensor:
        # Empty bins count nothing; NaN in a filled one is a NaN prediction, and stays.
        return torch.where(self.fraction > 0, self.accuracy - self.confidence, 0.0)


def reliability(confidence: Tensor, correct: Tensor, bins: int) -> Reliability:
    """Sort predictions by confidence into bins of equal width.

    After Guo et al., "On Calibration of Modern Neural Networks" (ICML 2017): bin i of M holds
    confidences in ((i - 1) / M, i / M]. The signed error is that of Kim et al.'s released code.

    Args:
        confidence: [N], the largest probability of each prediction, in (0, 1].
        correct: bool [N].
        bins: their number.
    """
    confidence = confidence.double().cpu()
    upper = torch.arange(1, bins + 1, dtype=torch.float64) / bins
    # A sum of rounded probabilities may put a confidence just above 1.
    index = torch.bucketize(confidence, upper).clamp(max=bins - 1)
    counts = torch.bincount(index, minlength=bins).double()
    confident = torch.bincount(index, weights=confidence, minlength=bins)
    right = torch.bincount(index, weights=correct.double().cpu(), minlength=bins)
    return Reliability(counts / counts.sum(), confident / counts, right / counts)
