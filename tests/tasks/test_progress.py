"""The bump of a series against its definition, and what is said of a training's course."""

from __future__ import annotations

import random

import pytest
import torch

from sensweep.tasks.progress import bump, progress_rows, weight_norm


def literal_bump(values):
    best = 0.0
    for i, value in enumerate(values):
        climbs = [value - earlier for earlier in values[: i + 1]]
        falls = [value - later for later in values[i:]]
        best = max(best, min(max(climbs), max(falls)))
    return best / max(values)


def test_bump_is_its_definition():
    source = random.Random(0)
    for _ in range(50):
        values = [source.random() for _ in range(source.randint(1, 12))]
        assert bump(values)[0] == pytest.approx(literal_bump(values))


def test_bump_of_known_series():
    assert bump([5, 4, 3, 1]) == (0.0, 0)
    assert bump([1, 2, 3])[0] == 0
    assert bump([2, 1, 9, 3, 0]) == (8 / 9, 2)
    assert bump([10, 2, 6, 1])[0] == pytest.approx(0.4)  # the fall at the start is no bump
    assert bump([0.0, 0.0]) == (0.0, 0)
    assert bump([]) == (0.0, 0)


def test_the_course_is_told_from_the_first_fitted_epoch_on():
    history = [
        # epoch, train accuracy, train loss, sensitivity, weight norm
        [10, 0.5, 2.0, 0.9, 50],
        [20, 0.995, 0.3, 0.2, 40],
        [30, 0.98, 0.2, 0.6, 30],
        [40, 1.0, 0.1, 0.8, 20],
        [50, 1.0, 0.05, 0.45, 15],
        [60, 1.0, 0.04, 0.0, 10],
    ]
    rows = {(r.name, r.coordinates.get("measure")): r.value for r in progress_rows(history)}
    assert rows == {
        ("fitted_epoch", None): 20,
        ("bump", "sensitivity"): pytest.approx(0.75),
        ("peak_epoch", "sensitivity"): 40,
        ("fall_epoch", "sensitivity"): 60,
        ("falling_loss", "sensitivity"): 0.05,
        ("bump", "weight_norm"): 0,
    }
    assert list(progress_rows(history[:1])) == []
    assert list(progress_rows([])) == []


def test_weight_norm_is_of_all_trainable_weights():
    model = torch.nn.Linear(3, 2)
    model.bias.requires_grad = False
    assert weight_norm(model) == pytest.approx(model.weight.norm().item())
