"""The sequence half of the study `low_sensitivity` at the paper's scale: its trials, its models."""

from __future__ import annotations

import json
from collections import Counter

import pytest
import torch

from sensweep.orchestrator.plan import make_plan
from sensweep.orchestrator.study import load_study
from sensweep.tasks.params.train_tokens import TrainTokensParams
from sensweep.tasks.sequence_models import build_sequence_model

# Of the data that need a network: the length and padding of the paper, and fewer words.
TEXT = {"num_classes": 2, "vocabulary": 1000, "length": 128, "pad": 1}
FACTS = {
    "glue/mrpc": TEXT,
    "glue/qqp": TEXT,
    "cues": {"num_classes": 2, "vocabulary": 21, "length": 20, "pad": 0},
    "modular_addition": {"num_classes": 113, "vocabulary": 115, "length": 3, "pad": 0},
}
STAGES = {
    "train_text": 8,
    "text_sensitivity": 16,
    "text_words": 8,
    "text_course": 8,
    "text_robustness": 8,
    "train_cues": 10,
    "cue_sensitivity": 10,
    "train_addition": 1,
}


@pytest.fixture(scope="module")
def plan():
    return make_plan(load_study("low_sensitivity", "paper"))


def test_trials_of_the_paper_profile(plan):
    seeds = len(plan.study.seeds)
    counts = Counter(trial.stage for trial in plan.trials)
    assert {stage: counts[stage] for stage in STAGES} == {
        stage: points * seeds for stage, points in STAGES.items()
    }


def test_one_model_and_one_batch_of_each_architecture(plan):
    given = {
        json.dumps([trial.params["dataset"], trial.params["arch"]]): trial.params
        for trial in plan.trials
        if trial.stage in ("train_text", "train_cues", "train_addition")
    }
    built = set()
    for params in given.values():
        p = TrainTokensParams.model_validate(params)
        facts = FACTS[p.dataset if isinstance(p.dataset, str) else p.dataset["name"]]
        key = json.dumps([p.arch, facts])
        if key in built:
            continue
        built.add(key)
        model = build_sequence_model(p.arch, **facts)
        batch = torch.randint(2, facts["vocabulary"], (2, facts["length"]))
        loss = torch.nn.functional.cross_entropy(model(batch), torch.tensor([0, 1]))
        loss.backward()
        assert loss.isfinite()
        assert all(weight.grad is not None for weight in model.parameters())
    assert len(built) == 7


def test_paper_scale_is_the_papers(plan):
    (addition,) = [t for t in plan.trials if t.stage == "train_addition" and t.seed == 0]
    assert addition.params["epochs"] == 17_000
    assert addition.params["dataset"] == {
        "name": "modular_addition",
        "modulus": 113,
        "train_fraction": 0.3,
    }
    for trial in plan.trials:
        if trial.stage == "train_text":
            assert trial.params["epochs"] == 100
            assert trial.params["batch_size"] == 32
            assert trial.params["tokenizer"] == "roberta-base"
            assert trial.params["lr"] == 1e-4
            assert trial.params["lr_decay"] == 0.9
