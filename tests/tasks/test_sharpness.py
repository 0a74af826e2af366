"""Sharpness against its definitions one image and draw at a time, closed forms, and as a task."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from sensweep.tasks.api import Context, TaskError
from sensweep.tasks.params.sharpness import SharpnessParams
from sensweep.tasks.sharpness import sharpness, weight_noise_sharpness
from sensweep.tasks.subject import load_model

SIZES = [("absolute", 0.05), ("absolute", 0.4), ("relative", 0.3)]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        layers = [nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Dropout(0.5)]
        net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * 3 * 3, 5)).double()
    net[1].running_mean.fill_(0.3)  # that the buffers count shows in the numbers
    net[1].running_var.fill_(2.0)
    return net.eval()


def pictures(count: int = 12) -> torch.Tensor:
    return torch.rand(count, 2, 5, 5, generator=generator(9), dtype=torch.float64)


@torch.no_grad()
def literal(model, images, sizes, draws, seed):
    """The two definitions on noised copies, one image at a time."""
    source, noises = generator(seed), []
    for _ in range(draws):
        noises.append([torch.randn(w.shape, generator=source) for w in model.parameters()])
    result = torch.zeros(len(sizes), 2, dtype=torch.float64)
    for row, (kind, std) in enumerate(sizes):
        for noise in noises:
            noised = copy.deepcopy(model).eval()
            for weight, part in zip(noised.parameters(), noise, strict=True):
                scale = 1.0
                if kind == "relative":
                    scale = math.sqrt(sum(float(w) ** 2 for w in weight.flatten()) / weight.numel())
                weight += std * scale * part
            for image in images:
                before, after = model(image[None])[0], noised(image[None])[0]
                result[row, 0] += sum(abs(float(a - b)) for a, b in zip(after, before, strict=True))
                result[row, 1] += int(after.argmax() != before.argmax())
    return result / (len(images) * draws)


@pytest.mark.parametrize("batch_size", [5, 100])
def test_equals_the_definitions_image_by_image(batch_size):
    model, images = network(), pictures()
    ours = weight_noise_sharpness(
        model, images, sizes=SIZES, draws=3, generator=generator(4), batch_size=batch_size
    )
    truth = literal(model, images, SIZES, 3, seed=4)
    torch.testing.assert_close(ours, truth, rtol=1e-5, atol=1e-12)
    assert torch.equal(ours[:, 1], truth[:, 1])
    assert 0 < ours[2, 1] < 1  # the model and sizes are such that this says something


def test_a_linear_model_moves_by_the_half_normal_mean():
    """Logits W x: each moves by N(0, std^2 |x|^2), whose mean absolute value is known."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(50, 3, bias=False))
    images = torch.rand(20, 2, 5, 5, generator=generator(1))
    draws, std = 2000, 0.1
    measured = weight_noise_sharpness(
        model, images, sizes=[("absolute", std)], draws=draws, generator=generator()
    )
    truth = 3 * std * images.flatten(1).norm(dim=1).mean().item() * math.sqrt(2 / math.pi)
    assert measured[0, 0].item() == pytest.approx(truth, rel=0.02)


def test_relative_noise_is_that_part_of_each_tensors_norm():
    """A factor on the weights of a layer, undone by the next, changes nothing under it."""

    def logits(scale):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = nn.Sequential(nn.Flatten(), nn.Linear(50, 8, False), nn.Linear(8, 3, False))
        with torch.no_grad():
            model[1].weight *= scale
            model[2].weight /= scale
        return model.double()

    images = pictures()
    kwargs = {"sizes": [("relative", 0.2), ("absolute", 0.2)], "draws": 4}
    one = weight_noise_sharpness(logits(1.0), images, generator=generator(), **kwargs)
    other = weight_noise_sharpness(logits(8.0), images, generator=generator(), **kwargs)
    torch.testing.assert_close(one[0], other[0], rtol=1e-6, atol=0)
    assert abs(one[1, 0] / other[1, 0] - 1) > 0.1


def test_sharper_by_construction_is_measured_as_sharper():
    """The same function with large weights that cancel: the flat one must come out flatter."""

    class Sum(nn.Module):
        def __init__(self, spread: float) -> None:
            super().__init__()
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(1)
                half = torch.randn(3, 50, dtype=torch.float64) / 2
                apart = spread * torch.randn(3, 50, dtype=torch.float64)
            self.one, self.two = nn.Parameter(half + apart), nn.Parameter(half - apart)

        def forward(self, x):
            return x.flatten(1) @ (self.one + self.two).T

    images = pictures(30)
    kwargs = {"sizes": [("relative", 0.1)], "draws": 5}
    flat, sharp = (
        weight_noise_sharpness(Sum(spread), images, generator=generator(), **kwargs)[0]
        for spread in (0.0, 5.0)
    )
    torch.testing.assert_close(Sum(0.0)(images), Sum(5.0)(images))
    assert (sharp > 2 * flat).all()


def test_what_must_move_nothing_moves_nothing():
    model, images = network(), pictures()
    kwargs = {"draws": 2, "generator": generator()}
    tiny = weight_noise_sharpness(model, images, sizes=[("absolute", 1e-12)], **kwargs)
    assert tiny[0, 0] < 1e-8
    assert tiny[0, 1] == 0
    with torch.no_grad():
        for weight in model.parameters():  # a tensor of zeros has no noise relative to it
            weight.zero_()
    assert weight_noise_sharpness(model, images, sizes=[("relative", 0.5)], **kwargs).sum() == 0


def test_a_diverged_model_has_no_sharpness_that_counts():
    model = network()
    with torch.no_grad():
        model[5].bias.fill_(math.nan)
    kwargs = {"sizes": SIZES, "draws": 2, "generator": generator()}
    assert weight_noise_sharpness(model, pictures(), **kwargs).isnan().all()


def test_names_of_classes_and_sizes_beside_it_do_not_matter():
    model, images = network(), pictures()
    alone = weight_noise_sharpness(
        model, images, sizes=SIZES[2:], draws=3, generator=generator(), batch_size=100
    )
    together = weight_noise_sharpness(
        model, images, sizes=SIZES, draws=3, generator=generator(), batch_size=100
    )
    assert torch.equal(alone[0], together[2])  # the draws are shared

    class Relabelled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = model

        def forward(self, x):
            return self.network(x)[:, [2, 0, 3, 1, 4]]

    other = weight_noise_sharpness(
        Relabelled(), images, sizes=SIZES, draws=3, generator=generator(), batch_size=100
    )
    torch.testing.assert_close(other, together)


def test_leaves_the_model_and_the_process_as_they_were(unchanged):
    model = network()
    model[3].train()  # in train mode, dropout would move the outputs by itself
    before = copy.deepcopy(model.state_dict())
    with unchanged():
        value = weight_noise_sharpness(
            model, pictures(), sizes=[("absolute", 1e-12)], draws=2, generator=generator()
        )
    assert value[0, 1] == 0
    assert [module.training for module in model] == [False, False, False, True, False, False]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_train_mode_is_that_of_the_released_code():
    """There, batch normalisation sees the batch and dropout is on, on the noised side alone."""
    model, images = network(), pictures()
    model[3].p = 0.0
    before = copy.deepcopy(model.state_dict())
    kwargs = {"sizes": SIZES, "draws": 2, "batch_size": 6}
    ours = weight_noise_sharpness(model, images, generator=generator(4), train_mode=True, **kwargs)
    assert not any(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    source, moved = generator(4), torch.zeros(3, dtype=torch.float64)
    for _ in range(2):
        noise = [torch.randn(weight.shape, generator=source) for weight in model.parameters()]
        for row, (kind, std) in enumerate(SIZES):
            copied = copy.deepcopy(model).train()
            with torch.no_grad():
                for weight, part in zip(copied.parameters(), noise, strict=True):
                    scale = weight.square().mean().sqrt() if kind == "relative" else 1
                    weight += std * scale * part
                for batch in images.split(6):
                    moved[row] += (copied(batch) - model(batch)).abs().sum()
    torch.testing.assert_close(ours[:, 0], moved / 24, rtol=1e-5, atol=0)
    # Without any noise on the weights to speak of, it is far from zero: what defect 3 is.
    tiny = {"sizes": [("absolute", 1e-9)], "draws": 2, "generator": generator()}
    assert weight_noise_sharpness(model, images, train_mode=True, **tiny)[0, 0] > 0.1
    model[3].p = 0.5
    one, other = (
        weight_noise_sharpness(model, images, train_mode=True, **{**tiny, "draws": 1})
        for _ in range(2)
    )
    assert one[0, 0] != other[0, 0]  # dropout


PARAMS = {"absolute": [0.05, 0.3], "relative": [0.2], "draws": 2, "images": 50}


def test_task_measures_the_model_of_the_checkpoint(trained, unchanged):
    context = Context(seed=0, parents={"train": trained})
    with unchanged():
        rows = list(sharpness(PARAMS, context))
    assert [(row.name, *row.coordinates.values()) for row in rows] == [
        ("accuracy", "train"),
        ("parameter_norm",),
        ("logit_sharpness", "absolute", 0.05, "train"),
        ("flip_sharpness", "absolute", 0.05, "train"),
        ("logit_sharpness", "absolute", 0.3, "train"),
        ("flip_sharpness", "absolute", 0.3, "train"),
        ("logit_sharpness", "relative", 0.2, "train"),
        ("flip_sharpness", "relative", 0.2, "train"),
    ]
    assert {row.step for row in rows} == {4}
    model, _ = load_model(trained)
    norm = math.sqrt(sum(float(w) ** 2 for p in model.parameters() for w in p.detach().flatten()))
    assert rows[1].value == pytest.approx(norm, rel=1e-5)
    assert 0 < rows[2].value < rows[4].value
    assert list(sharpness(PARAMS, context)) == rows
    with unchanged():
        released = list(sharpness({**PARAMS, "mode": "train"}, context))
    assert {row.name for row in released[2:]} == {
        "train_mode_logit_sharpness",
        "train_mode_flip_sharpness",
    }
    assert list(sharpness(PARAMS, Context(seed=1, parents={"train": trained}))) != rows


def test_bad_input_is_refused(trained):
    with pytest.raises(TaskError, match="needs one checkpoint"):
        list(sharpness({}, Context()))
    for wrong in (
        {"absolute": [], "relative": []},
        {"absolute": [0]},
        {"draws": 0},
        {"split": "all"},
        {"mode": "test"},
        {"std": 0.1},
    ):
        with pytest.raises(ValidationError):
            SharpnessParams.model_validate(wrong)
