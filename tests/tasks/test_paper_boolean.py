"""The study `sensitive_functions` is what it says it is, at each scale, the paper's included."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from sensweep.orchestrator.plan import make_plan
from sensweep.orchestrator.study import load_study
from sensweep.tasks.boolean import Target
from sensweep.tasks.boolean_model import BooleanTransformer, posed
from sensweep.tasks.params.train_boolean import TrainBooleanParams
from sensweep.tasks.train_boolean import architecture

STUDY = Path(__file__).parents[2] / "tasks" / "studies" / "sensitive_functions.yaml"
# Trainings of each stage; every analysis has as many trials as the stage that it needs.
PAPER = {
    "scaling": 10 * (4 * 27 + 30),  # 4 to 30 bits, and 30 lengths with a scratchpad
    "cloud": 10 * 2 * 4 * 5,
    "dynamics": 10 * 4,
    "completions": 10 * 10 * 4,
    "refit": 10 * 10 * 4 * 2,
    "longer": 10 * 3,
}
CPU = {
    "scaling": 5 * (4 * 6 + 4),
    "cloud": 5 * 2 * 3 * 4,
    "dynamics": 5 * 2,
    "completions": 5 * 6 * 2,
    "refit": 5 * 6 * 2 * 2,
    "longer": 5 * 3,
}


@pytest.fixture(scope="module")
def paper():
    return make_plan(load_study(STUDY, "paper"))


@pytest.mark.parametrize(("profile", "trainings"), [("paper", PAPER), ("cpu", CPU)])
def test_stages_have_the_trials_that_the_docs_give(profile, trainings, paper):
    plan = paper if profile == "paper" else make_plan(load_study(STUDY, profile))
    counts = {stage: sum(found.values()) for stage, found in plan.counts().items()}
    assert counts == {stage: trainings[stage.split("_")[0]] for stage in plan.stages}
    assert counts.keys() >= trainings.keys()


def test_the_paper_profile_trains_with_the_papers_settings(paper):
    trained = [t for t in paper.trials if t.task.endswith(":train_boolean")]
    params = [TrainBooleanParams.model_validate(t.params) for t in trained]
    for p in params:
        assert (p.depth, p.heads, p.feedforward, p.norm) == (2, 2, None, "post")
        assert (p.embedding, p.attention, p.cooldown, p.fit_loss) in (
            ("concatenate", "softmax", 0, 1e-3),
            ("concatenate", "softmax", 0, 0.05),  # of `longer`, which is not the paper's
        )
        assert (p.width, p.batch_size) == ((32, 128) if p.scratchpad else (128, 1024))
    scaling = [p for t, p in zip(trained, params, strict=True) if t.stage == "scaling"]
    assert {p.lr for p in scaling} == {3e-4}
    assert {p.weight_decay for p in scaling} == {0.1}
    assert {p.steps for p in scaling} == {10_000}
    dynamics = [p for t, p in zip(trained, params, strict=True) if t.stage == "dynamics"]
    assert {p.weight_decay for p in dynamics} == {0.0, 0.1, 0.2, 0.3}
    assert {(p.length, p.steps, p.measure_every) for p in dynamics} == {(25, 20_000, 100)}
    noise = [t.params for t in paper.trials if t.stage == "scaling_sharpness"]
    assert all((p["draws"], p["batches"]) == (10, 100) and 0.02 in p["sigmas"] for p in noise)


def test_each_of_the_papers_architectures_can_be_built_and_trained_a_step(paper):
    trained = [t.params for t in paper.trials if t.task.endswith(":train_boolean")]
    longest: dict[str, TrainBooleanParams] = {}
    for params in trained:
        p = TrainBooleanParams.model_validate(params)
        kind = str({k: v for k, v in architecture(p).items() if k != "positions"})
        if kind not in longest or p.length > longest[kind].length:
            longest[kind] = p
    assert len(longest) == 3  # encoder; with a scratchpad; with randomised places
    for p in longest.values():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = BooleanTransformer(**architecture(p)).train()
            bits = torch.randint(2, (2, p.length))
            arguments, wanted = posed(model, Target(p.function), bits)
            loss = F.mse_loss(model(*arguments), wanted)
        loss.backward()
        assert loss.isfinite()
        unused = [n for n, w in model.named_parameters() if w.grad is None]
        assert unused == []
    encoder = next(p for p in longest.values() if p.places == "fixed" and not p.scratchpad)
    weights = BooleanTransformer(**architecture(encoder)).named_parameters()
    # As many as the released code's model, whose own count this is.
    assert sum(w.numel() for name, w in weights if name != "positions.weight") == 199_425
