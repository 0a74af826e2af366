"""Train one model: a single flat loop, read downwards.

    from sensweep.tasks.api import Context
    from sensweep.tasks.train import train

    rows = list(train({"dataset": "digits", "arch": "cnn", "epochs": 5}, Context(seed=0)))

Every parameter, with its unit and range, is in `sensweep.tasks.params.train`. On a CPU the numbers
depend on the params and the seed alone (and on the number of threads, in the last bits): not on
what ran before in the process, nor on how often the training was interrupted and resumed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from sensweep.tasks import checkpoints
from sensweep.tasks.api import Context, Measurement, TaskError, measure
from sensweep.tasks.data import Split, load
from sensweep.tasks.interventions import LOSSES
from sensweep.tasks.isolation import isolated, stream
from sensweep.tasks.models import build
from sensweep.tasks.params.train import TrainParams

# Images per forward pass when nothing is learnt: enough to hide the cost of a call; on a CPU,
# more of them leave its caches.
EVALUATION_BATCH = 250


def train(params: Mapping[str, object], context: Context) -> Iterator[Measurement]:
    """Train a model and measure it after every epoch.

    Yields, with step = epoch, from 1: ``train_loss`` and ``validation_loss`` (nats),
    ``train_accuracy`` and ``validation_accuracy`` (fractions). All four are of the model in eval
    mode on clean images, with plain cross-entropy, whatever the intervention: trainings under
    different interventions can be compared at matched train accuracy. The train ones are of as
    many training images as there are validation images: equally precise, and cheap beside an
    epoch (all of them would cost up to a third of one).
    At the end: ``test_loss``, ``test_accuracy``, ``parameters`` (trainable weights) and
    ``diverged`` (0).

    A training whose loss is not finite has diverged: that epoch gives no rows and no checkpoint,
    and the trial ends with the rows so far and ``diverged`` = 1. It has no test rows, so it is
    never the best of anything, and the mean of ``diverged`` over seeds is the rate of failure.

    After each epoch's rows it offers a checkpoint, with ``train_accuracy`` and
    ``validation_accuracy``; the file holds all that `subject.load_model` needs, and all that
    continues the training to the same bits on a CPU: weights, the optimiser's state, the epoch.
    Random generators and the learning rate have no state to keep, for each epoch's streams (data
    order, dropout, intervention) are derived from the seed and the epoch.

    Raises:
        TaskError: data, model or checkpoint do not fit together; one line.
        pydantic.ValidationError: `params` are not `TrainParams`.
    """
    p = TrainParams.model_validate(params)
    spec = p.intervention_spec()
    loss_of = LOSSES[spec.name]
    criterion = partial(F.cross_entropy, label_smoothing=p.label_smoothing)

    splits = load(p.dataset, context.cache, context.device)
    images = Split(splits.train.x[: p.train_size], splits.train.y[: p.train_size])
    if p.train_size is not None and len(images.x) < p.train_size:
        raise TaskError(
            f"train_size={p.train_size}, but the train split of {p.dataset!r} has "
            f"{len(images.x)} images"
        )
    seen = len(splits.validation.y)
    train_evaluated = Split(images.x[:seen], images.y[:seen])
    facts: dict[str, Any] = {
        "num_classes": splits.num_classes,
        "in_chans": splits.in_chans,
        "img_size": splits.img_size,
    }

    # Threads, determinism and the global generators are the trial's own inside `isolated` only,
    # never across a yield: a worker's process stays as it was.
    scope = partial(isolated, context.device, context.threads)
    with scope(context.stream("init")):
        model = build(p.arch, **facts, mean=splits.mean, std=splits.std).to(context.device)
    forward = torch.compile(model) if p.compile else model
    bf16 = partial(torch.autocast, torch.device(context.device).type, torch.bfloat16)
    precision = bf16 if p.precision == "bf16" else nullcontext
    optimizer = make_optimizer(model, p)
    # An incomplete last batch is left out: the order is new each epoch, and one image alone would
    # break batch normalisation.
    steps = max(1, len(images.x) // p.batch_size)

    epochs_done = 0
    if context.resume_from is not None:
        resumed = checkpoints.restore_training(
            context.resume_from.path, p.model_dump(), model, optimizer
        )
        epochs_done = int(resumed["epoch"])

    for epoch in range(epochs_done + 1, p.epochs + 1):
        # One stream per purpose: what an intervention draws does not shift the order of the data.
        order = torch.randperm(
            len(images.x), generator=stream(context, f"order/{epoch}", "cpu")
        ).to(context.device)
        noise = stream(context, f"noise/{epoch}", context.device)
        augmentation = stream(context, f"augmentation/{epoch}", context.device)
        with scope(context.stream(f"dropout/{epoch}")):
            model.train()
            objective = torch.zeros((), device=context.device)
            for step in range(steps):
                rate = learning_rate(p, (epoch - 1) * steps + step, steps)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                batch = order[step * p.batch_size : (step + 1) * p.batch_size]
                x, y = augment(images.x[batch], p, augmentation), images.y[batch]
                with precision():
                    loss = loss_of(forward, x, y, spec, criterion, noise)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                if p.grad_clip is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), p.grad_clip)
                optimizer.step()
                objective += loss.detach()  # read once an epoch: each read waits for the device
            train_loss, train_accuracy = evaluate(model, train_evaluated)
            validation_loss, validation_accuracy = evaluate(model, splits.validation)

        if not all(map(math.isfinite, (objective.item(), train_loss, validation_loss))):
            yield measure("diverged", 1)
            return
        yield measure("train_loss", train_loss, step=epoch, unit="nats")
        yield measure("train_accuracy", train_accuracy, step=epoch)
        yield measure("validation_loss", validation_loss, step=epoch, unit="nats")
        yield measure("validation_accuracy", validation_accuracy, step=epoch)
        state = {
            **facts,
            "dataset": p.dataset,
            "arch": p.arch,
            "params": p.model_dump(),
            "train_size": len(images.x),
            "epoch": epoch,
        }
        save = partial(checkpoints.save_training, state=state, model=model, optimizer=optimizer)
        context.checkpoint(
            epoch,
            save,
            train_accuracy=train_accuracy,
            validation_accuracy=validation_accuracy,
        )

    with scope(context.stream("test")):
        test_loss, test_accuracy = evaluate(model, splits.test)
    yield measure("test_loss", test_loss, unit="nats")
    yield measure("test_accuracy", test_accuracy)
    yield measure("parameters", sum(w.numel() for w in model.parameters() if w.requires_grad))
    yield measure("diverged", 0)


def make_optimizer(model: nn.Module, p: TrainParams) -> torch.optim.Optimizer:
    """Make the optimiser: fused, one kernel for all weights, which halves a small model's step."""
    weights = [w for w in model.parameters() if w.requires_grad]
    if p.optimizer == "sgd":
        return torch.optim.SGD(
            weights, lr=p.lr, momentum=p.momentum, weight_decay=p.weight_decay, fused=True
        )
    return torch.optim.AdamW(weights, lr=p.lr, weight_decay=p.weight_decay, fused=True)


def learning_rate(p: TrainParams, step: int, steps_per_epoch: int) -> float:
    """Return the rate of a step, counted from 0 over the whole training.

    It rises linearly to `lr` over `warmup_epochs`, then follows half a cosine down to zero at the
    end of the training, or stays.
    """
    warmup = round(p.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return p.lr * (step + 1) / warmup
    if p.schedule == "constant":
        return p.lr
    progress = (step - warmup) / max(1, p.epochs * steps_per_epoch - warmup)
    return p.lr * 0.5 * (1 + math.cos(math.pi * progress))


def augment(x: torch.Tensor, p: TrainParams, generator: torch.Generator) -> torch.Tensor:
    """Flip and shift each image of [B, C, H, W] at random; without either, `x` itself."""
    batch, _, height, width = x.shape
    if p.flip:
        mirrored = torch.rand(batch, 1, 1, 1, generator=generator, device=x.device) < 0.5
        x = torch.where(mirrored, x.flip(3), x)
    if p.shift:
        padded = F.pad(x, (p.shift,) * 4)
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)
        down, right = torch.randint(
            2 * p.shift + 1, (2, batch), generator=generator, device=x.device
        )
        x = windows[torch.arange(batch, device=x.device), :, down, right]
    return x


@torch.inference_mode()
def evaluate(model: nn.Module, split: Split) -> tuple[float, float]:
    """Put the model in eval mode; return its mean cross-entropy (nats) and its accuracy."""
    model.eval()
    loss = torch.zeros((), device=split.x.device)
    correct = torch.zeros((), device=split.x.device)
    for x, y in zip(split.x.split(EVALUATION_BATCH), split.y.split(EVALUATION_BATCH), strict=True):
        logits = model(x)
        loss += F.cross_entropy(logits, y, reduction="sum")
        correct += (logits.argmax(1) == y).sum()
    return loss.item() / len(split.y), correct.item() / len(split.y)
