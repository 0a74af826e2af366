"""How sharp the minimum of a model of bits is: its loss under noise on its weights.

After Hahn and Rofin, "Why are Sensitive Functions Hard for Transformers?" (ACL 2024) and its
released code, with the two quantities that they relate to it: the norm of the parameters, and how
much layer normalisation magnifies what it is given.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call

from sensweep.tasks.api import Context, Measurement, TaskError, measure
from sensweep.tasks.boolean import random_strings, strings
from sensweep.tasks.boolean_model import BooleanTransformer, Learnt, load_learnt, posed
from sensweep.tasks.isolation import isolated
from sensweep.tasks.params.boolean_sharpness import BooleanSharpnessParams

# Twice as far apart as 0 and 1, the values -1 and 1 give four times the squared error. It is in
# that code that the paper's figures are.
SQUARED = 4.0


def boolean_sharpness(params: Mapping[str, object], context: Context) -> Iterator[Measurement]:
    """Yield sharpness, `parameter_norm` and layer normalisation's blowup of one checkpoint.

    `sharpness` is the mean of L(w + noise) - L(w), L being the mean squared error in the code -1
    and 1, and `output_change` the mean squared change of the output in that code (the theory's
    measure, which needs no target); both have a coordinate sigma or rho. A sharpness may be
    negative where a model has not fitted. `parameter_norm` is the Euclidean norm of all weights.
    Position embeddings are left out of both, as in the paper.

    `layernorm_blowup` has a coordinate `variant`. Let s be the standard deviation of a layer
    normalisation's input over its features. ``released`` is the product, over the normalisations
    one after another, of the largest 1/s among the positions, with the unbiased s, as the
    released code measures it; ``theory`` is that of the largest 1 + 1/sqrt(s^2 + eps), with the
    s that the normalisation itself uses. Both are means over strings; `log_blowup` is the mean of
    the natural logarithm, which single strings sway less.

    Noise and strings depend on the seed alone: models of a seed that have the same shape meet the
    same.

    Raises:
        TaskError: no single checkpoint of `train_boolean`, or strings: train without a list.
    """
    p = BooleanSharpnessParams.model_validate(params)
    generator = torch.Generator().manual_seed(context.stream("boolean_sharpness/strings"))
    noise = torch.Generator().manual_seed(context.stream("boolean_sharpness/noise"))
    with isolated(context.device, context.threads, context.stream("boolean_sharpness")):
        learnt = load_learnt(context)
        batches = [drawn(learnt, p, generator) for _ in range(p.batches)]
        count = sum(weight.numel() for _, weight in perturbed_weights(learnt.model))
        scales = [("sigma", sigma, sigma) for sigma in p.sigmas]
        scales += [("rho", rho, rho / math.sqrt(count)) for rho in p.rhos]
        found = sharpness(learnt, batches, [std for _, _, std in scales], p.draws, noise)
        blowups = blowup(learnt, batches)
        squares = sum(weight.square().sum() for _, weight in perturbed_weights(learnt.model))
    for (kind, size, _), rise, change in zip(scales, found.rise, found.change, strict=True):
        noise_size: dict[str, Any] = {kind: size}
        yield measure("sharpness", rise.item(), step=learnt.step, **noise_size)
        yield measure("output_change", change.item(), step=learnt.step, **noise_size)
    yield measure("parameter_norm", math.sqrt(squares), step=learnt.step)
    for variant, factors in blowups.items():
        mean, log = factors.mean().item(), factors.log().mean().item()
        yield measure("layernorm_blowup", mean, step=learnt.step, variant=variant)
        yield measure("log_blowup", log, step=learnt.step, variant=variant)


def drawn(learnt: Learnt, p: BooleanSharpnessParams, generator: Generator) -> Tensor:
    """Draw a batch of strings, int64 [batch_size, n]."""
    device = learnt.model.head.weight.device
    if p.strings == "uniform":
        return random_strings(p.batch_size, learnt.length, generator).to(device)
    if learnt.inputs is None:
        raise TaskError("strings: train needs a model trained on listed strings (train_inputs)")
    chosen = torch.randint(len(learnt.inputs), (p.batch_size,), generator=generator)
    return strings(learnt.inputs[chosen.to(device)], learnt.length)


def perturbed_weights(model: BooleanTransformer) -> list[tuple[str, Tensor]]:
    """Give all weights but the position embeddings, by name."""
    return [
        (name, weight.detach())
        for name, weight in model.named_parameters()
        if name != "positions.weight"
    ]


class Sharpness(NamedTuple):
    """What noise on the weights does, in the code -1 and 1; float64 [sizes of the noise] each.

    Attributes:
        rise: of the mean squared error.
        change: mean squared change of the output.
    """

    rise: Tensor
    change: Tensor


@torch.inference_mode()
def sharpness(
    learnt: Learnt, batches: list[Tensor], stds: list[float], draws: int, generator: Generator
) -> Sharpness:
    """Average over batches, and over draws of Gaussian noise that each batch has for itself.

    Every size of the noise meets the same draws, scaled. (The released code makes its generator
    anew for each batch, so all its batches meet the same ten.)

    Args:
        learnt: the model, in eval mode, and its target.
        batches: strings, int64 [N, n] each.
        stds: standard deviations of the noise on each weight.
        draws: for each batch.
        generator: a CPU generator, so that all devices see the same noise.
    """
    weights = perturbed_weights(learnt.model)
    rise = torch.zeros(len(stds), dtype=torch.float64)
    change = torch.zeros(len(stds), dtype=torch.float64)
    for bits in batches:
        arguments, wanted = posed(learnt.model, learnt.target, bits)
        clean = learnt.model(*arguments)
        loss = (clean - wanted).square().mean()
        for _ in range(draws):
            noise = [torch.randn(w.shape, generator=generator).to(w) for _, w in weights]
            for size, std in enumerate(stds):
                moved = {
                    name: torch.add(weight, shift, alpha=std)
                    for (name, weight), shift in zip(weights, noise, strict=True)
                }
                output = functional_call(learnt.model, moved, tuple(arguments))
                rise[size] += ((output - wanted).square().mean() - loss).double().cpu()
                change[size] += (output - clean).square().mean().double().cpu()
    scale = SQUARED / (len(batches) * draws)
    return Sharpness(rise * scale, change * scale)


@torch.inference_mode()
def blowup(learnt: Learnt, batches: list[Tensor]) -> dict[str, Tensor]:
    """Give the blowup of each string, float64 [all strings], in both definitions.

    A model without a scratchpad computes its last layer at the last position only, so that is
    the only one looked at there.
    """
    norms = [module for module in learnt.model.modules() if isinstance(module, nn.LayerNorm)]
    factors: dict[str, list[Tensor]] = {"released": [], "theory": []}

    def see(norm: nn.Module, given: tuple[Tensor]) -> None:
        x = given[0].double()
        deviation, variance = x.std(2), x.var(2, correction=0)
        factors["released"].append((1 / deviation).amax(1))
        factors["theory"].append((1 + (variance + norm.eps).rsqrt()).amax(1))  # type: ignore[operator]

    hooks = [norm.register_forward_pre_hook(see) for norm in norms]
    found: dict[str, list[Tensor]] = {"released": [], "theory": []}
    try:
        for bits in batches:
            learnt.model(*posed(learnt.model, learnt.target, bits)[0])
            for variant, seen in factors.items():
                found[variant].append(torch.stack(seen).prod(0))
                seen.clear()
    finally:
        for hook in hooks:
            hook.remove()
    return {variant: torch.cat(parts) for variant, parts in found.items()}
