"""How each intervention changes the training loss: a table from its name to a function.

A row is a function ``(model, x, y, spec, criterion, noise) -> loss`` that is called once a step:

- model: maps images in [0, 1] to logits; in train mode.
- x: float32 [B, C, H, W] in [0, 1]; y: int64 [B]. Not to be changed in place.
- spec: the intervention's strength and options (`sensweep.tasks.params.interventions`).
- criterion: (logits [B, K], y) -> mean cross-entropy in nats.
- noise: the only generator to draw from. Its stream is the same under every intervention, and
  apart from those of initialisation and data order, so that trials that differ in intervention
  alone are paired.
- loss: a scalar whose gradient the optimiser follows.

A row may look at the model's weights (a decay), call the model on a batch of its own making
(adversarial training), or at shifted weights by `torch.func.functional_call` (SAM).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from sensweep.tasks.api import TaskError
from sensweep.tasks.params.interventions import (
    INTERVENTIONS,
    NoIntervention,
    NoiseAugmentation,
    SensitivityPenalty,
)

Criterion = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def none(
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    spec: NoIntervention,
    criterion: Criterion,
    noise: torch.Generator,
) -> torch.Tensor:
    """Cross-entropy of the images as they are."""
    return criterion(model(x), y)


def noise_augmentation(
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    spec: NoiseAugmentation,
    criterion: Criterion,
    noise: torch.Generator,
) -> torch.Tensor:
    """Cross-entropy of images with Gaussian noise on every pixel; see `NoiseAugmentation`."""
    noised = torch.rand(len(x), 1, 1, 1, generator=noise, device=x.device) < spec.probability
    added = torch.randn(x.shape, generator=noise, device=x.device) * spec.strength
    return criterion(model(x + noised * added), y)


def sensitivity_penalty(
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    spec: SensitivityPenalty,
    criterion: Criterion,
    noise: torch.Generator,
) -> torch.Tensor:
    """(1 - p) * CE(logits(x), y) + p * MSE(logits(x~), logits(x)); see `SensitivityPenalty`.

    x~ is x with ``spec.noise`` * N(0, 1) added to one patch of each image, its place drawn
    uniformly from all that lie within the image, anew for each image. The gradient flows through
    both logits, the clean ones too.
    """
    added = torch.randn(x.shape, generator=noise, device=x.device) * spec.noise
    perturbed = x + random_patches(x.shape, spec.patch, noise, x.device) * added
    clean = model(x)
    penalty = F.mse_loss(model(perturbed), clean)
    return (1 - spec.strength) * criterion(clean, y) + spec.strength * penalty


def random_patches(
    shape: torch.Size, side: int, generator: torch.Generator, device: torch.device
) -> torch.Tensor:
    """Mark one `side` x `side` patch in each image, placed uniformly: bool [B, 1, H, W].

    Raises:
        TaskError: the patch is larger than the images [B, C, H, W].
    """
    batch, _, height, width = shape
    if side > min(height, width):
        raise TaskError(
            f"patch={side} is larger than the images of {height}x{width}; "
            f"give {{name: sensitivity_penalty, patch: n}} with n at most {min(height, width)}"
        )

    def stripe(length: int) -> torch.Tensor:
        start = torch.randint(length - side + 1, (batch, 1), generator=generator, device=device)
        offset = torch.arange(length, device=device) - start
        return (offset >= 0) & (offset < side)

    return stripe(height)[:, None, :, None] & stripe(width)[:, None, None, :]


LOSSES: dict[str, Callable[..., torch.Tensor]] = {
    "none": none,
    "noise_augmentation": noise_augmentation,
    "sensitivity_penalty": sensitivity_penalty,
}
assert LOSSES.keys() == INTERVENTIONS.keys()
