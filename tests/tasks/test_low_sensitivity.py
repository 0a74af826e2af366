"""The study `low_sensitivity`, its vision half: what it runs, and that the paper's models train."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from sensweep.orchestrator.plan import make_plan
from sensweep.orchestrator.study import load_study
from sensweep.tasks.models import build

VISION = ("train", "matched", "misaligned", "released", "sensitivity", "robustness", "sharpness")
VISION += ("sharpness_released",)
SEEDS = 5
# Points of the training stage: architectures, and interventions' strengths on three of them.
STRENGTHS = 3 * (3 + 3 + 2 + 2 + 2)
POINTS = {"cpu": 14 + 4 + STRENGTHS, "paper": 2 * (13 + STRENGTHS) + 6 + STRENGTHS}


@pytest.mark.parametrize("profile", POINTS)
def test_the_vision_stages_have_these_trials(profile):
    plan = make_plan(load_study("low_sensitivity", profile))
    counts = Counter(trial.stage for trial in plan.trials)
    assert {stage: counts[stage] for stage in VISION} == dict.fromkeys(
        VISION, SEEDS * POINTS[profile]
    )


def architectures() -> dict[str, tuple[dict[str, Any], int, int]]:
    """The distinct models of the paper profile with the channels and side of their images."""
    found = {}
    for block in load_study("low_sensitivity", "paper").axes["arch"].blocks:
        channels, side = (1, 28) if "fashion_mnist" in block.when["dataset"] else (3, 32)
        for label, arch in block.values.items():
            found[f"{label}-{side}"] = arch, channels, side
    return found


@pytest.mark.parametrize("model", architectures())
def test_the_papers_architectures_take_a_training_step(model):
    arch, channels, side = architectures()[model]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build(
            arch,
            num_classes=10,
            in_chans=channels,
            img_size=side,
            mean=[0.5] * channels,
            std=[0.25] * channels,
        )
        images = torch.rand(2, channels, side, side)
        loss = F.cross_entropy(network(images), torch.tensor([3, 7]))
    loss.backward()
    assert loss.isfinite()
    assert all(w.grad is not None and w.grad.isfinite().all() for w in network.parameters())
