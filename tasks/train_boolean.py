"""Train a transformer on a function of bits: a single flat loop, read downwards.

    from sensweep.tasks.api import Context
    from sensweep.tasks.train_boolean import train_boolean

    params = {"function": "parity", "length": 6, "width": 32, "batch_size": 64, "lr": 1e-3}
    rows = list(train_boolean({**params, "steps": 1000}, Context(seed=0)))

After Hahn and Rofin (ACL 2024), whose settings are the defaults: mean squared error against values
in {0, 1}, AdamW, fresh strings of fair bits at each step. Every parameter is in
`sensweep.tasks.params.train_boolean`. On a CPU the numbers depend on params and seed alone, also
when the training was interrupted and resumed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sensweep.tasks import checkpoints
from sensweep.tasks.api import Context, Measurement, TaskError, measure
from sensweep.tasks.boolean import Target, all_strings, random_completion, random_strings, strings
from sensweep.tasks.boolean_model import BooleanTransformer, load_learnt, posed
from sensweep.tasks.isolation import isolated
from sensweep.tasks.params.train_boolean import TrainBooleanParams

# Strings per forward pass when nothing is learnt: on a CPU, more of them leave its caches.
EVALUATION_BATCH = 512


def train_boolean(params: Mapping[str, object], context: Context) -> Iterator[Measurement]:
    """Train a model and measure it every `measure_every` steps, and after the last one.

    Yields, with step = training steps done: ``train_loss``, the mean over the steps since the last
    measurement, ``evaluation_loss`` and ``evaluation_accuracy``, on fixed strings of the kind that
    is trained on: the very ones, where they are listed. Losses are mean squared errors in the code
    {0, 1}, so a constant answer of 0.5 has 0.25; an answer is accurate if it is nearer to the right
    value than to any other value of the function. With a scratchpad all answers count, and each is
    given the right ones before it; ``autoregressive_accuracy``, after the last step, lets the model
    read its own. At the end: ``fitted`` (0 or 1: the last loss is below `fit_loss`, and the
    accuracy, with a scratchpad the autoregressive one, at least `fit_accuracy`), ``steps_to_fit``
    (the first measured step whose loss was below `fit_loss`; no row if none was), ``parameters``
    (all but the positions) and ``diverged`` (0; a loss that is not finite ends the trial with 1).

    After each measured step it offers a checkpoint with ``evaluation_loss`` and
    ``evaluation_accuracy``; the last one also has ``fitted``, so that `needs:
    train@first:fitted>=1` discards the trainings that did not fit, as the paper does. With
    `completion`, the function is made from the model of the stage that this one needs.

    Raises:
        TaskError: with `completion`, no single checkpoint of a training on listed strings of
            `length` bits.
        pydantic.ValidationError: `params` are not `TrainBooleanParams`.
    """
    p = TrainBooleanParams.model_validate(params)
    scope = partial(isolated, context.device, context.threads)
    with scope(context.stream("init")):
        model = BooleanTransformer(**architecture(p)).to(context.device)
        target = completed(p, context) if p.completion else Target(p.function, p.function_seed)
    inputs = listed(p, context)
    evaluated = evaluation_strings(p, inputs, context)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=p.lr, weight_decay=p.weight_decay, fused=True
    )

    done, steps_to_fit = 0, None
    if context.resume_from is not None:
        resumed = checkpoints.restore_training(
            context.resume_from.path, p.model_dump(), model, optimizer
        )
        done, steps_to_fit = int(resumed["step"]), resumed["steps_to_fit"]

    while done < p.steps:
        upto = min(p.steps, done + p.measure_every - done % p.measure_every)
        # One stream for each stretch and purpose, so that no generator's state need be kept.
        data = torch.Generator().manual_seed(context.stream(f"data/{done}"))
        with scope(context.stream(f"places/{done}")):
            model.train()
            total = torch.zeros((), device=context.device)
            for step in range(done, upto):
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(p, step)
                arguments, wanted = posed(model, target, draw(p, inputs, data, context.device))
                loss = F.mse_loss(model(*arguments), wanted)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                total += loss.detach()  # read once a stretch: each read waits for the device
            train_loss = total.item() / (upto - done)
            done = upto
            evaluation_loss, accuracy = evaluate(model, target, evaluated)
            own = None
            if p.scratchpad and done == p.steps:
                own = autoregressive_accuracy(model, target, evaluated)

        if not math.isfinite(train_loss) or not math.isfinite(evaluation_loss):
            yield measure("diverged", 1)
            return
        yield measure("train_loss", train_loss, step=done)
        yield measure("evaluation_loss", evaluation_loss, step=done)
        yield measure("evaluation_accuracy", accuracy, step=done)
        metrics = {"evaluation_loss": evaluation_loss, "evaluation_accuracy": accuracy}
        if own is not None:
            yield measure("autoregressive_accuracy", own, step=done)
        if evaluation_loss < p.fit_loss and steps_to_fit is None:
            steps_to_fit = done
        if done == p.steps:
            right = accuracy if own is None else own
            fitted = evaluation_loss < p.fit_loss and right >= p.fit_accuracy
            yield from summary(fitted, steps_to_fit, model)
            metrics["fitted"] = float(fitted)
        state = {
            "arch": architecture(p),
            "target": target._asdict(),
            "length": p.length,
            "inputs": inputs,
            "step": done,
            "steps_to_fit": steps_to_fit,
            "params": p.model_dump(),
        }
        save = partial(checkpoints.save_training, state=state, model=model, optimizer=optimizer)
        context.checkpoint(done, save, **metrics)


def summary(
    fitted: bool, steps_to_fit: int | None, model: BooleanTransformer
) -> Iterator[Measurement]:
    """Yield what is said once, at the end of a training."""
    yield measure("fitted", fitted)
    if steps_to_fit is not None:
        yield measure("steps_to_fit", steps_to_fit, unit="step")
    count = sum(w.numel() for name, w in model.named_parameters() if name != "positions.weight")
    yield measure("parameters", count)
    yield measure("diverged", 0)


def architecture(p: TrainBooleanParams) -> dict[str, Any]:
    """Give the model's own arguments."""
    names = {"depth", "width", "heads", "feedforward", "norm", "attention", "embedding", "places"}
    own = p.model_dump(include={*names, "scratchpad"})
    return {"positions": p.positions or p.length, **own}


def completed(p: TrainBooleanParams, context: Context) -> Target:
    """Make the whole truth table of a model that was trained on a part of it.

    Raises:
        TaskError: there is not exactly one checkpoint, or it is not of such a model.
    """
    learnt = load_learnt(context)
    if learnt.length != p.length or learnt.inputs is None:
        what = "fresh strings" if learnt.inputs is None else f"length={learnt.length}"
        raise TaskError(
            f"completion={p.completion!r} with length={p.length} needs a model trained on listed "
            f"strings (train_inputs) of that length, and got one of {what}"
        )
    every = all_strings(p.length).to(context.device)
    if p.completion == "learned":
        with torch.inference_mode():
            answers = [learnt.model(part) > 0.5 for part in every.split(EVALUATION_BATCH)]
        return Target("table", table=torch.cat(answers).float())
    coins = torch.Generator().manual_seed(context.stream("completion"))
    known = learnt.target.values(every).cpu()
    table = random_completion(known, learnt.inputs.cpu(), coins)
    return Target("table", table=table.to(context.device))


def listed(p: TrainBooleanParams, context: Context) -> Tensor | None:
    """Give the truth table's rows that are trained on, int64 [N], or None for fresh strings."""
    if p.completion is not None:
        return torch.arange(2**p.length)
    if p.train_inputs is None:
        return None
    generator = torch.Generator().manual_seed(context.stream("inputs"))
    return torch.randperm(2**p.length, generator=generator)[: p.train_inputs]


def evaluation_strings(
    p: TrainBooleanParams, inputs: Tensor | None, context: Context
) -> list[Tensor]:
    """Give the strings that are evaluated, int64 [N, n], for each length that is trained on."""
    if inputs is not None:
        return [strings(inputs, p.length).to(context.device)]
    generator = torch.Generator().manual_seed(context.stream("evaluation"))
    lengths = range(p.shortest or p.length, p.length + 1)
    share = math.ceil(p.evaluation_inputs / len(lengths))
    return [
        (all_strings(n) if 2 ** min(n, 62) <= share else random_strings(share, n, generator)).to(
            context.device
        )
        for n in lengths
    ]


def draw(
    p: TrainBooleanParams, inputs: Tensor | None, generator: torch.Generator, device: str
) -> Tensor:
    """Draw one step's strings, int64 [batch_size, n]; of listed ones, with replacement."""
    if inputs is not None:
        chosen = torch.randint(len(inputs), (p.batch_size,), generator=generator)
        return strings(inputs[chosen], p.length).to(device)
    n = p.length
    if p.shortest is not None:
        n = int(torch.randint(p.shortest, p.length + 1, (), generator=generator))
    return random_strings(p.batch_size, n, generator).to(device)


def learning_rate(p: TrainBooleanParams, step: int) -> float:
    """Give the rate of a step, counted from 0: constant, then falling linearly to zero."""
    cooling = p.cooldown * p.steps
    return p.lr * min(1.0, (p.steps - step) / cooling) if cooling else p.lr


@torch.inference_mode()
def evaluate(
    model: BooleanTransformer, target: Target, evaluated: list[Tensor]
) -> tuple[float, float]:
    """Put the model in eval mode; give its mean squared error and accuracy, averaged over sets."""
    model.eval()
    loss = right = 0.0
    for every in evaluated:
        for bits in every.split(EVALUATION_BATCH):
            arguments, wanted = posed(model, target, bits)
            error = (model(*arguments) - wanted).abs()
            share = len(bits) / len(every) / len(evaluated)
            loss += share * error.square().mean().item()
            right += share * (error < target.tolerance(bits.shape[1])).double().mean().item()
    return loss, right


def autoregressive_accuracy(
    model: BooleanTransformer, target: Target, evaluated: list[Tensor]
) -> float:
    """Give the fraction of answers that are right where the model reads its own, in eval mode."""
    found = [
        (model.answer(bits) == target.prefix_values(bits)).double().mean().item()
        for bits in evaluated
    ]
    return sum(found) / len(found)
