"""Attacks against closed forms and literal loops, and the robustness task."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn import functional as F

from sensweep.tasks.api import Context, TaskError
from sensweep.tasks.cifar_c import CifarC
from sensweep.tasks.corruptions import corrupt
from sensweep.tasks.data import load
from sensweep.tasks.params.robustness import RobustnessParams
from sensweep.tasks.robustness import adversarial_accuracy, robustness
from sensweep.tasks.subject import load_model


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Linear(nn.Module):
    """Two logits, 0 and weight . x - bound."""

    def __init__(self, weight: torch.Tensor, bound: float) -> None:
        super().__init__()
        self.weight, self.bound = nn.Parameter(weight), bound

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        score = (x * self.weight).sum((1, 2, 3)) - self.bound
        return torch.stack([torch.zeros_like(score), score], 1)


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [nn.Conv2d(1, 8, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8 * 16, 5)]
        model = nn.Sequential(*layers)
    for parameter in model.parameters():
        parameter.data *= 2
    return model.eval()


def pictures(count: int = 30) -> torch.Tensor:
    return torch.rand(count, 1, 6, 6, generator=generator(1))


@pytest.mark.parametrize("attack", ["fgsm", "pgd"])
def test_a_linear_model_falls_exactly_where_the_l1_norm_says(attack):
    """An L-infinity attack moves w.x by at most epsilon * |w|_1, and both attacks reach that."""
    weight = torch.randn(1, 6, 6, generator=generator(2))
    images = 0.4 + 0.2 * pictures(400)  # far enough from 0 and 1 for every epsilon here
    score = (images * weight).sum((1, 2, 3))
    model = Linear(weight, score.median().item())
    labels = (score > model.bound).long()
    labels[:20] = 1 - labels[:20]  # misclassified as they are
    margin = (score - model.bound).abs()
    for epsilon in (0.002, 0.01, 0.03, 0.3):
        kept = margin > epsilon * weight.abs().sum()
        kept[:20] = False
        value = adversarial_accuracy(model, images, labels, attack=attack, epsilon=epsilon)
        assert value == pytest.approx(kept.double().mean().item(), abs=1e-12)


def gradient(model: nn.Module, image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    image = image.clone().requires_grad_()
    loss = F.cross_entropy(model(image[None]), label[None])
    return torch.autograd.grad(loss, image)[0]


@pytest.mark.parametrize("epsilon", [0.01, 0.05])
def test_fgsm_equals_its_definition_image_by_image(epsilon):
    model, images = network(), pictures()
    labels = model(images).argmax(1)
    labels[:3] = (labels[:3] + 1) % 5
    kept = 0
    for image, label in zip(images, labels, strict=True):
        moved = (image + epsilon * gradient(model, image, label).sign()).clamp(0, 1)
        kept += all(model(x[None]).argmax() == label for x in (image, moved))
    assert 0 < kept < 27
    for batch_size in (7, 30):
        value = adversarial_accuracy(
            model, images, labels, attack="fgsm", epsilon=epsilon, batch_size=batch_size
        )
        assert value == pytest.approx(kept / 30, abs=1e-12)


def test_pgd_equals_its_definition_image_by_image():
    model, images, epsilon, steps = network(), pictures(), 0.04, 4
    labels = model(images).argmax(1)
    random = np.random.RandomState(11)
    start = torch.from_numpy(random.uniform(-epsilon, epsilon, (30, 36))).float().view_as(images)
    kept = 0
    for image, label, offset in zip(images, labels, start, strict=True):
        moved = (image + offset).clamp(0, 1)
        for _ in range(steps):
            moved = moved + 2.5 * epsilon / steps * gradient(model, moved, label).sign()
            moved = image + (moved.clamp(0, 1) - image).clamp(-epsilon, epsilon)
        kept += (model(moved[None]).argmax() == label).item()
    assert 0 < kept < 30
    for batch_size in (7, 30):
        value = adversarial_accuracy(
            model,
            images,
            labels,
            attack="pgd",
            epsilon=epsilon,
            steps=steps,
            seed=11,
            batch_size=batch_size,
        )
        assert value == pytest.approx(kept / 30, abs=1e-12)


@pytest.mark.parametrize("attack", ["fgsm", "pgd"])
def test_an_image_that_is_wrong_as_it_is_stays_lost_when_an_attack_puts_it_right(attack):
    class Wave(nn.Module):
        def forward(self, x):
            score = torch.sin(20 * (x.mean((1, 2, 3)) - 0.5) - 2)
            return torch.stack([torch.zeros_like(score), score], 1)

    image, label = torch.full((1, 1, 2, 2), 0.5), torch.tensor([1])
    model = Wave()
    assert model(image).argmax() == 0
    assert model(image + 0.2).argmax() == 1  # where one step of size 0.2 lands
    kwargs = {"attack": attack, "epsilon": 0.2, "steps": 1}
    assert adversarial_accuracy(model, image, label, **kwargs) == 0


def test_stronger_attacks_leave_less():
    model, images = network(), pictures(100)
    labels = model(images).argmax(1)

    def value(attack: str, epsilon: float) -> float:
        return adversarial_accuracy(
            model, images, labels, attack=attack, epsilon=epsilon, steps=5, seed=1
        )

    fgsm = [value("fgsm", epsilon) for epsilon in (1e-6, 0.02, 0.1)]
    pgd = [value("pgd", epsilon) for epsilon in (1e-6, 0.02, 0.1)]
    assert fgsm[0] == pgd[0] == 1
    assert fgsm == sorted(fgsm, reverse=True)
    assert pgd == sorted(pgd, reverse=True)
    # A random start may be unlucky for an image or two.
    assert all(strong <= weak + 0.01 for strong, weak in zip(pgd, fgsm, strict=True)), (pgd, fgsm)


@pytest.mark.parametrize("attack", ["fgsm", "pgd"])
def test_attacked_images_stay_within_epsilon_and_the_range_of_pixels(attack):
    class Recorder(nn.Module):
        seen: ClassVar[list[torch.Tensor]] = []

        def __init__(self) -> None:
            super().__init__()
            self.network = network()

        def forward(self, x):
            Recorder.seen.append(x.detach().clone())
            return self.network(x)

    model, images = Recorder(), pictures()
    labels = model(images).argmax(1)
    adversarial_accuracy(model, images, labels, attack=attack, epsilon=0.1, seed=3)
    seen = torch.stack([batch for batch in Recorder.seen if len(batch) == len(images)])
    assert seen.min() >= 0
    assert seen.max() <= 1
    random = np.random.RandomState(np.random.MT19937(3))
    offset = torch.from_numpy(random.uniform(-0.1, 0.1, (30, 36))).float().view_as(images)
    start = (images + offset).clamp(0, 1)
    starts = [batch for batch in seen if torch.allclose(batch, start, atol=1e-6)]
    assert len(starts) == (attack == "pgd")
    furthest = (seen - images).abs().amax()
    assert furthest.item() == pytest.approx(0.1, abs=1e-6)


@pytest.mark.parametrize("attack", ["fgsm", "pgd"])
def test_an_attack_changes_neither_the_model_nor_the_process(attack, unchanged):
    model = nn.Sequential(nn.Dropout(0.5), network())
    model[1].eval()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    images = pictures()
    labels = network()(images).argmax(1)
    # Also when other trials have left the global generators anywhere.
    values = set()
    for seed in (0, 1):
        torch.manual_seed(seed)
        np.random.seed(seed)
        with unchanged():
            values.add(adversarial_accuracy(model, images, labels, attack=attack, epsilon=0.03))
    assert len(values) == 1
    assert [module.training for module in model] == [True, False]
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])
    assert all(p.requires_grad and (p.grad == 1).all() for p in model.parameters())
    assert torch.equal(images, pictures())


PARAMS = {
    "images": 60,
    "corruptions": ["gaussian_noise", "contrast"],
    "severities": [1, 5],
    "epsilons": [0.02, 0.1],
    "pgd_steps": 3,
    "attack_images": 20,
}


def test_task_yields_each_accuracy_once_and_the_mean_over_corruptions(trained, unchanged):
    with unchanged():
        rows = list(robustness(PARAMS, Context(seed=0, parents={"train": trained})))
    named = [(row.name, *row.coordinates.values()) for row in rows]
    assert named == [
        ("accuracy", "none", 0),
        ("accuracy", "gaussian_noise", 1, "CIFAR-C-style"),
        ("accuracy", "gaussian_noise", 5, "CIFAR-C-style"),
        ("accuracy", "contrast", 1, "CIFAR-C-style"),
        ("accuracy", "contrast", 5, "CIFAR-C-style"),
        ("corruption_accuracy", "CIFAR-C-style"),
        ("adversarial_accuracy", "fgsm", 0.02),
        ("adversarial_accuracy", "fgsm", 0.1),
        ("adversarial_accuracy", "pgd", 0.02),
        ("adversarial_accuracy", "pgd", 0.1),
    ]
    assert {row.step for row in rows} == {4}
    values = {name: row.value for name, row in zip(named, rows, strict=True)}
    assert values[("accuracy", "none", 0)] > 0.6
    mean = sum(row.value for row in rows[1:5]) / 4
    assert values[("corruption_accuracy", "CIFAR-C-style")] == pytest.approx(mean, abs=1e-12)
    severe, mild = (values[("accuracy", "contrast", it, "CIFAR-C-style")] for it in (5, 1))
    assert severe < mild
    assert values[("adversarial_accuracy", "fgsm", 0.1)] < values[("accuracy", "none", 0)]


def test_rows_depend_on_the_seed_and_not_on_order_company_or_what_ran_before(trained):
    def rows(seed: int = 0, **params: object):
        context = Context(seed=seed, parents={"train": trained}, cache=cache)
        found = robustness({**PARAMS, **params}, context)
        return {(row.name, *row.coordinates.values()): row.value for row in found}

    cache: dict[str, object] = {}
    first = rows()
    torch.manual_seed(99)
    np.random.seed(99)
    rows(seed=5, split="validation")
    assert rows() == first
    reordered = rows(
        corruptions=["contrast", "fog", "gaussian_noise"], severities=[5], attacks=["pgd"]
    )
    for name, value in reordered.items():
        if name in first and name[0] != "corruption_accuracy":
            assert value == first[name], name
    assert rows(seed=1) != first


def test_corruptions_and_attacks_can_each_be_left_out(trained):
    context = Context(parents={"train": trained})
    only_attacks = robustness({**PARAMS, "corruptions": []}, context)
    assert {row.name for row in only_attacks} == {"accuracy", "adversarial_accuracy"}
    only_corruptions = robustness({**PARAMS, "attacks": []}, context)
    assert {row.name for row in only_corruptions} == {"accuracy", "corruption_accuracy"}


def test_clean_accuracy_is_that_of_the_whole_split_when_all_images_are_taken(trained):
    params = {**PARAMS, "images": 10_000, "corruptions": [], "attacks": []}
    [row] = robustness(params, Context(parents={"train": trained}))
    model, _ = load_model(trained)
    x, y = load("digits", {}).test
    assert row.value == pytest.approx((model(x).argmax(1) == y).double().mean().item(), abs=1e-12)


@pytest.fixture
def arrays(tmp_path):
    """Published arrays in small: 40 digits at five severities of two corruptions, and labels."""
    x, y = load("digits", {}).test
    x, y = x[:40], y[:40]
    pixels = {}
    for name in ("contrast", "frost"):
        slices = [corrupt(x, name, severity, generator(severity)) for severity in range(1, 6)]
        pixels[name] = (torch.cat(slices).permute(0, 2, 3, 1) * 255).round().byte().numpy()
        np.save(tmp_path / f"{name}.npy", pixels[name])
    np.save(tmp_path / "labels.npy", np.tile(y.numpy().astype(np.uint8), 5))
    return tmp_path, pixels, y


def published(trained, folder, seed=0, **params):
    given = {"cifar_c": str(folder), "corruptions": ["frost", "contrast"], "attacks": []}
    found = robustness({**given, **params}, Context(seed=seed, parents={"train": trained}))
    return {(row.name, *row.coordinates.values()): row.value for row in found}


def test_published_arrays_are_read_slice_by_slice(trained, arrays):
    folder, pixels, y = arrays
    values = published(trained, folder)
    model, _ = load_model(trained)
    by_hand = []
    for name in ("frost", "contrast"):
        for severity in range(1, 6):
            right = 0
            for index in range(40):
                image = pixels[name][(severity - 1) * 40 + index, :, :, 0]
                logits = model(torch.from_numpy(image)[None, None].float() / 255)
                right += int(logits.argmax() == y[index])
            by_hand.append(right / 40)
            assert values["accuracy", name, severity, "CIFAR-10-C"] == pytest.approx(by_hand[-1])
    assert values["corruption_accuracy", "CIFAR-10-C"] == pytest.approx(sum(by_hand) / 10)
    assert len(set(by_hand)) > 2  # the slices differ, so that a mix-up would show


def test_a_subset_of_published_arrays_is_the_same_everywhere_and_drawn_by_the_seed(trained, arrays):
    folder, _, _ = arrays
    one, again = CifarC(str(folder), 7, seed=1), CifarC(str(folder), 7, seed=1)
    shape = (1, 8, 8)
    _, labels = one.read("frost", 1, shape)
    assert len(labels) == 7
    for name in ("frost", "contrast"):
        for severity in (1, 5):
            assert torch.equal(again.read(name, severity, shape)[1], labels)
    assert (CifarC(str(folder), 7, seed=2).chosen != one.chosen).any()
    assert published(trained, folder, images=7) != published(trained, folder, images=7, seed=5)


def test_published_arrays_that_do_not_fit_are_one_clear_line(trained, arrays):
    folder, _, _ = arrays
    with pytest.raises(TaskError, match=r"unknown array 'snow'.*valid: contrast, frost, labels"):
        published(trained, folder, corruptions=["snow"])
    with pytest.raises(TaskError, match=r"unknown array 'labels'.*zenodo"):
        published(trained, folder / "nowhere")
    np.save(folder / "frost.npy", np.zeros((200, 32, 32, 3), np.uint8))
    message = r"frost.npy .* is uint8 \[200, 32, 32, 3\]; .* wanted uint8 \[200, 8, 8, 1\]"
    with pytest.raises(TaskError, match=message):
        published(trained, folder)
    (folder / "frost.npy").write_bytes(b"no array")
    with pytest.raises(TaskError, match="is no array of numpy"):
        published(trained, folder)
    np.save(folder / "labels.npy", np.zeros(7))
    with pytest.raises(TaskError, match=r"labels.npy .* has shape \(7,\); wanted"):
        published(trained, folder)


def test_bad_input_is_refused():
    with pytest.raises(TaskError, match="needs one checkpoint"):
        list(robustness({}, Context()))
    for wrong in (
        {"severities": [0]},
        {"severities": []},
        {"epsilons": [8]},  # meant as 8/255
        {"corruptions": ["blur"]},
        {"split": "train"},
        {"attack": "pgd"},
    ):
        with pytest.raises(ValidationError):
            RobustnessParams.model_validate(wrong)
