"""Checkpoint files: everything to continue a training, or to rebuild its model elsewhere."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sensweep.tasks.api import Checkpoint, TaskError
from sensweep.tasks.models import build


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state of tensors, numbers, strings, lists and mappings."""
    torch.save(dict(state), path)


def load(path: Path) -> dict[str, Any]:
    """Read a state onto the CPU. Nothing in the file is executed (``weights_only``).

    Raises:
        TaskError: the file is missing, damaged or not a checkpoint.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TaskError(f"checkpoint {str(path)!r}: unreadable: {reason}") from error


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
    state = load(checkpoint.path)
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
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise TaskError(
            f"checkpoint {str(checkpoint.path)!r} does not fit arch {state['arch']!r}: "
            f"{str(error).splitlines()[-1].strip()}"
        ) from error
    return model.eval().to(device), state
