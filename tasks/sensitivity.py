"""Input sensitivity: how often a prediction changes when one patch of the image is noised.

After Vasudeva et al., "Transformers Learn Low Sensitivity Functions" (ICLR 2025), Definition 4.1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Generator, Tensor, nn

from sensweep.tasks.api import Context, Measurement, TaskError, measure
from sensweep.tasks.evaluation import evaluating, predictions
from sensweep.tasks.isolation import isolated
from sensweep.tasks.params.sensitivity import SensitivityParams
from sensweep.tasks.subject import subject


def sensitivity(params: Mapping[str, object], context: Context) -> Iterator[Measurement]:
    """Yield `sensitivity` of one checkpoint for each noise size, and its `accuracy`.

    `sensitivity` has coordinates sigma (standard deviation, pixels in [0, 1]) and split, and is
    in [0, 1]. `accuracy`, on the same images, is there for comparisons at matched accuracy. The
    scattered variant is called `scattered_sensitivity`. Noise depends on the seed alone: every
    model of a seed meets the same draws, and every noise size the same draws, scaled.

    Raises:
        TaskError: no single checkpoint, or a patch larger than the images.
    """
    p = SensitivityParams.model_validate(params)
    generator = torch.Generator().manual_seed(context.stream("sensitivity"))
    # Nothing here draws from the global generators; isolation is for threads and determinism.
    with isolated(context.device, context.threads, context.stream("sensitivity")):
        model, (x, y), step = subject(context, p.split, p.images)
        model.to(memory_format=torch.channels_last)  # convolutions on a CPU are up to 2x faster
        if p.patch > min(x.shape[2:]):
            raise TaskError(
                f"patch: {p.patch} is larger than the images, which are "
                f"{x.shape[2]}x{x.shape[3]}; wanted 1 to {min(x.shape[2:])}"
            )
        correct = predictions(model, x, p.batch_size) == y
        name, estimate = {
            "patch": ("sensitivity", partial(patch_sensitivity, patch=p.patch)),
            "scattered": (
                "scattered_sensitivity",
                partial(scattered_sensitivity, pixels=p.patch**2),
            ),
        }[p.variant]
        values = estimate(
            model,
            x,
            sigmas=p.sigmas,
            draws=p.draws,
            generator=generator,
            clamp=p.clamp,
            batch_size=p.batch_size,
        )
    yield measure("accuracy", correct.double().mean().item(), step=step, split=p.split)
    for sigma, value in zip(p.sigmas, values, strict=True):
        yield measure(name, value.mean().item(), step=step, sigma=sigma, split=p.split)


def patch_sensitivity(
    model: nn.Module,
    images: Tensor,
    *,
    sigmas: Sequence[float],
    patch: int,
    draws: int,
    generator: Generator,
    clamp: bool = False,
    batch_size: int = 256,
) -> Tensor:
    """Estimate, for each patch, the probability that noise on it alone changes the prediction.

    The image is cut into contiguous squares that cover it once; where `patch` does not divide a
    side, the last ones are narrower. The mean over patches is the sensitivity of Definition 4.1,
    mean over images and patches of Pr[argmax model(x) != argmax model(x + noise on the patch)].

    Args:
        model: from [N, C, H, W] to logits; examined in eval mode and left as it was.
        images: [N, C, H, W], pixel values in [0, 1].
        sigmas: standard deviations of the Gaussian noise, in the same unit. All share the draws.
        patch: side of a patch in pixels.
        draws: draws for each image and patch.
        generator: a CPU generator, so that all devices see the same noise.
        clamp: keep perturbed pixels within [0, 1].
        batch_size: perturbed images in one forward pass.

    Returns:
        float64 [len(sigmas), ceil(H / patch), ceil(W / patch)], each in [0, 1];
        NaN if the model gives NaN on an image.
    """
    count, _, height, width = images.shape
    rows, columns = -(-height // patch), -(-width // patch)
    number = torch.arange(height)[:, None] // patch * columns + torch.arange(width) // patch
    masks = number == torch.arange(rows * columns)[:, None, None, None]  # [patches, 1, H, W]
    masks = masks.to(images.device)
    clean = predictions(model, images, batch_size)
    flips = torch.zeros(len(sigmas), len(masks), dtype=torch.int64, device=images.device)
    pairs = torch.arange(count * len(masks), device=images.device)
    with evaluating(model):
        for _ in range(draws):
            # Patches do not overlap, so one draw of the whole image serves all of them.
            noise = torch.randn(images.shape, generator=generator).to(images)
            for part in pairs.split(batch_size):
                image, where = part // len(masks), part % len(masks)
                base, change = images[image], noise[image] * masks[where]
                for size, sigma in enumerate(sigmas):
                    moved = torch.add(base, change, alpha=sigma)
                    moved = moved.clamp_(0, 1) if clamp else moved
                    flipped = model(moved).argmax(1) != clean[image]
                    flips[size].index_add_(0, where, flipped.long())
    # A model without predictions has no sensitivity: without this, a diverged one would have 0.
    total = count * draws if (clean >= 0).all() else math.nan
    return flips.double().view(len(sigmas), rows, columns).cpu() / total


def scattered_sensitivity(
    model: nn.Module,
    images: Tensor,
    *,
    sigmas: Sequence[float],
    pixels: int,
    draws: int,
    generator: Generator,
    clamp: bool = False,
    batch_size: int = 256,
) -> Tensor:
    """Estimate the probability that noise on scattered pixels changes the prediction.

    This is what the paper's released CIFAR code computes, kept for comparison only: each draw
    picks `pixels` positions with replacement (16 there), the same for all images. Its noise has
    standard deviation 0.1 with pixel values in [-1, 1], which is 0.05 in the unit of `sigmas`.

    Args:
        model: from [N, C, H, W] to logits; examined in eval mode and left as it was.
        images: [N, C, H, W], pixel values in [0, 1].
        sigmas: standard deviations of the Gaussian noise, in the same unit. All share the draws.
        pixels: positions picked in a draw.
        draws: draws of positions and noise.
        generator: a CPU generator, so that all devices see the same noise.
        clamp: keep perturbed pixels within [0, 1].
        batch_size: perturbed images in one forward pass.

    Returns:
        float64 [len(sigmas)], each in [0, 1]; NaN if the model gives NaN on an image.
    """
    height, width = images.shape[2:]
    clean = predictions(model, images, batch_size)
    flips = torch.zeros(len(sigmas), dtype=torch.float64)
    for _ in range(draws):
        mask = torch.zeros(height, width)
        row = torch.randint(height, (pixels,), generator=generator)
        column = torch.randint(width, (pixels,), generator=generator)
        mask[row, column] = 1
        change = (torch.randn(images.shape, generator=generator) * mask).to(images)
        for size, sigma in enumerate(sigmas):
            moved = images + sigma * change
            moved = moved.clamp_(0, 1) if clamp else moved
            flips[size] += (predictions(model, moved, batch_size) != clean).sum().cpu()
    return flips / (len(images) * draws if (clean >= 0).all() else math.nan)
