"""Sensitivity against its definition, against closed forms, and as a task."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from sensweep.tasks.api import Checkpoint, Context, TaskError
from sensweep.tasks.data import load
from sensweep.tasks.params.sensitivity import SensitivityParams
from sensweep.tasks.sensitivity import patch_sensitivity, scattered_sensitivity, sensitivity
from sensweep.tasks.subject import load_model, subject


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small_network(channels: int = 2, height: int = 5, width: int = 7) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = nn.Sequential(
            nn.Conv2d(channels, 8, 3, padding=1),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(8 * height * width, 4),
        )
    # In double precision the size of a batch cannot change a prediction by rounding.
    return network.double().eval()


def pictures(count: int = 4, channels: int = 2, height: int = 5, width: int = 7) -> torch.Tensor:
    return torch.rand(count, channels, height, width, generator=generator(9), dtype=torch.float64)


class Threshold(nn.Module):
    """Class 1 where a weighted sum of the pixels exceeds `bound`."""

    def __init__(self, weight: torch.Tensor, bound: float) -> None:
        super().__init__()
        self.weight, self.bound = weight, bound

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        score = (x * self.weight).sum((1, 2, 3)) - self.bound
        return torch.stack([torch.zeros_like(score), score], 1)


class Constant(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tensor([0.0, 2.0, 1.0]).expand(len(x), 3)


@torch.inference_mode()
def literal_patch_sensitivity(model, images, sigmas, patch, draws, seed, clamp=False):
    """Definition 4.1 word for word: one image, one patch, one draw, one forward pass at a time."""
    noises, source = [], generator(seed)
    for _ in range(draws):
        noises.append(torch.randn(images.shape, generator=source).double())
    before = [model(image[None]).argmax().item() for image in images]
    height, width = images.shape[2:]
    tops, lefts = range(0, height, patch), range(0, width, patch)
    result = torch.zeros(len(sigmas), len(tops), len(lefts), dtype=torch.float64)
    for size, sigma in enumerate(sigmas):
        for row, top in enumerate(tops):
            for column, left in enumerate(lefts):
                flips = 0
                for index, image in enumerate(images):
                    for noise in noises:
                        moved = image.clone()
                        here = (slice(None), slice(top, top + patch), slice(left, left + patch))
                        moved[here] += sigma * noise[index][here]
                        moved = moved.clamp(0, 1) if clamp else moved
                        flips += model(moved[None]).argmax().item() != before[index]
                result[size, row, column] = flips / (len(images) * draws)
    return result


@pytest.mark.parametrize("clamp", [False, True])
@pytest.mark.parametrize("patch", [1, 2, 5])
def test_equals_the_definition_also_where_patches_do_not_divide_the_image(patch, clamp):
    model, images, sigmas = small_network(), pictures(), [0.3, 1.5]
    kwargs = {"sigmas": sigmas, "patch": patch, "draws": 2, "clamp": clamp}
    ours = patch_sensitivity(model, images, generator=generator(5), batch_size=7, **kwargs)
    truth = literal_patch_sensitivity(model, images, sigmas, patch, 2, seed=5, clamp=clamp)
    assert torch.equal(ours, truth)
    assert 0 < ours.mean() < 1  # the models and sizes are such that this says something


def test_flip_probability_of_a_linear_threshold_is_the_normal_tail():
    weight = torch.zeros(1, 4, 4)
    weight[0, :2, 2:] = torch.tensor([[1.0, -2.0], [0.5, 3.0]])
    images = torch.full((4000, 1, 4, 4), 0.5)  # copies: each has draws of its own
    margin = 0.4  # the score at the images
    model = Threshold(weight, (images[0] * weight).sum().item() - margin)
    draws, sigmas = 4, [0.05, 0.1, 0.3]
    measured = patch_sensitivity(
        model, images, sigmas=sigmas, patch=2, draws=draws, generator=generator(), batch_size=5000
    )
    for size, sigma in enumerate(sigmas):
        z = margin / (sigma * weight.norm().item())
        truth = 0.5 * math.erfc(z / math.sqrt(2))
        standard_error = math.sqrt(truth * (1 - truth) / (draws * len(images)))
        assert measured[size, 0, 1].item() == pytest.approx(truth, abs=4 * standard_error)
        others = measured[size].flatten()[[0, 2, 3]]
        assert others.tolist() == [0, 0, 0]  # patches that the model does not look at


def test_a_model_that_looks_everywhere_is_less_sensitive_than_one_that_looks_at_one_patch():
    """Same margin, same norm of the weights: the direction that the definition must show."""
    everywhere = torch.ones(1, 4, 4, dtype=torch.float64) / 4
    corner = torch.zeros(1, 4, 4, dtype=torch.float64)
    corner[0, :2, :2] = 0.5
    images = torch.full((500, 1, 4, 4), 0.5, dtype=torch.float64)
    kwargs = {"sigmas": [0.2, 0.4], "patch": 2, "draws": 2}
    spread, focused = (
        patch_sensitivity(
            Threshold(weight, (images[0] * weight).sum().item() - 0.4),
            images,
            generator=generator(),
            **kwargs,
        ).mean((1, 2))
        for weight in (everywhere, corner)
    )
    assert everywhere.norm() == corner.norm() == 1
    assert (spread < focused / 2)[0]
    # The noise on one patch has norm sigma for the one, and half of it for the other.
    for size, sigma in enumerate(kwargs["sigmas"]):
        tails = [0.5 * math.erfc(0.4 / (sigma * reach) / math.sqrt(2)) for reach in (0.5, 1.0)]
        assert spread[size].item() == pytest.approx(tails[0], abs=0.02)
        assert focused[size].item() == pytest.approx(tails[1] / 4, abs=0.02)


def test_a_constant_model_has_no_sensitivity_and_a_diverged_one_none_that_counts():
    images = pictures().float()
    kwargs = {"sigmas": [10.0], "patch": 2, "draws": 3, "generator": generator()}
    assert patch_sensitivity(Constant(), images, **kwargs).sum() == 0

    class Diverged(nn.Module):
        def forward(self, x):
            return torch.full((len(x), 3), math.nan)

    assert patch_sensitivity(Diverged(), images, **kwargs).isnan().all()
    kwargs["pixels"] = kwargs.pop("patch")
    assert scattered_sensitivity(Diverged(), images, **kwargs).isnan().all()


def test_vanishing_noise_changes_nothing_and_large_noise_something():
    model, images = small_network(), pictures()
    kwargs = {"sigmas": [1e-9, 5.0], "patch": 3, "draws": 3, "generator": generator()}
    vanishing, large = patch_sensitivity(model, images, **kwargs).mean((1, 2))
    assert vanishing == 0
    assert 0 < large <= 1


def test_names_of_classes_do_not_matter():
    class Relabelled(nn.Module):
        def forward(self, x):
            return network(x)[:, [2, 0, 3, 1]]

    network, images = small_network(), pictures()
    kwargs = {"sigmas": [0.3, 1.0], "patch": 2, "draws": 3}
    one = patch_sensitivity(network, images, generator=generator(), **kwargs)
    other = patch_sensitivity(Relabelled(), images, generator=generator(), **kwargs)
    assert torch.equal(one, other)


@pytest.mark.parametrize("function", [patch_sensitivity, scattered_sensitivity])
def test_batches_and_other_noise_sizes_do_not_change_the_numbers(function):
    model, images = small_network(), pictures()
    part = {"patch": 2} if function is patch_sensitivity else {"pixels": 4}
    whole = function(
        model, images, sigmas=[0.3, 1.0], draws=3, generator=generator(), batch_size=10_000, **part
    )
    for batch_size in (1, 5, 64):
        again = function(
            model,
            images,
            sigmas=[1.0],
            draws=3,
            generator=generator(),
            batch_size=batch_size,
            **part,
        )
        # Common random numbers: a noise size meets the same draws alone and in a sweep.
        assert torch.equal(again[0], whole[1])


@pytest.mark.parametrize("function", [patch_sensitivity, scattered_sensitivity])
def test_examines_the_model_in_eval_mode_and_leaves_everything_as_it_was(function, unchanged):
    model = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm2d(2), small_network().float())
    model[1].eval()  # a module whose mode differs from its parent's
    model[2].train()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    images = pictures().float()
    part = {"patch": 2} if function is patch_sensitivity else {"pixels": 4}
    with unchanged():
        result = function(model, images, sigmas=[1e-9], draws=2, generator=generator(), **part)
    assert result.sum() == 0  # with dropout, predictions would differ by themselves
    assert [module.training for module in model] == [True, False, True]
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert torch.equal(images, pictures().float())


def test_clamping_keeps_perturbed_pixels_between_black_and_white():
    class Outside(nn.Module):
        def forward(self, x):
            outside = ((x < 0) | (x > 1)).flatten(1).any(1).float()
            return torch.stack([1 - outside, outside], 1)

    images = pictures()
    kwargs = {"sigmas": [2.0], "patch": 5, "draws": 2}
    for clamp, flips in ((False, 1.0), (True, 0.0)):
        result = patch_sensitivity(Outside(), images, generator=generator(), clamp=clamp, **kwargs)
        assert result[0, 0, 0] == flips
        result = scattered_sensitivity(
            Outside(), images, sigmas=[20.0], pixels=30, draws=2, generator=generator(), clamp=clamp
        )
        assert result[0] == flips


def test_scattered_variant_is_that_of_the_released_code():
    """Literally: positions shared by the batch, drawn with replacement, new in each draw."""
    model, images, draws, pixels, sigmas = small_network(), pictures(40), 4, 6, [0.7, 2.0]
    ours = scattered_sensitivity(
        model, images, sigmas=sigmas, pixels=pixels, draws=draws, generator=generator(2)
    )
    source, flips = generator(2), torch.zeros(2, dtype=torch.float64)
    for _ in range(draws):
        rows = torch.randint(5, (pixels,), generator=source).tolist()
        columns = torch.randint(7, (pixels,), generator=source).tolist()
        noise = torch.randn(images.shape, generator=source).double()
        for image, one in zip(images, noise, strict=True):
            for size, sigma in enumerate(sigmas):
                moved = image.clone()
                for row, column in set(zip(rows, columns, strict=True)):
                    moved[:, row, column] += sigma * one[:, row, column]
                flips[size] += model(moved[None]).argmax() != model(image[None]).argmax()
    assert torch.equal(ours, flips / (len(images) * draws))
    assert 0 < ours[0] < ours[1] < 1


PARAMS = {"sigmas": [0.1, 0.4], "patch": 2, "draws": 2, "images": 40}


def test_task_measures_the_model_of_the_checkpoint_on_images_it_was_trained_on(trained, unchanged):
    context = Context(seed=0, parents={"train": trained})
    with unchanged():
        rows = list(sensitivity(PARAMS, context))
    assert [(row.name, dict(row.coordinates)) for row in rows] == [
        ("accuracy", {"split": "train"}),
        ("sensitivity", {"sigma": 0.1, "split": "train"}),
        ("sensitivity", {"sigma": 0.4, "split": "train"}),
    ]
    assert {row.step for row in rows} == {4}
    assert 0 < rows[1].value < rows[2].value < 1
    # Asked for more images than it was trained on, it takes exactly those.
    everything = list(sensitivity({**PARAMS, "images": 10_000, "draws": 1}, context))
    model, _ = load_model(trained)
    x, y = load("digits", {}).train
    truth = (model(x[:600]).argmax(1) == y[:600]).double().mean().item()
    assert everything[0].value == pytest.approx(truth, abs=1e-12)


def test_rows_depend_on_the_seed_and_on_nothing_that_ran_before(trained):
    def rows(seed: int, **params: object):
        context = Context(seed=seed, parents={"any": trained}, cache=cache)
        return list(sensitivity({**PARAMS, **params}, context))

    cache: dict[str, object] = {}
    first = rows(0)
    torch.manual_seed(77)
    rows(0, split="test", patch=4)
    assert rows(0) == first
    assert rows(1) != first
    assert rows(0, sigmas=[0.4])[1] == first[2]


def test_images_depend_on_the_seed_and_not_on_the_model(trained, tmp_path):
    def images(seed: int, **parents: Checkpoint) -> torch.Tensor:
        return subject(Context(seed=seed, parents=parents), "test", 30).images.x

    copy = Checkpoint("other", 9, Path(shutil.copy(trained.path, tmp_path)))
    assert torch.equal(images(0, train=trained), images(0, elsewhere=copy))
    assert not torch.equal(images(0, train=trained), images(1, train=trained))


def test_scattered_rows_have_a_name_of_their_own(trained):
    context = Context(parents={"train": trained})
    rows = list(sensitivity({**PARAMS, "variant": "scattered"}, context))
    assert [row.name for row in rows] == ["accuracy"] + ["scattered_sensitivity"] * 2


def test_bad_input_is_one_clear_line(trained):
    with pytest.raises(TaskError, match=r"patch: 9 is larger than .* 8x8; wanted 1 to 8"):
        list(sensitivity({"patch": 9}, Context(parents={"train": trained})))
    with pytest.raises(TaskError, match="needs one checkpoint, and got 0"):
        list(sensitivity({}, Context()))
    with pytest.raises(TaskError, match=r"got 2 \(a, b\)"):
        list(sensitivity({}, Context(parents={"a": trained, "b": trained})))
    for wrong in ({"sigma": 0.1}, {"sigmas": []}, {"sigmas": [0]}, {"draws": 0}, {"split": "all"}):
        with pytest.raises(ValidationError):
            SensitivityParams.model_validate(wrong)


def test_params_of_the_analyses_need_no_torch():
    names = ("sensitivity", "robustness", "calibration")
    code = ";".join(f"import sensweep.tasks.params.{name}" for name in names)
    code += ";import sys; assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
