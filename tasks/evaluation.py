"""A model's outputs in eval mode, and the classes that it predicts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


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
