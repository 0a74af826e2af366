"""Sharpness: how much a model's outputs move when all its weights are shaken a little.

After Vasudeva et al., "Transformers Learn Low Sensitivity Functions" (ICLR 2025), as their
released code measures it: by the change of outputs, not by a rise of the loss.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call

from sensweep.tasks.api import Context, Measurement, measure
from sensweep.tasks.evaluation import evaluating, logits
from sensweep.tasks.isolation import isolated
from sensweep.tasks.params.sharpness import SharpnessParams
from sensweep.tasks.subject import subject


def sharpness(params: Mapping[str, object], context: Context) -> Iterator[Measurement]:
    """Yield how far weight noise moves the outputs of one checkpoint, for each noise size.

    `logit_sharpness` (the paper's first definition; in logits) and `flip_sharpness` (the second;
    a fraction) have coordinates noise (``absolute`` or ``relative``), std (its size) and split;
    with ``mode: train`` they are called `train_mode_logit_sharpness` and so on.
    `parameter_norm` is the Euclidean norm of all trained weights, `accuracy` that on the same
    images. Noise depends on the seed and the shapes of the weights alone, and all sizes meet the
    same draws, scaled.

    Raises:
        TaskError: there is not exactly one checkpoint, or it cannot be loaded.
    """
    p = SharpnessParams.model_validate(params)
    sizes = [("absolute", std) for std in p.absolute] + [("relative", std) for std in p.relative]
    generator = torch.Generator().manual_seed(context.stream("sharpness"))
    with isolated(context.device, context.threads, context.stream("sharpness")):
        model, (x, y), step = subject(context, p.split, p.images)
        model.to(memory_format=torch.channels_last)  # convolutions on a CPU are up to 2x faster
        accuracy = (logits(model, x, p.batch_size).argmax(1) == y).double().mean().item()
        norm = math.sqrt(sum(w.double().square().sum().item() for w in model.parameters()))
        values = weight_noise_sharpness(
            model,
            x,
            sizes=sizes,
            draws=p.draws,
            generator=generator,
            train_mode=p.mode == "train",
            batch_size=p.batch_size,
        ).tolist()
    yield measure("accuracy", accuracy, step=step, split=p.split)
    yield measure("parameter_norm", norm, step=step)
    for (noise, std), (moved, flipped) in zip(sizes, values, strict=True):
        there = partial(measure, step=step, noise=noise, std=std, split=p.split)
        prefix = "train_mode_" if p.mode == "train" else ""
        yield there(f"{prefix}logit_sharpness", moved, unit="logits")
        yield there(f"{prefix}flip_sharpness", flipped)


def weight_noise_sharpness(
    model: nn.Module,
    images: Tensor,
    *,
    sizes: list[tuple[str, float]],
    draws: int,
    generator: Generator,
    train_mode: bool = False,
    batch_size: int = 256,
) -> Tensor:
    """Estimate how far Gaussian noise on all weights moves the outputs.

    For weights w and noise e with the standard deviation of `sizes` on each weight, and
    f the logits:

    - mean over images and draws of sum over classes |f(x; w + e) - f(x; w)|,
    - mean over images and draws of [argmax f(x; w + e) != argmax f(x; w)].

    The noised model is in eval mode and has the buffers of the model: dropout is off, and batch
    normalisation uses the same statistics on both sides. In the released code the noised copy is
    in train mode, which alone moves the outputs of models with either: `train_mode`, for
    comparison only.

    Args:
        model: from [N, C, H, W] to logits; examined in eval mode and left as it was.
        images: [N, C, H, W], pixel values in [0, 1].
        sizes: pairs of ``absolute`` and the noise's standard deviation, or of ``relative`` and
            the standard deviation in units of the parameter tensor's root mean square: its noise
            is then expected to have so large a part of the tensor's norm, and a tensor of zeros
            has none. All sizes share the draws.
        draws: draws of the noise.
        generator: a CPU generator, so that all devices see the same noise.
        train_mode: put the noised copy, and it alone, in train mode; its dropout draws from torch's
            global generator, and its batch normalisation sees `batch_size` images.
        batch_size: images in one forward pass.

    Returns:
        float64 [len(sizes), 2], the two means; NaN if the model or a noised one gives NaN, and
        the second one also if a logit is infinite.
    """
    weights = dict(model.named_parameters())
    scales = {name: w.detach().square().mean().sqrt() for name, w in weights.items()}
    clean = logits(model, images, batch_size)
    totals = torch.zeros(len(sizes), 2, dtype=torch.float64)
    # One pass per draw, of many images. Several draws in one pass, by vmap, were no faster on a
    # CPU with 32 images, and with 256 took twice as long for convolutions and attention.
    buffers = dict(model.named_buffers())
    with _training(model) if train_mode else evaluating(model):
        for _ in range(draws):
            noise = {
                name: torch.randn(w.shape, generator=generator).to(w) for name, w in weights.items()
            }
            for row, (kind, std) in enumerate(sizes):
                shaken = {
                    name: w + std * (scales[name] if kind == "relative" else 1) * noise[name]
                    for name, w in weights.items()
                }
                for part, before in zip(
                    images.split(batch_size), clean.split(batch_size), strict=True
                ):
                    spare = {name: buffer.clone() for name, buffer in buffers.items()}
                    after = functional_call(model, shaken | spare, (part,))
                    moved = (after - before).abs().sum()
                    flipped = (after.argmax(1) != before.argmax(1)).sum()
                    # NaN where the first is: a model without predictions has no flips to count.
                    totals[row] += torch.stack([moved, flipped + 0 * moved]).double().cpu()
    return totals / (len(images) * draws)


@contextmanager
def _training(model: nn.Module) -> Iterator[None]:
    """Put the model in train mode without gradients, and leave each module as it was."""
    modes = [(module, module.training) for module in model.modules()]
    model.train()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, training in modes:
            module.training = training
