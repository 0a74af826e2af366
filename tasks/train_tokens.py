"""Train one classifier of token sequences: a single flat loop, read downwards.

    from sensweep.tasks.api import Context
    from sensweep.tasks.train_tokens import train_tokens

    params = {"dataset": "roles", "arch": {"name": "lstm", "layers": 2, "width": 64}, "epochs": 5}
    rows = list(train_tokens(params, Context(seed=0)))

Every parameter, with its unit and range, is in `sensweep.tasks.params.train_tokens`. As for
`train`, the numbers depend on a CPU on the params and the seed alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from sensweep.tasks import checkpoints
from sensweep.tasks.api import Context, Measurement, TaskError, measure
from sensweep.tasks.isolation import isolated, stream
from sensweep.tasks.params.train_tokens import TrainTokensParams
from sensweep.tasks.progress import progress_rows, weight_norm
from sensweep.tasks.sequence_data import Sequences, SequenceSplit, load_sequences, trimmed
from sensweep.tasks.sequence_interventions import SEQUENCE_LOSSES
from sensweep.tasks.sequence_models import build_sequence_model
from sensweep.tasks.sequence_sensitivity import embedding_norm, sentence_flips

# Sequences per forward pass when nothing is learnt.
EVALUATION_BATCH = 512
# Training sequences that the train loss is measured on: the error of an accuracy is below 1%.
MOST_EVALUATED = 4000
PROGRESS_DRAWS = 5


def train_tokens(params: Mapping[str, object], context: Context) -> Iterator[Measurement]:
    """Train a model, and measure it after every `measure_every` epochs and after the last one.

    Yields, with step = epoch: ``train_loss``, ``validation_loss``, ``test_loss`` (nats),
    ``train_accuracy``, ``validation_accuracy``, ``test_accuracy`` (fractions), all of the model
    in eval mode with plain cross-entropy (the train ones on the first 4,000 training sequences at
    most); and ``weight_norm``, the L2 norm of all trainable weights. The test rows are for
    curves against the step; nothing may be chosen by them.

    With `progress_noise` also ``sentence_sensitivity``, the fraction of predictions on the same
    training sequences that change when Gaussian noise of that standard deviation is added to the
    embeddings of all words at once (special tokens excepted; 5 draws), as in the released code of
    Vasudeva et al. (ICLR 2025) for modular addition, and ``noise_ratio``, the root mean squared
    norm of that noise over the mean embedding norm. Then at the end what the
    course of sensitivity and weight norm amounts to (`progress.progress_rows`).

    At the end: ``parameters`` (trainable weights) and ``diverged`` (0). A training whose loss is
    not finite has diverged: it ends with the rows so far and ``diverged`` = 1.

    After each measurement it offers a checkpoint, with ``train_accuracy`` and
    ``validation_accuracy``, from which a training continues to the same bits on a CPU, and from
    which alone `sequence_evaluation.load_sequence_model` rebuilds the model.

    Raises:
        TaskError: data, model or checkpoint do not fit together; one line.
        pydantic.ValidationError: `params` are not `TrainTokensParams`.
    """
    p = TrainTokensParams.model_validate(params)
    spec = p.intervention_spec()
    loss_of = SEQUENCE_LOSSES[spec.name]
    reading: dict[str, Any] = {
        "tokenizer": p.tokenizer,
        "vocabulary": p.vocabulary,
        "max_length": p.max_length,
    }
    data = load_sequences(p.dataset, context.cache, context.device, **reading)
    train = SequenceSplit(data.train.x[: p.train_size], data.train.y[: p.train_size])
    if p.train_size is not None and len(train.y) < p.train_size:
        raise TaskError(
            f"train_size={p.train_size}, but the train split of {p.dataset!r} has "
            f"{len(train.y)} sequences"
        )
    evaluated = SequenceSplit(train.x[:MOST_EVALUATED], train.y[:MOST_EVALUATED])

    scope = partial(isolated, context.device, context.threads)
    with scope(context.stream("init")):
        model = build_sequence_model(p.arch, **data.facts).to(context.device)
    weights = [w for w in model.parameters() if w.requires_grad]
    optimizer = torch.optim.AdamW(
        weights, lr=p.lr, betas=(0.9, p.beta2), weight_decay=p.weight_decay, fused=True
    )
    batch_size = p.batch_size or len(train.y)
    steps = math.ceil(len(train.y) / batch_size)
    history: list[list[float]] = []

    epochs_done = 0
    if context.resume_from is not None:
        resumed = checkpoints.restore_training(
            context.resume_from.path, p.model_dump(), model, optimizer
        )
        epochs_done = int(resumed["epoch"])
        history = [list(row) for row in resumed["history"]]

    for epoch in range(epochs_done + 1, p.epochs + 1):
        measured = epoch % p.measure_every == 0 or epoch == p.epochs
        order = torch.randperm(len(train.y), generator=stream(context, f"order/{epoch}", "cpu")).to(
            context.device
        )
        noise = stream(context, f"noise/{epoch}", context.device)
        with scope(context.stream(f"dropout/{epoch}")):
            model.train()
            objective = torch.zeros((), device=context.device)
            for step, batch in enumerate(order.split(batch_size), (epoch - 1) * steps + 1):
                rate = p.lr * p.lr_decay ** (epoch - 1) * min(1, step / max(1, p.warmup_steps))
                for group in optimizer.param_groups:
                    group["lr"] = rate
                x, y = trimmed(train.x[batch], data.pad), train.y[batch]
                loss = loss_of(model, x, y, spec, data, noise)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                if p.grad_clip is not None:
                    nn.utils.clip_grad_norm_(weights, p.grad_clip)
                optimizer.step()
                objective += loss.detach()
            values = measurements(model, evaluated, data) if measured else {}

        if not math.isfinite(objective.item()) or not all(map(math.isfinite, values.values())):
            yield measure("diverged", 1)
            return
        if not measured:
            continue
        if p.progress_noise is not None:
            generator = stream(context, f"progress/{epoch}", "cpu")
            with scope(context.stream(f"progress/{epoch}")):
                values |= followed(model, evaluated, data, p.progress_noise, generator)
            columns = ("train_accuracy", "train_loss", "sentence_sensitivity", "weight_norm")
            history.append([float(epoch), *(values[name] for name in columns)])
        for name, value in values.items():
            yield measure(name, value, step=epoch, unit="nats" if name.endswith("loss") else "1")
        state = {
            "dataset": p.dataset,
            "arch": p.arch,
            "params": p.model_dump(),
            "facts": data.facts,
            "reading": reading,
            "train_size": len(train.y),
            "epoch": epoch,
            "history": history,
        }
        save = partial(checkpoints.save_training, state=state, model=model, optimizer=optimizer)
        context.checkpoint(
            epoch,
            save,
            train_accuracy=values["train_accuracy"],
            validation_accuracy=values["validation_accuracy"],
        )

    yield from progress_rows(history)
    yield measure("parameters", sum(w.numel() for w in weights))
    yield measure("diverged", 0)


def measurements(model: nn.Module, train: SequenceSplit, data: Sequences) -> dict[str, float]:
    """Give loss and accuracy on each split, and the norm of the weights."""
    found = {}
    for split, part in (("train", train), ("validation", data.validation), ("test", data.test)):
        found[f"{split}_loss"], found[f"{split}_accuracy"] = evaluate(model, part, data.pad)
    return found | {"weight_norm": weight_norm(model)}


@torch.inference_mode()
def evaluate(model: nn.Module, split: SequenceSplit, pad: int) -> tuple[float, float]:
    """Put the model in eval mode; return its mean cross-entropy (nats) and its accuracy."""
    model.eval()
    loss = torch.zeros((), device=split.x.device)
    correct = torch.zeros((), device=split.x.device)
    for x, y in zip(split.x.split(EVALUATION_BATCH), split.y.split(EVALUATION_BATCH), strict=True):
        logits = model(trimmed(x, pad))
        loss += F.cross_entropy(logits, y, reduction="sum")
        correct += (logits.argmax(1) == y).sum()
    return loss.item() / len(split.y), correct.item() / len(split.y)


def followed(
    model: nn.Module, part: SequenceSplit, data: Sequences, std: float, generator: torch.Generator
) -> dict[str, float]:
    """Measure the sensitivity to noise on the embeddings of all words at once, and its ratio."""
    flips = sentence_flips(
        model,
        part.x,
        pad=data.pad,
        site="lookup",
        stds=[std],
        draws=PROGRESS_DRAWS,
        generator=generator,
        spared=data.special,
        batch_size=EVALUATION_BATCH,
    )
    norm, width = embedding_norm(model, part.x[:EVALUATION_BATCH], pad=data.pad, site="lookup")
    return {
        "sentence_sensitivity": flips.mean().item(),
        "noise_ratio": std * math.sqrt(width) / norm,
    }
