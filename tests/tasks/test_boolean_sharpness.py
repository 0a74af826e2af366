"""Sharpness and blowup against slow literal implementations and models whose truth is known."""

from __future__ import annotations

import math

import pytest
import torch
from boolean_models import Known, Linear, Table, learnt, transformer
from torch import nn

from sensweep.tasks.boolean import Target, all_strings, random_strings
from sensweep.tasks.boolean_model import posed
from sensweep.tasks.boolean_sharpness import blowup, perturbed_weights, sharpness


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@torch.no_grad()
def literal_sharpness(subject, batches, std, draws, seed):
    """A copy of the model for each batch and draw, one string at a time; in the code -1 and 1."""
    noise, rises, changes = generator(seed), [], []
    model, target = subject.model, subject.target
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    for bits in batches:
        asked = [posed(model, target, bits[i : i + 1]) for i in range(len(bits))]
        clean = [2 * model(*arguments) - 1 for arguments, _ in asked]
        wanted = [2 * value - 1 for _, value in asked]
        for _ in range(draws):
            for name, weight in model.named_parameters():
                if name != "positions.weight":
                    weight.add_(std * torch.randn(weight.shape, generator=noise).to(weight))
            moved = [2 * model(*arguments) - 1 for arguments, _ in asked]
            for name, weight in model.named_parameters():
                weight.copy_(before[name])
            errors = [((m - w) ** 2).mean() for m, w in zip(moved, wanted, strict=True)]
            clean_errors = [((c - w) ** 2).mean() for c, w in zip(clean, wanted, strict=True)]
            rises.append(sum(errors) / len(bits) - sum(clean_errors) / len(bits))
            change = [((m - c) ** 2).mean() for m, c in zip(moved, clean, strict=True)]
            changes.append(sum(change) / len(bits))
    return (sum(rises) / len(rises)).item(), (sum(changes) / len(changes)).item()


@pytest.mark.parametrize(
    "arguments",
    [{}, {"norm": "pre", "attention": "relu", "embedding": "add"}, {"scratchpad": True}],
)
def test_sharpness_is_the_definition(arguments):
    subject = learnt(transformer(**arguments), "parity", 5)
    batches = [random_strings(4, 5, generator(i)) for i in range(2)]
    found = sharpness(subject, batches, [0.05, 0.2], 3, generator(7))
    for size, std in enumerate([0.05, 0.2]):
        rise, change = literal_sharpness(subject, batches, std, 3, seed=7)
        # Noise is drawn in single precision, in the order of the weights, by both.
        assert found.rise[size].item() == pytest.approx(rise, rel=1e-6)
        assert found.change[size].item() == pytest.approx(change, rel=1e-6)
        assert abs(rise) > 1e-5


def test_batches_do_not_share_draws():
    subject = learnt(transformer(), "parity", 5)
    bits = random_strings(8, 5, generator())
    one = sharpness(subject, [bits], [0.1], 2, generator(1)).rise
    two = sharpness(subject, [bits, bits], [0.1], 2, generator(1)).rise
    assert one.item() != two.item()


def test_sharpness_of_a_linear_model_is_its_closed_form():
    weights = torch.tensor([0.5, 0.0, -1.0, 0.25])
    subject = learnt(Linear(weights), "table", 4)
    exact = all_strings(4).float() @ weights
    subject = subject._replace(target=Target("table", table=exact))
    found = sharpness(subject, [all_strings(4)], [0.02, 0.2], 4000, generator())
    # A weight of bit i moves the output where the bit is 1: for half of the strings.
    for std, rise, change in zip([0.02, 0.2], found.rise, found.change, strict=True):
        truth = 4 * std**2 * (4 / 2 + 1)
        assert rise.item() == pytest.approx(truth, rel=0.1)
        assert change.item() == pytest.approx(truth, rel=0.1)


def test_a_model_without_weights_that_matter_is_flat_and_is_left_as_it_was():
    subject = learnt(Table(torch.zeros(16)), "first", 4)
    found = sharpness(subject, [all_strings(4)], [0.5], 3, generator())
    assert found.rise.abs().sum() == 0
    model = transformer()
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    sharpness(learnt(model, "parity", 5), [all_strings(5)], [0.5], 2, generator())
    assert all(torch.equal(before[name], weight) for name, weight in model.named_parameters())


def test_noise_and_norm_leave_out_the_positions_alone():
    model = transformer()
    names = {name for name, _ in perturbed_weights(model)}
    assert {name for name, _ in model.named_parameters()} - names == {"positions.weight"}


@torch.no_grad()
def literal_blowup(model, bits):
    """One string at a time; every layer's norms by hand, as the encoder of two post-LN layers."""
    released, theory = [], []
    for string in bits:
        x = torch.cat([model.tokens(string[None]), model.positions.weight[None, : len(string)]], 2)
        products = [1.0, 1.0]
        for number, layer in enumerate(model.encoder):
            last_layer = number == len(model.encoder) - 1
            before1 = x + layer.attention(x, x)
            after1 = layer.norm1(before1)
            before2 = after1 + layer.feedforward(after1)
            x = layer.norm2(before2)
            for given in (before1[0], before2[0]):
                looked_at = given[-1:] if last_layer else given
                products[0] *= max(1 / token.std(unbiased=True).item() for token in looked_at)
                products[1] *= max(
                    1 + 1 / math.sqrt(token.var(unbiased=False).item() + 1e-5)
                    for token in looked_at
                )
        released.append(products[0])
        theory.append(products[1])
    return released, theory


def test_blowup_is_the_product_over_norms_of_the_largest_factor_among_positions():
    model = transformer()
    bits = all_strings(5)[:10]
    found = blowup(learnt(model, "parity", 5), [bits[:4], bits[4:]])
    released, theory = literal_blowup(model, bits)
    assert found["released"].tolist() == pytest.approx(released)
    assert found["theory"].tolist() == pytest.approx(theory)


class Normed(Known):
    """One normalisation, of two features that are `scale` apart at bits that are ones."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.norm, self.scale = nn.LayerNorm(2, eps=1e-5), scale

    def forward(self, bits: torch.Tensor) -> torch.Tensor:
        size = self.scale * (1.0 + bits)
        return self.norm(torch.stack([-size, size], dim=2))[:, 0, 1]


def test_blowup_of_one_norm_is_its_closed_form_and_the_smallest_deviation_decides():
    found = blowup(learnt(Normed(0.1), "first", 2), [torch.tensor([[0, 1], [1, 1]])])
    # Of two features -a and a the deviation is a, and sqrt(2) a in its unbiased form.
    assert found["released"].tolist() == pytest.approx([1 / (2**0.5 * 0.1), 1 / (2**0.5 * 0.2)])
    eps = 1e-5
    truth = [1 + 1 / math.sqrt(0.01 + eps), 1 + 1 / math.sqrt(0.04 + eps)]
    assert found["theory"].tolist() == pytest.approx(truth, rel=1e-6)
