"""A trained model to analyse, and a check that a stretch of code leaves the process alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import pytest
import torch

from sensweep.tasks.api import Checkpoint, Context
from sensweep.tasks.train import train


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Keep threads of small operations from waiting for one another on busy cores."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """The last checkpoint of a small MLP, trained on the first 600 digits."""
    folder = tmp_path_factory.mktemp("trained")
    params = {"dataset": "digits", "arch": {"name": "mlp", "hidden": [32]}, "train_size": 600}
    for _ in train({**params, "epochs": 4, "lr": 0.005}, Context(seed=1, folder=folder)):
        pass
    return Checkpoint("train", 4, folder / "step-000004.pt")


@pytest.fixture
def unchanged() -> Callable[[], AbstractContextManager[None]]:
    """Use as `with unchanged(): ...`; fails if a global generator or setting has moved."""

    def state() -> list[object]:
        kind, keys, *rest = np.random.get_state()
        return [
            torch.get_rng_state().tolist(),
            (kind, keys.tolist(), *rest),
            random.getstate(),
            torch.get_num_threads(),
            torch.get_default_dtype(),
            torch.are_deterministic_algorithms_enabled(),
            torch.is_grad_enabled(),
        ]

    @contextmanager
    def check() -> Iterator[None]:
        before = state()
        yield
        assert state() == before

    return check
