"""What the analyses of a trained model share: the model, the images, and its logits on them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sensweep.tasks.api import Context, TaskError
from sensweep.tasks.checkpoints import load_model
from sensweep.tasks.data import Split, load


class Subject(NamedTuple):
    """A trained model and the images that it is examined on.

    Attributes:
        model: in eval mode, from pixels in [0, 1] to logits.
        images: float32 [N, C, H, W] in [0, 1], with their labels.
        step: the step of the training after which the model was saved.
    """

    model: nn.Module
    images: Split
    step: int


def subject(context: Context, split: str, images: int) -> Subject:
    """Load the one checkpoint that the analysis was given, and a random subset of a split.

    The subset depends on the trial's seed alone: models of the same seed meet the same images,
    and an interval over seeds holds the error of having looked at some images only. Of the train
    split, only images that the model was trained on are drawn.

    Args:
        context: the trial's context, with one parent.
        split: ``train``, ``validation`` or ``test``.
        images: how many images; all, if there are fewer.

    Raises:
        TaskError: there is not exactly one checkpoint, or it cannot be loaded.
    """
    if len(context.parents) != 1:
        raise TaskError(
            f"an analysis needs one checkpoint, and got {len(context.parents)} "
            f"({', '.join(context.parents) or 'none'}); give its stage `needs: train@final`"
        )
    [checkpoint] = context.parents.values()
    model, facts = load_model(checkpoint, context.device)
    x, y = getattr(load(facts["dataset"], context.cache, context.device), split)
    if split == "train":
        x, y = x[: facts["train_size"]], y[: facts["train_size"]]
    generator = torch.Generator().manual_seed(context.stream(f"images/{split}"))
    chosen = torch.randperm(len(x), generator=generator)[:images].to(x.device)
    return Subject(model, Split(x[chosen], y[chosen]), checkpoint.step)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model in eval mode without gradients, and leave each module as it was."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module in training:
            module.training = True


def logits(model: nn.Module, images: Tensor, batch_size: int) -> Tensor:
    """Give the model's outputs [N, classes] in eval mode, `batch_size` images at a time."""
    with evaluating(model):
        return torch.cat([model(part) for part in images.split(batch_size)])


def predictions(model: nn.Module, images: Tensor, batch_size: int) -> Tensor:
    """Give the class of the largest logit, int64 [N]; -1, which is no class, where one is NaN."""
    scores = logits(model, images, batch_size)
    return scores.argmax(1).masked_fill(scores.isnan().any(1), -1)
