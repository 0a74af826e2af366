"""Calibration against its definition, on cases where the truth is known, and as a task."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from sensweep.tasks.api import Context, TaskError
from sensweep.tasks.calibration import calibration, reliability
from sensweep.tasks.data import load
from sensweep.tasks.subject import load_model


def literal(confidence: list[float], correct: list[bool], bins: int) -> tuple[float, float]:
    """Sum of P |o - c| and of P (o - c), bin by bin, prediction by prediction."""
    ece = signed = 0.0
    for number in range(bins):
        low, high = number / bins, (number + 1) / bins
        members = [
            (one, right)
            for one, right in zip(confidence, correct, strict=True)
            if low < one <= high
        ]
        if members:
            share = len(members) / len(confidence)
            mean = sum(one for one, _ in members) / len(members)
            accuracy = sum(right for _, right in members) / len(members)
            ece += share * abs(accuracy - mean)
            signed += share * (accuracy - mean)
    return ece, signed


@given(
    st.lists(
        st.tuples(
            # Ends of bins are where an implementation may differ by one.
            st.floats(1e-6, 1) | st.sampled_from([number / 10 for number in range(1, 11)]),
            st.booleans(),
        ),
        min_size=1,
        max_size=60,
    ),
    st.integers(1, 15),
)
def test_equals_the_definition(predictions, bins):
    confidence, correct = map(list, zip(*predictions, strict=True))
    exact = torch.tensor(confidence, dtype=torch.float64)
    diagram = reliability(exact, torch.tensor(correct), bins)
    ece, signed = literal(confidence, correct, bins)
    assert diagram.ece == pytest.approx(ece, abs=1e-12)
    assert diagram.signed_ece == pytest.approx(signed, abs=1e-12)
    # The signed error telescopes: it is accuracy minus mean confidence, whatever the bins.
    accuracy = sum(correct) / len(correct)
    assert diagram.signed_ece == pytest.approx(accuracy - exact.mean().item(), abs=1e-9)
    assert abs(diagram.signed_ece) <= diagram.ece + 1e-12
    assert diagram.fraction.sum().item() == pytest.approx(1)


def test_known_cases():
    sure = torch.ones(8)
    right, wrong = torch.ones(8, dtype=torch.bool), torch.zeros(8, dtype=torch.bool)
    assert reliability(sure, right, 10).ece == 0
    assert reliability(sure, wrong, 10).ece == 1
    assert reliability(sure, wrong, 10).signed_ece == -1  # overconfident
    # A bin without a correct prediction counts with its confidence, not with its midpoint.
    assert reliability(0.93 * sure, wrong, 10).ece == pytest.approx(0.93)
    assert reliability(0.62 * sure, right, 10).signed_ece == pytest.approx(0.38)  # underconfident
    # Three of four right at 0.75 is calibrated, and errors of two bins cancel in the signed one.
    three_of_four = torch.tensor([True, True, True, False])
    assert reliability(torch.full((4,), 0.75), three_of_four, 10).ece == 0
    both = torch.tensor([0.9] * 4 + [0.4] * 4)
    opposite = reliability(both, torch.tensor([True, True, False, False] * 2), 10)
    assert opposite.ece == pytest.approx(0.5 * 0.4 + 0.5 * 0.1)
    assert opposite.signed_ece == pytest.approx(0.5 * -0.4 + 0.5 * 0.1)


def test_a_confidence_rounded_above_one_is_in_the_last_bin():
    above = torch.tensor([1 + 1e-7], dtype=torch.float64)
    assert reliability(above, torch.tensor([True]), 10).fraction[9] == 1


def test_a_model_that_gives_nan_has_no_calibration_error():
    diagram = reliability(torch.tensor([0.5, math.nan]), torch.tensor([True, False]), 10)
    assert math.isnan(diagram.ece)
    assert math.isnan(diagram.signed_ece)


def test_task_measures_the_model_of_the_checkpoint(trained, unchanged):
    with unchanged():
        rows = list(calibration({"split": "validation"}, Context(parents={"train": trained})))
    values = {row.name: row.value for row in rows}
    assert [row.name for row in rows] == ["ece", "signed_ece", "confidence", "accuracy", "nll"]
    assert [row.unit for row in rows] == ["1", "1", "1", "1", "nats"]
    assert {row.step for row in rows} == {4}
    model, _ = load_model(trained)
    x, y = load("digits", {}).validation
    with torch.no_grad():
        scores = model(x).double()
    confidence, predicted = scores.softmax(1).max(1)
    ece, signed = literal(confidence.tolist(), (predicted == y).tolist(), 10)
    assert values["ece"] == pytest.approx(ece, abs=1e-6)
    assert values["signed_ece"] == pytest.approx(signed, abs=1e-6)
    assert values["confidence"] == pytest.approx(confidence.mean().item(), abs=1e-6)
    assert values["accuracy"] == pytest.approx((predicted == y).double().mean().item())
    assert values["nll"] == pytest.approx(F.cross_entropy(scores, y).item(), abs=1e-6)


def test_reliability_diagram_adds_up_to_the_totals(trained):
    rows = list(calibration({"diagram": True, "bins": 5}, Context(parents={"train": trained})))
    totals = {row.name: row.value for row in rows if not row.coordinates}
    bins: dict[float, dict[str, float]] = {}
    for row in rows:
        if row.coordinates:
            bins.setdefault(row.coordinates["bin"], {})[row.name] = row.value
    assert list(bins) == [0.2, 0.4, 0.6, 0.8, 1.0]
    filled = [one for one in bins.values() if one["bin_fraction"] > 0]
    assert all(set(one) == {"bin_fraction"} for one in bins.values() if one not in filled)
    for total, part in (("accuracy", "bin_accuracy"), ("confidence", "bin_confidence")):
        whole = sum(one["bin_fraction"] * one[part] for one in filled)
        assert totals[total] == pytest.approx(whole, abs=1e-9)


def test_rows_do_not_depend_on_batches_or_on_what_ran_before(trained):
    def rows(**params: object):
        return list(calibration({"images": 50, **params}, Context(parents={"train": trained})))

    first = rows()
    torch.manual_seed(5)
    again = rows(batch_size=7)
    for one, other in zip(first, again, strict=True):
        assert one.value == pytest.approx(other.value, abs=1e-6)
    assert rows() == first


def test_no_checkpoint_is_one_clear_line():
    with pytest.raises(TaskError, match="needs one checkpoint, and got 0"):
        list(calibration({}, Context()))
