"""Verdicts on made sweeps whose truth is known."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from claim_rows import (
    ARCHS,
    PLAIN,
    SEEDS,
    claim,
    judge,
    noise,
    noise_sizes,
    points,
    sweep,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from sensweep.results.claims import as_records, evaluate, evaluate_study

# --- verdicts of each type ----------------------------------------------------------------

VERDICTS = [
    (claim(), "supported"),
    (claim(direction="higher"), "refuted"),
    (claim(smallest_effect=0.05), "supported"),
    (claim(smallest_effect=0.1), "refuted"),  # a real difference of 0.06, but 0.1 was claimed
    (claim(smallest_effect=0.06), "inconclusive"),
    (claim(than={"arch": "cnn"}, smallest_effect=0.02), "refuted"),
    (claim(type="noninferiority", margin=0.01), "supported"),
    (claim(type="noninferiority", margin=0.01, direction="higher"), "refuted"),
    (claim(type="noninferiority", margin=0.06, direction="higher"), "inconclusive"),
    (claim(type="equivalence", direction=None, than={"arch": "cnn"}, margin=0.02), "supported"),
    (claim(type="equivalence", direction=None, margin=0.02), "refuted"),
    (claim(type="equivalence", direction=None, margin=0.06), "inconclusive"),
    (claim(type="descriptive", direction=None), None),
]


@pytest.mark.parametrize(("spec", "verdict"), VERDICTS)
def test_verdicts_of_two_sides(spec, verdict):
    (result,) = judge(spec, PLAIN).values()
    assert result.verdict == verdict
    assert result.n == 5
    assert (result.reason is None) == (verdict in ("supported", None))
    if verdict is not None and "cnn" not in str(spec):
        assert result.estimate == pytest.approx(-0.06, abs=0.003)
        assert result.low < result.estimate < result.high


def slopes_of(function, spread=0.05):
    steepness = {"parity": 0.5, "majority": 0.1, "first": 0.0}

    def measure(point, seed):
        own = steepness[point["function"]] + spread * noise(point["function"], seed)
        return [("sharpness", seed + own * point["length"], {})]

    return sweep(points(function=function, length=[4, 8, 16]), SEEDS, measure)


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({"of": {"function": "parity"}, "direction": "higher"}, "supported"),
        ({"of": {"function": "parity"}, "direction": "lower"}, "refuted"),
        ({"of": {"function": "first"}, "direction": "higher"}, "inconclusive"),
        ({"of": {"function": "first"}, "direction": "none", "margin": 0.2}, "supported"),
        ({"of": {"function": "parity"}, "direction": "none", "margin": 0.2}, "refuted"),
        (
            {"of": {"function": "parity"}, "than": {"function": "majority"}, "direction": "higher"},
            "supported",
        ),
        (
            {"of": {"function": "first"}, "than": {"function": "majority"}, "direction": "higher",
             "smallest_effect": 0.1},
            "refuted",
        ),
    ],
)  # fmt: skip
def test_verdicts_of_trends(change, verdict):
    base = claim(type="trend", value="sharpness", over="length", of=None, than=None)
    spec = base | change
    (result,) = judge(spec, slopes_of(["parity", "majority", "first"])).values()
    assert result.verdict == verdict
    assert result.unit == "1 per length"


def test_a_trend_is_per_seed_and_per_doubling_with_log():
    rows = sweep(
        points(length=[4, 8, 16, 32]),
        range(3),
        lambda p, seed: [("blowup", 100 * seed + (2 + 0.01 * seed) * np.log2(p["length"]), {})],
    )
    spec = claim(
        type="trend", value="blowup", over="length", of=None, than=None, direction="higher"
    )
    logged = judge(spec | {"log": True}, rows)["1.1"]
    assert logged.estimate == pytest.approx(2.01)
    assert logged.high - logged.low == pytest.approx(2 * 4.3027 * 0.01 / 3**0.5, rel=1e-3)
    assert logged.unit == "1 per doubling of length"


def test_a_baseline_without_strength_counts_as_strength_0():
    def measure(point, seed):
        return [("accuracy", 0.5 + 0.2 * point.get("strength", 0) + 0.01 * noise(seed), {})]

    made = [{"intervention": "none"}, *points(intervention=["penalty"], strength=[0.25, 0.5])]
    spec = claim(type="trend", value="accuracy", over="strength", of=None, than=None,
                 direction="higher")  # fmt: skip
    rows = sweep(made, range(3), measure)
    assert "absent: 0" in judge(spec, rows)["1.1"].reason
    whole = judge(spec | {"absent": 0, "average_over": ["intervention"]}, rows)["1.1"]
    assert (whole.verdict, round(whole.estimate, 6)) == ("supported", 0.2)
    untold = judge(spec | {"absent": 0}, rows)["1.1"]
    assert "left out" in untold.note  # the baseline alone has one strength only


# --- gates, for_each, families ------------------------------------------------------------


def gated(gate, accuracy=None):
    accuracy = accuracy or {"vit": 0.99, "mlp": 0.97}

    def train(point, seed):
        name = "train_accuracy"
        return [(name, 0.5, {"step": 1}), (name, accuracy[point["arch"]], {"step": 2})]

    rows = PLAIN + sweep(points(arch=["vit", "mlp"]), SEEDS, train, "train")
    return judge(claim(gate=gate), rows)["1.1"]


@pytest.mark.parametrize(
    ("gate", "passed", "text"),
    [
        ({"name": "train_accuracy", "at_least": 0.95}, True, "lowest 0.99 (of), 0.97 (than)"),
        ({"name": "train_accuracy", "at_least": 0.98}, False, "needs at least 0.98"),
        ({"name": "train_accuracy", "at_most": 0.98}, False, "highest 0.99 (of), 0.97 (than)"),
        ({"name": "train_accuracy", "within": 0.03}, True, "mean difference 0.02"),
        (
            {"name": "train_accuracy", "within": 0.01},
            False,
            "mean difference 0.02, needs within 0.01",
        ),
        ({"name": "train_acc", "at_least": 0.9}, False, "did you mean train_accuracy?"),
    ],
)
def test_gates(gate, passed, text):
    result = gated(gate)
    assert result.verdict == ("supported" if passed else "inconclusive")
    assert text in result.gate
    assert passed or result.reason.startswith("gate failed: ")
    assert result.low < result.estimate < result.high < 0  # shown all the same


def test_one_model_below_a_gate_or_nan_fails_it():
    assert gated(
        {"name": "train_accuracy", "at_least": 0.9}, {"vit": 0.99, "mlp": float("nan")}
    ).verdict == ("inconclusive")


def test_a_gate_that_fails_at_one_value_of_for_each_blocks_that_verdict_only():
    def measure(point, seed):
        return [
            ("sensitivity", ARCHS[point["arch"]] + 0.001 * noise(seed, *point.values()), {}),
            ("accuracy", 0.5 if point["dataset"] == "hard" else 0.99, {}),
        ]

    rows = sweep(points(arch=["vit", "mlp"], dataset=["easy", "hard"]), SEEDS, measure)
    spec = claim(for_each="dataset", gate={"name": "accuracy", "at_least": 0.9})
    results = judge(spec, rows)
    assert {k: r.verdict for k, r in results.items()} == {
        "1.1[dataset=easy]": "supported",
        "1.1[dataset=hard]": "inconclusive",
    }


def test_for_each_gives_one_verdict_per_value_in_natural_order():
    rows = sweep(points(arch=["vit", "mlp"]), SEEDS, noise_sizes)
    results = judge(claim(for_each="sigma"), rows)
    assert [(k, r.verdict) for k, r in results.items()] == [
        ("1.1[sigma=0.1]", "supported"),
        ("1.1[sigma=1]", "refuted"),
    ]
    named = judge(claim(for_each={"sigma": [0.1, 0.3]}), rows)
    assert named["1.1[sigma=0.3]"].reason == (
        "no rows of sensitivity (sigma = 0.3, arch = vit): sigma has 0.1, 1"
    )
    assert named["1.1[sigma=0.1]"].family_size == 2  # what is missing still counts


def test_a_baseline_is_shared_by_all_values_of_a_column_that_it_does_not_have():
    def measure(point, seed):
        return [
            ("accuracy", 0.5 + point.get("strength", 0) + 0.01 * noise(seed, *point.values()), {})
        ]

    searched = points(intervention=["augment", "penalty"], strength=[0.1, 0.3])
    made = [{"intervention": "none"}, *searched]
    spec = claim(value="accuracy", direction="higher", than={"intervention": "none"},
                 of={"intervention": ["augment", "penalty"]},
                 for_each=["intervention", "strength"])  # fmt: skip
    results = judge(spec, sweep(made, range(4), measure))
    assert [(k, round(r.estimate, 1)) for k, r in results.items()] == [
        ("1.1[intervention=augment,strength=0.1]", 0.1),
        ("1.1[intervention=augment,strength=0.3]", 0.3),
        ("1.1[intervention=penalty,strength=0.1]", 0.1),
        ("1.1[intervention=penalty,strength=0.3]", 0.3),
    ]


def test_families_are_corrected_apart_and_descriptive_claims_not_at_all():
    specs = [claim(id="a"), claim(id="b"), claim(id="c", family="other"),
             claim(id="d", type="descriptive", direction=None)]  # fmt: skip
    results = judge(specs, PLAIN)
    assert [r.family_size for r in results.values()] == [2, 2, 1, 0]
    assert sorted(r.level for r in results.values()) == pytest.approx([0.95, 0.95, 0.95, 0.975])
    assert results["a"].p_adjusted == pytest.approx(2 * results["a"].p_value)
    assert results["d"].p_value is None
    with pytest.raises(ValueError, match="several levels"):
        judge([claim(id="a"), claim(id="b", level=0.9)], PLAIN)


def test_an_adjusted_interval_can_undo_a_verdict_that_stands_alone():
    def measure(point, seed):
        return [("sensitivity", 1 + 0.22 * noise(seed) if point["arch"] == "mlp" else 0.0, {})]

    rows = sweep(points(arch=["vit", "mlp"]), range(3), measure)
    alone = judge(claim(), rows)["1.1"]
    assert alone.verdict == "supported"
    crowd = [claim()] + [claim(id=f"x{i}", value="unmeasured") for i in range(30)]
    assert judge(crowd, rows)["1.1"].verdict == "inconclusive"


# --- properties ---------------------------------------------------------------------------

numbers = st.lists(st.floats(-3, 3, allow_subnormal=False), min_size=8, max_size=8)


def from_numbers(values, shift=0.0):
    made = points(arch=["vit", "mlp"])
    it = iter(values)
    return sweep(made, range(4), lambda p, s: [("sensitivity", next(it) + shift, {})])


@given(numbers, st.sampled_from([0.0, 0.5]))
@settings(max_examples=25, deadline=None)
def test_swapping_sides_flips_the_sign_and_nothing_else(values, smallest):
    rows = from_numbers(values)
    one = judge(claim(smallest_effect=smallest), rows)["1.1"]
    swapped = claim(
        of={"arch": "mlp"}, than={"arch": "vit"}, direction="higher", smallest_effect=smallest
    )
    other = judge(swapped, rows)["1.1"]
    assert other.estimate == pytest.approx(-one.estimate)
    assert (other.low, other.high) == pytest.approx((-one.high, -one.low))
    assert other.verdict == one.verdict


@given(numbers, st.integers(-4, 4))
@settings(max_examples=25, deadline=None)
def test_a_constant_added_to_every_value_changes_nothing(values, constant):
    values = [round(v * 64) / 64 for v in values]  # exact in binary, so no rounding on the way
    one = judge(claim(), from_numbers(values))["1.1"]
    other = judge(claim(), from_numbers(values, constant))["1.1"]
    assert (other.estimate, other.low, other.high) == pytest.approx(
        (one.estimate, one.low, one.high)
    )
    assert other.verdict == one.verdict


@given(numbers, st.randoms(use_true_random=False), st.sampled_from([None, 0.0, 0.7]))
@settings(max_examples=25, deadline=None)
def test_verdict_follows_from_the_shown_interval_in_any_order_of_rows(values, random, smallest):
    rows = from_numbers(values)
    specs = [
        claim(id=f"c{i}", smallest_effect=smallest, direction=d)
        for i, d in enumerate(["lower", "higher"])
    ]
    shuffled = random.sample(rows, len(rows))
    results = judge(specs, rows)
    assert judge(specs, shuffled) == results
    for result in results.values():
        sign = -1 if result.direction == "lower" else 1
        low, high = sorted((sign * result.low, sign * result.high))
        if result.verdict == "supported":
            assert low > 0
            assert sign * result.estimate >= (smallest or 0)
        elif result.verdict == "refuted":
            assert high < (smallest or 0) or (not smallest and high < 0)
        else:
            assert low <= 0 <= high or low < (smallest or 0) <= high


def test_intervals_cover_through_the_whole_path(capsys):
    """300 sweeps of 4 seeds and two datasets in one: 95% of the intervals hold the truth."""
    rng = np.random.default_rng(11)
    made = points(world=range(300), arch=["vit", "mlp"], dataset=["a", "b"])
    shared = rng.standard_normal((300, 4)) * 3

    def measure(point, seed):
        shift = 0.3 if point["arch"] == "vit" else 0.0
        return [("sensitivity", shift + shared[point["world"], seed] + rng.standard_normal(), {})]

    spec = claim(type="descriptive", direction=None, for_each="world")
    results = judge(spec, sweep(made, range(4), measure))
    covered = np.mean([r.low <= 0.3 <= r.high for r in results.values()])
    with capsys.disabled():
        print(f"\ncoverage of 95% intervals, rows to claim, 4 seeds, 300 sweeps: {covered:.3f}")
    assert abs(covered - 0.95) < 4 * (0.95 * 0.05 / 300) ** 0.5


# --- forms --------------------------------------------------------------------------------


def test_a_study_is_evaluated_and_recorded_as_json():
    study = {
        "study": "quickstart",
        "claims": [claim(fragile="tiny models overfit", figure="curve")],
    }
    results = evaluate_study(study, pd.DataFrame(PLAIN))
    (record,) = json.loads(json.dumps(as_records(results), allow_nan=False))
    assert record["verdict"] == "supported"
    assert record["interval"] == [record["low"], record["high"]]
    assert (record["fragile"], record["figure"]) == ("tiny models overfit", "curve")
    assert evaluate_study({"study": "none"}, pd.DataFrame(PLAIN)) == []
    assert evaluate([], pd.DataFrame(PLAIN)) == []


def test_rows_as_sql_gives_them_are_read_the_same():
    """Labels as text, gaps as NaN or None, nullable integers: what DuckDB hands over."""
    frame = pd.DataFrame(sweep(points(arch=["vit", "mlp"], depth=[2, 4]), SEEDS, noise_sizes_of))
    texts = frame.assign(
        sigma=frame["sigma"].astype(str), depth=frame["depth"].astype(str),
        step=frame["step"].astype("Int64"), seed=frame["seed"].astype("Int64"),
    )  # fmt: skip
    spec = claim(for_each={"sigma": [0.1]}, where={"depth": 2})
    assert judge(spec, texts) == judge(spec, frame)
    assert judge(spec, frame)["1.1[sigma=0.1]"].verdict == "supported"


def noise_sizes_of(point, seed):
    return noise_sizes({"arch": point["arch"]}, seed)


def test_claims_are_read_without_heavy_imports():
    code = (
        "import sys, sensweep.results.claims; "
        "print(sorted({'torch', 'scipy', 'pandas', 'numpy', 'pyarrow'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
