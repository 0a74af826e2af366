"""Functions of bits against their definitions, and sensitivity against closed forms."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from sensweep.tasks.api import TaskError
from sensweep.tasks.boolean import (
    Target,
    all_strings,
    random_completion,
    random_strings,
    rows,
    strings,
)
from sensweep.tasks.boolean_sensitivity import (
    degree_weights,
    flips,
    fourier,
    neighbourhoods,
    sensitivities,
)

DEFINITIONS = {
    "parity": lambda bits: sum(bits) % 2,
    "majority": lambda bits: int(sum(bits) > len(bits) - sum(bits)),
    "first": lambda bits: bits[0],
    "mean": lambda bits: sum(bits) / len(bits),
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def signs(function: str, n: int, seed: int = 0) -> torch.Tensor:
    return 2 * Target(function, seed).values(all_strings(n)).double() - 1


@pytest.mark.parametrize("function", DEFINITIONS)
@pytest.mark.parametrize("n", [1, 4, 5])
def test_functions_are_what_their_names_say_on_every_string_and_prefix(function, n):
    every = [list(bits) for bits in itertools.product((0, 1), repeat=n)]
    assert all_strings(n).tolist() == every
    of = DEFINITIONS[function]
    values = Target(function).values(all_strings(n))
    assert values.tolist() == pytest.approx([of(bits) for bits in every])
    prefixes = Target(function).prefix_values(all_strings(n))
    literal = [[of(bits[: i + 1]) for i in range(n)] for bits in every]
    assert torch.allclose(prefixes, torch.tensor(literal).float())


def test_strings_and_rows_are_inverse_and_a_table_is_looked_up():
    numbers = torch.tensor([0, 5, 12, 31])
    assert strings(numbers, 5)[1].tolist() == [0, 0, 1, 0, 1]
    assert torch.equal(rows(strings(numbers, 5)), numbers)
    table = torch.arange(32).float()
    assert Target("table", table=table).values(strings(numbers, 5)).tolist() == [0, 5, 12, 31]


def test_random_functions_are_fair_independent_and_of_any_length():
    one, other = (Target("random", seed).values(all_strings(14)) for seed in (0, 1))
    tolerance = 4 * 0.5 / math.sqrt(len(one))
    assert one.mean().item() == pytest.approx(0.5, abs=tolerance)
    assert (one == other).double().mean().item() == pytest.approx(0.5, abs=tolerance)
    long = random_strings(4000, 200, generator())
    moved = long.clone()
    moved[:, 3] ^= 1  # in the first word of the hash; and in the last
    later = long.clone()
    later[:, 199] ^= 1
    value = Target("random").values
    for changed in (moved, later):
        assert (value(long) != value(changed)).double().mean().item() == pytest.approx(
            0.5, abs=0.04
        )
    # A string and the same one with zeros before it are two strings.
    padded = torch.cat([torch.zeros_like(long[:, :1]), long[:, :20]], dim=1)
    assert (value(padded) != value(long[:, :20])).double().mean().item() > 0.4


def test_a_random_completion_keeps_what_is_known_and_throws_fair_coins():
    known = torch.randperm(1024, generator=generator())[:300]
    table = Target("parity").values(all_strings(10))
    completed = random_completion(table, known, generator(1))
    assert torch.equal(completed[known], table[known])
    others = torch.ones(1024, dtype=torch.bool).index_fill_(0, known, False)
    assert (completed == table)[others].double().mean().item() == pytest.approx(0.5, abs=0.08)
    assert set(completed.tolist()) == {0, 1}
    assert torch.equal(table, Target("parity").values(all_strings(10)))  # left as it was


def test_a_table_too_long_to_write_is_refused():
    with pytest.raises(TaskError, match="21 bits is too long; wanted at most 20"):
        all_strings(21)


@pytest.mark.parametrize("n", [4, 10, 11])
def test_average_sensitivities_are_the_closed_forms(n):
    average = {f: sensitivities(signs(f, n)).mean().item() for f in DEFINITIONS}
    assert average["parity"] == n
    assert average["first"] == 1
    assert average["mean"] == pytest.approx(1 / n, rel=1e-6)
    # Of MAJORITY exactly: strings on either side of the border, times the bits that cross it.
    above = n // 2 + 1
    exact = 2 * above * math.comb(n, above) / 2**n
    assert average["majority"] == pytest.approx(exact)
    assert average["majority"] == pytest.approx(math.sqrt(2 * n / math.pi), rel=0.08)


def test_a_random_function_has_half_the_bits_as_its_average_sensitivity():
    found = [sensitivities(signs("random", 10, seed)).mean().item() for seed in range(20)]
    # One function's average has variance n / 2^(n + 1): each edge is a fair coin.
    assert sum(found) / 20 == pytest.approx(5, abs=4 * math.sqrt(10 / 2**11 / 20))


@pytest.mark.parametrize("function", [*DEFINITIONS, "random"])
def test_sensitivity_is_that_of_flipping_one_bit_at_a_time(function):
    n = 5
    value = dict(zip(map(tuple, all_strings(n).tolist()), signs(function, n), strict=True))
    literal = []
    for bits in itertools.product((0, 1), repeat=n):
        around = [tuple(b ^ (i == j) for j, b in enumerate(bits)) for i in range(n)]
        literal.append(sum((value[bits] - value[near]) ** 2 / 4 for near in around))
    assert torch.allclose(sensitivities(signs(function, n)), torch.stack(literal))
    sampled = Target(function).values(neighbourhoods(all_strings(n)).flatten(0, 1)).double()
    assert torch.allclose(flips((2 * sampled - 1).view(2**n, n + 1)), torch.stack(literal))


def test_fourier_coefficients_are_the_means_against_each_parity():
    n, values = 4, torch.randn(16, dtype=torch.float64, generator=generator())
    found = fourier(values)
    for index, chosen in enumerate(all_strings(n)):
        parity = (-1.0) ** (all_strings(n) * chosen).sum(1)
        assert found[index].item() == pytest.approx((values * parity).mean().item())


@pytest.mark.parametrize("function", [*DEFINITIONS, "random"])
def test_degree_weights_sum_to_the_mean_square_and_weighted_to_the_sensitivity(function):
    values = signs(function, 7)
    weights = degree_weights(values)
    assert weights.sum().item() == pytest.approx(values.square().mean().item())
    weighted = (weights * torch.arange(8)).sum().item()
    assert weighted == pytest.approx(sensitivities(values).mean().item())


def test_parity_has_all_its_weight_at_the_highest_degree_and_first_at_degree_one():
    assert degree_weights(signs("parity", 6)).tolist() == [0, 0, 0, 0, 0, 0, 1]
    assert degree_weights(signs("first", 6)).tolist() == [0, 1, 0, 0, 0, 0, 0]


def test_turning_yes_into_no_changes_no_sensitivity_and_a_constant_has_none():
    values = signs("random", 8)
    assert torch.equal(sensitivities(values), sensitivities(-values))
    assert sensitivities(torch.ones(16)).sum() == 0
