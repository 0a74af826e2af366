"""Checkpoint files: everything to continue a training, or to rebuild its model elsewhere."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sensweep.tasks.api import Checkpoint, Context, TaskError


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


def save_training(
    path: Path,
    state: Mapping[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Write what `restore_training` reads: a state with the ``params``, and both state dicts."""
    weights = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    save(path, {**state, **weights})


def restore_training(
    path: Path,
    params: Mapping[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> dict[str, Any]:
    """Put model and optimiser into the state of a checkpoint of this very training; return it.

    Raises:
        TaskError: the checkpoint is unreadable or another training's.
    """
    state = load(path)
    if state["params"] != params:
        raise TaskError(f"checkpoint {str(path)!r} belongs to a training with other params")
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return state


def put_weights(model: nn.Module, weights: Mapping[str, Any], path: Path, arch: object) -> None:
    """Load weights into a model that was rebuilt from `arch`.

    Raises:
        TaskError: they do not fit.
    """
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise TaskError(
            f"checkpoint {str(path)!r} does not fit arch {arch!r}: "
            f"{str(error).splitlines()[-1].strip()}"
        ) from error


def only_parent(context: Context) -> Checkpoint:
    """Return the one checkpoint that an analysis was given.

    Raises:
        TaskError: there is not exactly one.
    """
    if len(context.parents) != 1:
        raise TaskError(
            f"an analysis needs one checkpoint, and got {len(context.parents)} "
            f"({', '.join(context.parents) or 'none'}); give its stage `needs: STAGE@final`"
        )
    [checkpoint] = context.parents.values()
    return checkpoint
