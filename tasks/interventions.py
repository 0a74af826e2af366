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
from torch.func import functional_call
from torch.nn import functional as F

from sensweep.tasks.api import TaskError
from sensweep.tasks.params.interventions import (
    INTERVENTIONS,
    AdversarialTraining,
    NoIntervention,
    NoiseAugmentation,
    SensitivityPenalty,
    SharpnessAware,
    WeightDecay,
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


def weight_decay(
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    spec: WeightDecay,
    criterion: Criterion,
    noise: torch.Generator,
) -> torch.Tensor:
    """CE + strength / 2 * the sum of all trained weights' squares; see `WeightDecay`."""
    squares = [w.square().sum() for w in model.parameters() if w.requires_grad]
    return criterion(model(x), y) + spec.strength / 2 * torch.stack(squares).sum()


def sam(
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    spec: SharpnessAware,
    criterion: Criterion,
    noise: torch.Generator,
) -> torch.Tensor:
    """Cross-entropy at the weights w + rho * g / |g|; see `SharpnessAware`.

    The shift counts as constant, so the gradient at w is the one at the shifted weights. Running
    statistics (batch normalisation) are those of the first pass, at w; dropout draws anew.
    """
    weights = {name: w for name, w in model.named_parameters() if w.requires_grad}
    loss = criterion(model(x), y)
    gradients = torch.autograd.grad(loss, list(weights.values()), materialize_grads=True)
    norm = torch.stack([g.norm() for g in gradients]).norm()
    scale = spec.strength / norm.clamp_min(1e-12)
    shifted = {name: w + scale * g for (name, w), g in zip(weights.items(), gradients, strict=True)}
    spare = {name: buffer.clone() for name, buffer in model.named_buffers()}
    return criterion(functional_call(model, {**shifted, **spare}, (x,)), y)


def adversarial_training(
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    spec: AdversarialTraining,
    criterion: Criterion,
    noise: torch.Generator,
) -> torch.Tensor:
    """Cross-entropy of the images after an attack on the model; see `AdversarialTraining`."""
    return criterion(model(attacked(model, x, y, spec, noise)), y)


def attacked(
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    spec: AdversarialTraining,
    noise: torch.Generator,
) -> torch.Tensor:
    """Move each image to where the cross-entropy is high: [B, C, H, W] in [0, 1].

    In the loop of a training, for which a library's attack, with its way through numpy, is too
    slow; the same attacks as `robustness` makes with the library (Goodfellow et al., ICLR 2015;
    Madry et al., ICLR 2018).
    """
    epsilon = spec.strength
    steps, size = (
        (1, epsilon) if spec.attack == "fgsm" else (spec.steps, 2.5 * epsilon / spec.steps)
    )
    moved = x
    if spec.attack == "pgd":
        start = torch.rand(x.shape, generator=noise, device=x.device) * 2 - 1
        moved = (x + epsilon * start).clamp(0, 1)
    training = [module for module in model.modules() if module.training]
    model.eval()
    for _ in range(steps):
        moved = moved.detach().requires_grad_()
        # Summed, so that an image's gradient does not depend on how many others there are.
        loss = F.cross_entropy(model(moved), y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, moved)
        moved = moved.detach() + size * gradient.sign()
        moved = torch.minimum(torch.maximum(moved, x - epsilon), x + epsilon).clamp(0, 1)
    for module in training:
        module.training = True
    return moved


LOSSES: dict[str, Callable[..., torch.Tensor]] = {
    "none": none,
    "noise_augmentation": noise_augmentation,
    "sensitivity_penalty": sensitivity_penalty,
    "weight_decay": weight_decay,
    "sam": sam,
    "adversarial_training": adversarial_training,
}
assert LOSSES.keys() == INTERVENTIONS.keys()
