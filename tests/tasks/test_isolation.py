"""Inside: the trial's own global state, whatever was there. Outside: the process's, untouched."""

import random

import numpy as np
import pytest
import torch

from sensweep.tasks.isolation import isolated


def draws():
    return [torch.rand(3).tolist(), np.random.rand(), random.random()]


def settings():
    return {
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warn_only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "fill": torch.utils.deterministic.fill_uninitialized_memory,
        "benchmark": torch.backends.cudnn.benchmark,
        "grad": torch.is_grad_enabled(),
    }


def change(values):
    torch.set_num_threads(values["threads"])
    torch.set_default_dtype(values["dtype"])
    torch.use_deterministic_algorithms(values["deterministic"], warn_only=values["warn_only"])
    torch.utils.deterministic.fill_uninitialized_memory = values["fill"]
    torch.backends.cudnn.benchmark = values["benchmark"]
    torch.set_grad_enabled(values["grad"])


UNUSUAL = {
    "threads": 3,
    "dtype": torch.float64,
    "deterministic": False,
    "warn_only": False,
    "fill": True,
    "benchmark": True,
    "grad": False,
}
# What the first leaves off, another caller may have on.
OTHER = {**UNUSUAL, "deterministic": True, "warn_only": True, "fill": False, "benchmark": False}


@pytest.fixture(params=[UNUSUAL, OTHER], ids=["unusual", "other"])
def process(request):
    """A process whose settings are not torch's defaults, nor the trial's."""
    before = settings()
    change(request.param)
    yield request.param
    change(before)


def test_inside_everything_is_the_trials_own(process):
    with isolated("cpu", 2, seed=7):
        first = draws()
        assert settings() == {
            "threads": 2,
            "dtype": torch.float32,
            "deterministic": True,
            "warn_only": False,
            "fill": False,
            "benchmark": False,
            "grad": True,
        }
    draws()
    with isolated("cpu", 2, seed=7):
        assert draws() == first
    with isolated("cpu", 2, seed=8):
        assert all(a != b for a, b in zip(draws(), first, strict=True))


@pytest.mark.parametrize("fails", [False, True])
def test_outside_nothing_has_changed(process, fails, unchanged):
    with unchanged():
        try:
            with isolated("cpu", 2, seed=2**63 - 1):
                draws()
                change({**UNUSUAL, "threads": 1, "grad": True})
                if fails:
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            pass
        assert settings() == process
