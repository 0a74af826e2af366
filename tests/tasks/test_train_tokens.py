"""Training on sequences learns, repeats itself and resumes to the bit, and leaves no trace."""

from __future__ import annotations

import math
from itertools import islice

import pytest
import torch

from sensweep.tasks import checkpoints
from sensweep.tasks import train_tokens as training
from sensweep.tasks.api import Checkpoint, Context, TaskError
from sensweep.tasks.params.sequence_interventions import (
    EmbeddingNoise,
    SequenceSensitivityPenalty,
)
from sensweep.tasks.sequence_data import load_sequences
from sensweep.tasks.sequence_evaluation import load_sequence_model
from sensweep.tasks.sequence_interventions import SEQUENCE_LOSSES
from sensweep.tasks.sequence_models import build_sequence_model, site_of
from sensweep.tasks.train_tokens import evaluate, train_tokens

CUES = {"dataset": {"name": "cues", "examples": 300}, "arch": {"name": "one_attention"}}
ENCODER = {"name": "roberta", "layers": 1, "width": 16, "heads": 2, "hidden": 16}
TEXT = {"dataset": "roles", "train_size": 96, "max_length": 24, "arch": ENCODER}
ADDITION = {
    "dataset": {"name": "modular_addition", "modulus": 7, "train_fraction": 0.5},
    "arch": {"name": "one_attention", "heads": 2, "hidden": 32, "pool": "last"},
    "batch_size": None,
}
PENALTY = {"intervention": "sensitivity_penalty"}
CACHE: dict[str, object] = {}


def context(seed=0, **kwargs):
    return Context(seed=seed, cache=CACHE, **kwargs)


def run(params, **kwargs):
    return list(train_tokens(params, context(**kwargs)))


def values(rows, name):
    return [row.value for row in rows if row.name == name]


def same(a, b):
    """Are two states equal to the bit?"""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.parametrize(
    "arch", ["one_attention", "token_mlp", {"name": "lstm", "layers": 1, "width": 32}]
)
def test_learns_the_cues(arch):
    params = {**CUES, "dataset": {"name": "cues", "examples": 1000}, "arch": arch}
    rows = run({**params, "epochs": 4, "lr": 3e-3})
    assert values(rows, "validation_accuracy")[-1] > 0.9
    assert values(rows, "train_loss")[-1] < values(rows, "train_loss")[0]


def test_rows_are_named_and_measured_at_the_chosen_epochs_and_the_last():
    rows = run({**CUES, "epochs": 5, "measure_every": 2})
    per_epoch = [
        *("train_loss", "train_accuracy", "validation_loss", "validation_accuracy"),
        *("test_loss", "test_accuracy", "weight_norm"),
    ]
    assert [row.name for row in rows] == per_epoch * 3 + ["parameters", "diverged"]
    assert [row.step for row in rows[::7]] == [2, 4, 5, None]
    assert {row.name for row in rows if row.unit == "nats"} == {
        *("train_loss", "validation_loss", "test_loss"),
    }


RESUMED = {
    "text": {**TEXT, "epochs": 3, "warmup_steps": 4, "lr_decay": 0.9, "grad_clip": 1.0},
    "penalty": {**CUES, **PENALTY, "epochs": 3},
    "progress": {**ADDITION, "epochs": 6, "measure_every": 2, "progress_noise": 0.1},
}


@pytest.mark.parametrize("kind", RESUMED)
def test_resuming_after_any_measurement_gives_the_same_bits(tmp_path, kind):
    params = RESUMED[kind]
    whole = tmp_path / "whole"
    rows = run(params, folder=whole)
    saved = sorted(whole.iterdir())
    assert len(saved) == 3
    for file in saved:
        epoch = int(file.stem.removeprefix("step-"))
        folder = tmp_path / str(epoch)
        torch.manual_seed(epoch)  # what the process did before must not matter
        start = Checkpoint("train", epoch, file)
        left = [row for row in rows if row.step is None or row.step > epoch]
        assert run(params, folder=folder, resume_from=start) == left
        for later in (other for other in saved if other > file):
            assert same(checkpoints.load(folder / later.name), checkpoints.load(later))


def test_resuming_another_training_is_refused(tmp_path):
    run({**CUES, "epochs": 1}, folder=tmp_path)
    start = Checkpoint("train", 1, tmp_path / "step-000001.pt")
    with pytest.raises(TaskError, match="belongs to a training with other params"):
        run({**CUES, "epochs": 2}, resume_from=start)


def test_the_same_trial_gives_the_same_rows_after_any_other():
    params = {**TEXT, "epochs": 1}
    rows = run(params)
    run({**CUES, **PENALTY, "epochs": 1}, seed=9)
    assert run(params) == rows
    assert run(params, seed=1) != rows


def test_the_process_is_as_it_was_at_every_yield_and_after(unchanged):
    params = {**TEXT, **PENALTY, "epochs": 2, "progress_noise": 0.1}
    run({**params, "epochs": 1})  # first use of transformers
    torch.manual_seed(5)
    trial = train_tokens(params, context(threads=2))
    with torch.no_grad(), unchanged():
        list(islice(trial, 3))
    with unchanged():
        list(trial)


def test_interventions_without_strength_are_plain_training():
    plain = run({**CUES, "epochs": 2})
    for intervention in ("sensitivity_penalty", "noise_augmentation"):
        given = {**CUES, "epochs": 2, "intervention": intervention, "strength": 0.0}
        assert run(given) == plain
    assert run({**CUES, "epochs": 2, **PENALTY}) != plain


def test_a_diverged_training_ends_with_what_it_had(tmp_path):
    rows = run({**CUES, "epochs": 3, "lr": 1e30}, folder=tmp_path)
    assert [(row.name, row.value) for row in rows] == [("diverged", 1)]
    assert not list(tmp_path.iterdir())


def test_train_size_takes_the_first_of_the_split(tmp_path):
    run({**TEXT, "epochs": 1}, folder=tmp_path)
    assert checkpoints.load(tmp_path / "step-000001.pt")["train_size"] == 96
    with pytest.raises(TaskError, match=r"train_size=5000, but .* has 2000 sequences"):
        run({**TEXT, "train_size": 5000})


def test_the_model_is_rebuilt_from_its_checkpoint_alone(tmp_path):
    rows = run({**TEXT, "epochs": 1}, folder=tmp_path)
    checkpoint = Checkpoint("train", 1, tmp_path / "step-000001.pt")
    model, facts = load_sequence_model(checkpoint)
    data = load_sequences(facts["dataset"], {}, **facts["reading"])
    assert evaluate(model, data.test, data.pad)[1] == values(rows, "test_accuracy")[0]


def test_an_image_models_checkpoint_is_refused(trained):
    with pytest.raises(TaskError, match="is not of the task train_tokens"):
        load_sequence_model(trained)


def test_learning_rate_warms_up_and_decays(monkeypatch):
    rates = []

    class Watching(torch.optim.AdamW):
        def step(self, *args, **kwargs):
            rates.append(self.param_groups[0]["lr"])
            return super().step(*args, **kwargs)

    monkeypatch.setattr(training.torch.optim, "AdamW", Watching)
    run({**CUES, "epochs": 2, "batch_size": 100, "warmup_steps": 2, "lr": 0.4, "lr_decay": 0.5})
    assert rates == pytest.approx([0.2, 0.4, 0.4, 0.2, 0.2, 0.2])


def model_and_batch():
    data = load_sequences(CUES["dataset"], CACHE)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_sequence_model(CUES["arch"], **data.facts)
    return model, data.train.x[:8], data.train.y[:8], data


@pytest.mark.parametrize("perturbation", ["embedding", "token"])
def test_the_penalty_is_its_formula_with_one_token_perturbed(perturbation):
    model, x, y, data = model_and_batch()
    seen, tokens = [], []
    site_of(model, "entry").register_forward_hook(lambda m, a, out: seen.append(out.detach()))
    model.register_forward_hook(lambda m, a, out: tokens.append((a[0], out)))
    spec = SequenceSensitivityPenalty(strength=0.3, perturbation=perturbation, noise=2.0)
    noise = torch.Generator().manual_seed(0)
    loss = SEQUENCE_LOSSES["sensitivity_penalty"](model, x, y, spec, data, noise)
    (_, clean), (_, moved) = tokens
    cross_entropy = torch.nn.functional.cross_entropy(clean, y)
    expected = 0.7 * cross_entropy + 0.3 * (clean - moved).square().mean()
    torch.testing.assert_close(loss, expected)
    changed = (seen[0] != seen[1]).any(-1).sum(1)
    assert changed.max() == 1
    assert changed.sum() >= (8 if perturbation == "embedding" else 5)  # a word may be itself


def test_noise_augmentation_is_of_the_size_that_was_asked_for():
    model, x, y, data = model_and_batch()
    seen = []
    site_of(model, "entry").register_forward_hook(lambda m, a, out: seen.append(out.detach()))
    model(x)
    noise = torch.Generator().manual_seed(0)
    SEQUENCE_LOSSES["noise_augmentation"](model, x, y, EmbeddingNoise(strength=0.5), data, noise)
    size = (seen[1] - seen[0]).square().sum(-1).mean().sqrt()
    norm = model.embedding(x).norm(dim=-1).mean()
    assert (size / norm).item() == pytest.approx(0.5, rel=0.05)


def test_progress_is_followed_and_summed_up():
    rows = run({**ADDITION, "epochs": 300, "measure_every": 50, "progress_noise": 0.3, "lr": 0.005})
    assert len(values(rows, "sentence_sensitivity")) == 6
    assert all(0 <= value <= 1 for value in values(rows, "sentence_sensitivity"))
    ratio = values(rows, "noise_ratio")
    assert all(math.isfinite(value) and value > 0 for value in ratio)
    assert values(rows, "train_accuracy")[-1] > 0.99
    assert [r.coordinates["measure"] for r in rows if r.name == "bump"] == [
        *("sensitivity", "weight_norm"),
    ]
