"""Training learns, repeats itself to the bit, resumes to the same bits, and leaves no trace."""

import math
import sys
from itertools import islice
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from sensweep.tasks import checkpoints
from sensweep.tasks import train as training
from sensweep.tasks.api import Checkpoint, Context, TaskError
from sensweep.tasks.data import Split, load
from sensweep.tasks.params.train import TrainParams
from sensweep.tasks.train import augment, evaluate, learning_rate, make_optimizer, train

VIT = {
    "name": "vit_tiny_patch16_224",
    "patch_size": 2,
    "depth": 2,
    "embed_dim": 32,
    "num_heads": 2,
    "mlp_ratio": 2,
    "weight_init": "jax",
}
SMALL = {"dataset": "digits", "arch": {"name": "mlp", "hidden": [32]}, "train_size": 256}
DROPOUT = {**VIT, "depth": 1, "proj_drop_rate": 0.2, "drop_path_rate": 0.1, "drop_rate": 0.1}
PENALTY = {"intervention": {"name": "sensitivity_penalty", "patch": 2}}
CIFAR = Path("/work/shared/data/cifar10")
CACHE: dict[str, object] = {}


def context(seed=0, **kwargs):
    return Context(seed=seed, cache=CACHE, **kwargs)


def run(params, **kwargs):
    return list(train(params, context(**kwargs)))


def values(rows, name):
    return [row.value for row in rows if row.name == name]


def weights(folder, epoch):
    return checkpoints.load(folder / f"step-{epoch:06d}.pt")


def same(a, b):
    """Are two checkpoints equal to the bit, the optimiser's state included?"""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.parametrize(
    ("arch", "epochs"), [("mlp", 4), ({"name": "cnn", "width": 16}, 5), (VIT, 14)]
)
def test_learns_digits(arch, epochs):
    rows = run({"dataset": "digits", "arch": arch, "epochs": epochs, "lr": 5e-3, "batch_size": 32})
    (accuracy,) = values(rows, "test_accuracy")
    assert accuracy > 0.9
    assert values(rows, "train_loss")[-1] < values(rows, "train_loss")[0]


def test_sgd_learns_too():
    rows = run({"dataset": "digits", "arch": "mlp", "optimizer": "sgd", "lr": 0.1, "epochs": 5})
    assert values(rows, "test_accuracy")[0] > 0.9


def test_rows_are_named_counted_from_one_and_in_their_units():
    rows = run({**SMALL, "epochs": 2})
    per_epoch = ["train_loss", "train_accuracy", "validation_loss", "validation_accuracy"]
    last = ["test_loss", "test_accuracy", "parameters", "diverged"]
    assert [row.name for row in rows] == per_epoch * 2 + last
    assert [row.step for row in rows] == [1] * 4 + [2] * 4 + [None] * 4
    assert {row.name for row in rows if row.unit == "nats"} == {
        "train_loss",
        "validation_loss",
        "test_loss",
    }
    assert values(rows, "parameters") == [64 * 32 + 32 + 32 * 10 + 10]
    assert values(rows, "diverged") == [0]


def test_each_epoch_offers_a_checkpoint_after_its_rows(tmp_path):
    offered = []

    class Watching(Context):
        def checkpoint(self, step, save, **metrics):
            offered.append((step, len(rows), metrics))

    rows = []
    for row in train({**SMALL, "epochs": 2}, Watching(cache=CACHE)):
        rows.append(row)
    assert [(step, seen) for step, seen, _ in offered] == [(1, 4), (2, 8)]
    assert offered[1][2] == {
        "train_accuracy": values(rows, "train_accuracy")[1],
        "validation_accuracy": values(rows, "validation_accuracy")[1],
    }


@pytest.mark.parametrize("intervention", [{}, PENALTY])
def test_resuming_after_any_epoch_gives_the_same_bits(tmp_path, intervention):
    params = {
        **SMALL,
        **intervention,
        "arch": DROPOUT,
        "epochs": 3,
        "shift": 1,
        "flip": True,
    }
    whole = tmp_path / "whole"
    rows = run(params, folder=whole)
    for epoch in (1, 2, 3):
        folder = tmp_path / str(epoch)
        start = Checkpoint("train", epoch, whole / f"step-{epoch:06d}.pt")
        torch.manual_seed(epoch)  # what the process did before must not matter
        assert run(params, folder=folder, resume_from=start) == rows[4 * epoch :]
        for later in range(epoch + 1, 4):
            assert same(weights(folder, later), weights(whole, later))


def test_resuming_another_training_is_refused(tmp_path):
    run({**SMALL, "epochs": 1}, folder=tmp_path)
    start = Checkpoint("train", 1, tmp_path / "step-000001.pt")
    with pytest.raises(TaskError, match="belongs to a training with other params"):
        run({**SMALL, "epochs": 2}, resume_from=start)


def test_the_same_trial_gives_the_same_bits_after_any_other(tmp_path):
    params = {**SMALL, "arch": DROPOUT, "epochs": 2, **PENALTY}
    rows = run(params, folder=tmp_path / "a")
    run({**SMALL, "epochs": 1, "intervention": "noise_augmentation", "strength": 0.1}, seed=9)
    assert run(params, folder=tmp_path / "b") == rows
    assert same(weights(tmp_path / "a", 2), weights(tmp_path / "b", 2))
    assert run(params, seed=1) != rows


def test_interventions_share_initialisation_and_data_order():
    """Without any strength, every intervention is plain training: common random numbers."""
    plain = run({**SMALL, "epochs": 2})
    none = {**PENALTY, "strength": 0.0}
    noiseless = {"intervention": "noise_augmentation", "strength": 0.0}
    for intervention in (none, noiseless):
        assert run({**SMALL, "epochs": 2, **intervention}) == plain


@pytest.mark.parametrize("threads", [1, 2])
def test_the_process_is_as_it_was_at_every_yield_and_after(threads, unchanged):
    params = {**SMALL, "arch": DROPOUT, "train_size": 64, "epochs": 2, **PENALTY}
    run({**params, "epochs": 1})  # first use of timm, of the data and of torch's own caches
    torch.manual_seed(5)
    trial = train(params, context(threads=threads))
    with unchanged():
        next(trial)
    with torch.no_grad(), unchanged():
        next(trial)  # and a caller without gradients does not keep the trial from learning
        assert len(list(trial)) == 10
    trial = train(params, context(threads=threads))
    with unchanged():
        list(islice(trial, 5))
        trial.close()


def test_a_failure_in_the_loop_leaves_the_process_as_it_was(unchanged):
    params = {**SMALL, "intervention": {"name": "sensitivity_penalty", "patch": 9}}
    with unchanged(), pytest.raises(TaskError, match="patch=9 is larger than the images of 8x8"):
        run(params)


def test_a_diverged_training_ends_with_what_it_had(tmp_path):
    params = {**SMALL, "optimizer": "sgd", "schedule": "constant", "warmup_epochs": 0, "epochs": 3}
    rows = run({**params, "lr": 1e30}, folder=tmp_path)
    assert [(row.name, row.value) for row in rows] == [("diverged", 1)]
    assert not list(tmp_path.iterdir())
    # Warm-up keeps the first epoch finite; then it blows up.
    rows = run({**params, "lr": 1e5, "warmup_epochs": 3, "batch_size": 256}, folder=tmp_path)
    assert rows[-1].name == "diverged"
    assert all(math.isfinite(row.value) for row in rows)


def test_train_size_takes_the_first_of_the_split(tmp_path):
    run({**SMALL, "epochs": 1}, folder=tmp_path)
    assert weights(tmp_path, 1)["train_size"] == 256
    with pytest.raises(TaskError, match=r"train_size=5000, but .* has 1199 images"):
        run({**SMALL, "train_size": 5000})


SEEN_MODEL = """
import torch
from torch.nn import functional as F

SEEN = []  # of each forward pass in training: its images, and dropout's mask

class Model(torch.nn.Linear):
    def forward(self, x):
        x = x.flatten(1)
        if self.training:
            SEEN.append((x, F.dropout(torch.ones(500)) != 0))
        return super().forward(x)

def model(num_classes, in_chans, img_size):
    return Model(in_chans * img_size**2, num_classes)
"""


@pytest.fixture
def watched(tmp_path, monkeypatch):
    """Train on 100 images in batches of 32; return each epoch's images and dropout masks."""
    (tmp_path / "seen_model.py").write_text(SEEN_MODEL)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "seen_model", raising=False)
    import seen_model

    def start(seed=0, **kwargs):
        seen_model.SEEN.clear()
        arch = {**SMALL, "arch": "seen_model:model", "train_size": 100, "batch_size": 32}
        run({**arch, "epochs": 2, **kwargs}, seed=seed)
        images, masks = zip(*seen_model.SEEN, strict=True)
        half = len(images) // 2
        return [
            (torch.cat(images[part]), torch.stack(masks[part]))
            for part in (slice(0, half), slice(half, None))
        ]

    return start


def test_each_epoch_visits_each_image_at_most_once_in_a_new_order(watched):
    (first, _), (second, _) = watched()
    splits = load("digits", CACHE)
    images = (splits.train.x[:100] - splits.mean[0]) / splits.std[0]
    for epoch in (first, second):
        assert len(epoch) == 96  # the incomplete batch is left out
        distance, which = torch.cdist(epoch, images.flatten(1)).min(1)
        assert distance.max() < 0.1
        assert len(which.unique()) == 96
    assert not torch.equal(first, second)


def test_streams_are_independent_new_each_epoch_and_common_to_interventions(watched):
    noise_augmentation = {"intervention": "noise_augmentation", "strength": 0.5}
    (first, masks), (second, later_masks) = watched()
    (noised, same_masks), (later_noised, _) = watched(**noise_augmentation)
    (other, other_masks), _ = watched(seed=1)
    added, later_added = noised - first, later_noised - second
    # The noise alone has changed, so its own size is left when the plain images are taken away.
    assert added.std().item() == pytest.approx(0.5 / load("digits", CACHE).std[0], rel=0.05)
    assert torch.equal(masks, same_masks)
    correlation = torch.corrcoef(torch.stack([added.flatten(), later_added.flatten()]))[0, 1]
    assert abs(correlation) < 0.1
    for a, b in ((masks[0], masks[1]), (masks, later_masks), (masks, other_masks)):
        assert (a == b).float().mean().item() == pytest.approx(0.5, abs=0.1)
    assert not torch.equal(first, other)


def test_learning_rate_rises_linearly_and_falls_along_a_cosine():
    p = TrainParams(**SMALL, epochs=10, lr=0.5, warmup_epochs=2)
    rates = [learning_rate(p, step, 5) for step in range(50)]
    assert rates[:10] == pytest.approx([0.05 * (i + 1) for i in range(10)])
    assert rates[10:] == pytest.approx([0.25 * (1 + math.cos(math.pi * i / 40)) for i in range(40)])
    constant = TrainParams(**SMALL, schedule="constant", warmup_epochs=0, lr=0.5)
    assert {learning_rate(constant, step, 5) for step in range(50)} == {0.5}


def test_the_schedule_runs_over_the_whole_training_and_moves_the_weights(tmp_path, monkeypatch):
    asked = []

    def schedule(p, step, steps_per_epoch):
        asked.append((step, steps_per_epoch))
        return 0.0 if step >= steps_per_epoch else 0.01

    monkeypatch.setattr(training, "learning_rate", schedule)
    run({**SMALL, "epochs": 3}, folder=tmp_path)
    assert asked == [(step, 4) for step in range(12)]
    one, two = (weights(tmp_path, epoch)["model"] for epoch in (1, 2))
    assert same(one, two)  # the rate that was asked for is the one that was used
    asked.clear()
    start = Checkpoint("train", 1, tmp_path / "step-000001.pt")
    run({**SMALL, "epochs": 3}, resume_from=start)
    assert asked == [(step, 4) for step in range(4, 12)]


@pytest.mark.parametrize(
    ("given", "kind", "expected"),
    [
        ({}, torch.optim.AdamW, {"lr": 0.2, "weight_decay": 0.3, "fused": True}),
        (
            {"optimizer": "sgd", "momentum": 0.8},
            torch.optim.SGD,
            {"lr": 0.2, "weight_decay": 0.3, "momentum": 0.8, "fused": True},
        ),
    ],
)
def test_the_optimizer_is_the_one_that_was_asked_for(given, kind, expected):
    model = nn.Linear(2, 3)
    model.bias.requires_grad = False
    optimizer = make_optimizer(model, TrainParams(**SMALL, lr=0.2, weight_decay=0.3, **given))
    (group,) = optimizer.param_groups
    assert type(optimizer) is kind
    assert expected.items() <= group.items()
    assert [id(weight) for weight in group["params"]] == [id(model.weight)]


def test_augment_shifts_and_mirrors_each_image_by_itself():
    x = torch.rand(64, 2, 5, 5)
    p = TrainParams(**SMALL, flip=True, shift=2)
    got = augment(x, p, torch.Generator().manual_seed(0))
    seen = set()
    for before, after in zip(x, got, strict=True):
        padded = {m: nn.functional.pad(before.flip(2) if m else before, (2,) * 4) for m in (0, 1)}
        (found,) = [
            (mirrored, down, right)
            for mirrored in (0, 1)
            for down in range(5)
            for right in range(5)
            if torch.equal(padded[mirrored][:, down : down + 5, right : right + 5], after)
        ]
        seen.add(found)
    assert {mirrored for mirrored, _, _ in seen} == {0, 1}
    assert {down for _, down, _ in seen} == {right for _, _, right in seen} == set(range(5))
    assert augment(x, TrainParams(**SMALL), torch.Generator()) is x


def test_evaluation_is_the_mean_over_all_images_in_eval_mode():
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(4, 3))
    x, y = torch.rand(601, 1, 2, 2), torch.arange(601) % 3
    loss, accuracy = evaluate(model, Split(x, y))
    logits = model.eval()(x)
    assert loss == pytest.approx(nn.functional.cross_entropy(logits, y).item(), rel=1e-5)
    assert accuracy == pytest.approx((logits.argmax(1) == y).float().mean().item())


@pytest.mark.parametrize(
    "change",
    [{"label_smoothing": 0.1}, {"grad_clip": 0.1}, {"precision": "bf16"}, {"weight_decay": 5.0}],
)
def test_each_knob_changes_the_training_and_it_still_learns(change):
    plain = run({**SMALL, "epochs": 3, "lr": 0.01})
    rows = run({**SMALL, "epochs": 3, "lr": 0.01, **change})
    assert values(rows, "train_loss") != values(plain, "train_loss")
    assert values(rows, "test_accuracy")[0] > 0.4


def test_wrong_params_are_refused():
    with pytest.raises(ValidationError, match="Extra inputs"):
        run({**SMALL, "learning_rate": 0.1})


@pytest.mark.slow
def test_compiled_training_learns():
    rows = run({**SMALL, "epochs": 3, "lr": 0.01, "compile": True})
    assert values(rows, "test_accuracy")[0] > 0.4


@pytest.mark.slow
@pytest.mark.skipif(not CIFAR.is_dir(), reason=f"no CIFAR-10 under {CIFAR}")
def test_trains_on_parquet_by_path(tmp_path, monkeypatch):
    monkeypatch.setenv("SENSWEEP_DATA", str(tmp_path))
    resnet = {"name": "resnet18", "layers": [1, 1, 1, 1], "channels": [8, 16, 24, 32]}
    rows = run({"dataset": str(CIFAR), "arch": resnet, "train_size": 2000, "epochs": 2, "lr": 0.01})
    assert values(rows, "test_accuracy")[0] > 0.25
