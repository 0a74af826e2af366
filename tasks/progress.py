"""Whether a measure rises and falls again while a training goes from fitting to generalising.

Vasudeva et al. (ICLR 2025) call sensitivity a progress measure for grokking: after the training
data are fitted it rises and then falls, before or with the rise of the test accuracy, while the
weight norm only decreases. The numbers here say both of any measure.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import median

import torch
from torch import nn

from sensweep.tasks.api import Measurement, measure

# Train accuracy from which on the training data count as fitted.
FITTED = 0.99


def weight_norm(model: nn.Module) -> float:
    """Return the L2 norm of all trainable weights together."""
    weights = [w.detach().flatten() for w in model.parameters() if w.requires_grad]
    return torch.cat(weights).norm().item()


def bump(values: Sequence[float]) -> tuple[float, int]:
    """Return the size of the largest rise and fall of a series, and the place of its peak.

    The size is the largest, over places t, of
    min(v_t - min(v_0 .. v_t), v_t - min(v_t .. v_end)) / max(v): the lower of the climb to t and
    the descent from it, as a fraction of the largest value. It is in [0, 1] for values that are
    not negative, and 0 exactly where the series never rises before it falls (a monotone one).
    Noise alone gives a small positive size, so it is to be compared with a margin.
    """
    if not values or max(values) <= 0:
        return 0.0, 0
    sizes, lowest_after = [], math.inf
    for value in reversed(values):
        lowest_after = min(lowest_after, value)
        sizes.append(value - lowest_after)
    sizes.reverse()
    lowest = math.inf
    for place, value in enumerate(values):
        lowest = min(lowest, value)
        sizes[place] = min(sizes[place], value - lowest)
    peak = max(range(len(values)), key=sizes.__getitem__)
    return sizes[peak] / max(values), peak


def progress_rows(history: Sequence[Sequence[float]]) -> Iterator[Measurement]:
    """Yield what the course of sensitivity and weight norm amounts to.

    For each measure (coordinate measure: sensitivity, weight_norm), of the epochs from the first
    one on at which the train accuracy was at least 0.99:

    - ``bump``: the size of its largest rise and fall (`bump`).
    - ``peak_epoch``: the epoch of that peak, where there is one.
    - ``fall_epoch``: the first epoch after the peak at which the measure has come down half of
      the way from the peak to its lowest value after it.
    - ``falling_loss``: the median train loss (nats) of the epochs from the one to the other: by
      how much the training data still were misfitted while the measure fell.

    And ``fitted_epoch``, the first of those epochs. Nothing if the data were never fitted.

    Args:
        history: rows of (epoch, train accuracy, train loss, sensitivity, weight norm).
    """
    fitted = next((i for i, row in enumerate(history) if row[1] >= FITTED), None)
    if fitted is None:
        return
    after = history[fitted:]
    yield measure("fitted_epoch", after[0][0], unit="step")
    for column, name in ((3, "sensitivity"), (4, "weight_norm")):
        values = [row[column] for row in after]
        size, peak = bump(values)
        yield measure("bump", size, measure=name)
        if size > 0:
            halfway = (values[peak] + min(values[peak:])) / 2
            fallen = next(i for i in range(peak, len(values)) if values[i] <= halfway)
            yield measure("peak_epoch", after[peak][0], unit="step", measure=name)
            yield measure("fall_epoch", after[fallen][0], unit="step", measure=name)
            losses = [row[2] for row in after[peak : fallen + 1]]
            yield measure("falling_loss", median(losses), unit="nats", measure=name)
