"""Sensitivity of functions of bits: at how many of its bits a flip changes the value.

After Hahn and Rofin, "Why are Sensitive Functions Hard for Transformers?" (ACL 2024), section 2,
and O'Donnell, "Analysis of Boolean Functions" (2014), chapter 2. Values are coded as -1 and 1 here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from sensweep.tasks.api import Context, Measurement, TaskError, measure
from sensweep.tasks.boolean import all_strings, random_completion, random_strings
from sensweep.tasks.boolean_model import START, Learnt, load_learnt
from sensweep.tasks.isolation import isolated
from sensweep.tasks.params.boolean_sensitivity import BooleanSensitivityParams


def boolean_sensitivity(params: Mapping[str, object], context: Context) -> Iterator[Measurement]:
    """Yield `average_sensitivity` and `max_sensitivity` of what a checkpoint computes.

    Both are in [0, n] for n bits and two values. Their coordinate `kind` says of which function:
    ``output``, the model's number as it is (which may lie beyond the two, and so its sensitivity);
    ``answer``, the model's number cut at 0.5; ``target``, what it was to learn; ``random``, the
    mean over `random_completions` functions that agree with the target on the strings that were
    trained on (average only). MEAN has no ``answer``, since its values are not two. Up to
    `exact_up_to` bits the numbers are exact; of longer strings, the average is that of random
    strings and the maximum a lower bound. With `degrees`, also `degree_weight` at each `degree` of
    the exact expansion (of ``output`` and ``target``): the weights' sum is the mean square of the
    function, and their sum weighted by degree the average sensitivity.

    Of a model with a scratchpad it is the last answer, as a function of all bits and of the
    answers before it, the right ones: in place of the n of PARITY it need depend on two of these
    2n - 1. It is sampled, and has no ``target``, which need not be a function of them.

    Raises:
        TaskError: no single checkpoint of `train_boolean`, or `random_completions` or `degrees`
            without a whole truth table.
    """
    p = BooleanSensitivityParams.model_validate(params)
    generator = torch.Generator().manual_seed(context.stream("boolean_sensitivity"))
    with isolated(context.device, context.threads, context.stream("boolean_sensitivity")):
        learnt = load_learnt(context)
        whole = learnt.length <= p.exact_up_to and not learnt.model.decoder
        refuse(learnt, p, whole)
        estimate = exact if whole else sampled
        found = list(estimate(learnt, p, generator))
    yield from found


def refuse(learnt: Learnt, p: BooleanSensitivityParams, whole: bool) -> None:
    """Raise TaskError where the checkpoint and the params ask for what is not defined."""
    if p.random_completions and learnt.inputs is None:
        raise TaskError(
            "random_completions need a model trained on listed strings: train with train_inputs"
        )
    if (p.random_completions or p.degrees) and not whole:
        reason = f"{learnt.length} bits are more than exact_up_to={p.exact_up_to}"
        raise TaskError(
            "random_completions and degrees need the whole truth table, and "
            + ("a scratchpad has none" if learnt.model.decoder else reason)
        )


def exact(
    learnt: Learnt, p: BooleanSensitivityParams, generator: torch.Generator
) -> Iterator[Measurement]:
    """Measure on the whole truth table."""
    every = all_strings(learnt.length).to(learnt.model.head.weight.device)
    tables = functions(learnt, every, p.batch_size)
    for kind, values in tables.items():
        local = sensitivities(values)
        yield measure("average_sensitivity", local.mean().item(), step=learnt.step, kind=kind)
        yield measure("max_sensitivity", local.max().item(), step=learnt.step, kind=kind)
        if p.degrees and kind != "answer":
            for degree, weight in enumerate(degree_weights(values).tolist()):
                yield measure("degree_weight", weight, step=learnt.step, kind=kind, degree=degree)
    if p.random_completions and learnt.inputs is not None:
        target = tables["target"].cpu()
        known = learnt.inputs.cpu()
        mean = (
            sum(
                sensitivities(2 * random_completion((target + 1) / 2, known, generator) - 1).mean()
                for _ in range(p.random_completions)
            )
            / p.random_completions
        )
        yield measure("average_sensitivity", float(mean), step=learnt.step, kind="random")


def sampled(
    learnt: Learnt, p: BooleanSensitivityParams, generator: torch.Generator
) -> Iterator[Measurement]:
    """Measure on random strings and all that differ from them in one bit."""
    bits = random_strings(p.inputs, learnt.length, generator)
    bits = bits.to(learnt.model.head.weight.device)
    if learnt.model.decoder:
        answers = learnt.target.prefix_values(bits)[:, :-1].long()
        bits = torch.cat([bits, answers], dim=1)
    for kind, local in sensitivities_at(learnt, bits, p.batch_size).items():
        yield measure("average_sensitivity", local.mean().item(), step=learnt.step, kind=kind)
        yield measure("max_sensitivity", local.max().item(), step=learnt.step, kind=kind)


def sensitivities_at(learnt: Learnt, bits: Tensor, batch_size: int) -> dict[str, Tensor]:
    """Give each function's sensitivity at strings, float64 [N]; strings as `functions` has them.

    The model sees at most `batch_size` strings in one forward pass.
    """
    found: dict[str, list[Tensor]] = {}
    # The neighbourhoods of all strings are n times their number: they are made a few at a time.
    for part in bits.split(max(1, batch_size // (bits.shape[1] + 1))):
        around = neighbourhoods(part).flatten(0, 1)
        for kind, values in functions(learnt, around, batch_size).items():
            found.setdefault(kind, []).append(flips(values.view(len(part), -1)))
    return {kind: torch.cat(parts) for kind, parts in found.items()}


@torch.inference_mode()
def functions(learnt: Learnt, bits: Tensor, batch_size: int) -> dict[str, Tensor]:
    """Give the functions' values, coded as -1 and 1, at strings; float64 [N] each.

    Strings are [N, n]; for a model with a scratchpad [N, 2n - 1], the answers after the bits.
    """
    found: dict[str, Tensor] = {}
    n = learnt.length
    if learnt.model.decoder:
        output = torch.cat([learnt.model(*read(part, n))[:, -1] for part in bits.split(batch_size)])
    else:
        output = torch.cat([learnt.model(part) for part in bits.split(batch_size)])
        found["target"] = 2 * learnt.target.values(bits).double() - 1
    output = output.double()
    found["output"] = 2 * output - 1
    if learnt.target.function != "mean":
        # A NaN answers neither, and so makes the sensitivity NaN: a diverged model has none.
        found["answer"] = torch.where(output.isnan(), output, 2.0 * (output > 0.5) - 1)
    return found


def read(string: Tensor, n: int) -> list[Tensor]:
    """Part strings [N, 2n - 1] into n bits and the answers that a scratchpad reads, [N, n] each."""
    start = torch.full((len(string), 1), START, device=string.device)
    return [string[:, :n], torch.cat([start, string[:, n:]], dim=1)]


def neighbourhoods(bits: Tensor) -> Tensor:
    """Give each string [N, n] and, after it, the string with each bit flipped: [N, n + 1, n]."""
    flip = torch.eye(bits.shape[1], dtype=bits.dtype, device=bits.device)
    return torch.cat([bits[:, None], bits[:, None] ^ flip], dim=1)


def flips(values: Tensor) -> Tensor:
    """Give the sensitivity at each string, from values [N, n + 1] on its neighbourhood.

    It is the sum over bits of (f(x) - f(x with the bit flipped))^2 / 4, which for values of -1
    and 1 is the number of bits whose flip changes the value.
    """
    return (values[:, :1] - values[:, 1:]).square().sum(1) / 4


def sensitivities(values: Tensor) -> Tensor:
    """Give the sensitivity at each string from a truth table [2^n] of values; see `flips`."""
    n = values.numel().bit_length() - 1
    total = torch.zeros_like(values)
    for bit in range(n):
        # Along this axis are the string and the one that differs in the bit.
        pairs = values.view(-1, 2, 2**bit)
        change = (pairs[:, :1] - pairs[:, 1:]).square() / 4
        total += change.expand(-1, 2, -1).reshape(-1)
    return total


def fourier(values: Tensor) -> Tensor:
    """Give the coefficients of a truth table [2^n] on the parities of all sets of bits.

    By the fast Walsh-Hadamard transform. The set of coefficient i has bit j of the string where
    the truth table's row i has a one: coefficient 0 is the mean.
    """
    found = values.double()
    size = 1
    while size < found.numel():
        pairs = found.view(-1, 2, size)
        found = torch.cat([pairs[:, :1] + pairs[:, 1:], pairs[:, :1] - pairs[:, 1:]], 1).flatten()
        size *= 2
    return found / found.numel()


def degree_weights(values: Tensor) -> Tensor:
    """Give the sum of squared Fourier coefficients of each degree, float64 [n + 1]."""
    n = values.numel().bit_length() - 1
    degree = all_strings(n).sum(1).to(values.device)
    weights = torch.zeros(n + 1, dtype=torch.float64, device=values.device)
    return weights.index_add_(0, degree, fourier(values).square())
