"""What the analyses of a trained image model share: the model, and the images."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn

from sensweep.tasks import checkpoints
from sensweep.tasks.api import Checkpoint, Context
from sensweep.tasks.data import Split, load
from sensweep.tasks.models import build


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
    checkpoint = checkpoints.only_parent(context)
    model, facts = load_model(checkpoint, context.device)
    x, y = getattr(load(facts["dataset"], context.cache, context.device), split)
    if split == "train":
        x, y = x[: facts["train_size"]], y[: facts["train_size"]]
    generator = torch.Generator().manual_seed(context.stream(f"images/{split}"))
    chosen = torch.randperm(len(x), generator=generator)[:images].to(x.device)
    return Subject(model, Split(x[chosen], y[chosen]), checkpoint.step)


def load_model(checkpoint: Checkpoint, device: str = "cpu") -> tuple[nn.Sequential, dict[str, Any]]:
    """Rebuild the model of a `train` checkpoint from the file alone.

    Returns:
        The model in eval mode on `device`, from [N, in_chans, img_size, img_size] in [0, 1] to
        logits [N, num_classes]; and the rest of the state except the optimiser's: ``dataset``,
        ``arch``, ``num_classes``, ``in_chans``, ``img_size``, ``train_size`` (images that were
        trained on: the first of the train split), ``epoch``, ``params``.

    Raises:
        TaskError: the file is unreadable, or its weights do not fit its architecture.
    """
    state = checkpoints.load(checkpoint.path)
    weights = state.pop("model")
    state.pop("optimizer", None)
    no_normalisation = [0.0] * state["in_chans"], [1.0] * state["in_chans"]
    with torch.random.fork_rng(devices=[]):  # the initial weights are overwritten
        model = build(
            state["arch"],
            num_classes=state["num_classes"],
            in_chans=state["in_chans"],
            img_size=state["img_size"],
            mean=no_normalisation[0],
            std=no_normalisation[1],
        )
    checkpoints.put_weights(model, weights, checkpoint.path, state["arch"])
    return model.eval().to(device), state
