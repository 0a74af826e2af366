"""How rows become replicates: pairing, units of correlations, quantities, and what is missing."""

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
    sensitivities,
    sweep,
    trial,
)

# --- pairing ------------------------------------------------------------------------------


def test_sides_are_paired_by_seed():
    """Seeds differ by 0.05 and architectures by 0.01: only a paired comparison can see that."""
    result = judge(claim(than={"arch": "cnn"}), PLAIN)["1.1"]
    assert result.verdict == "supported"
    apart = sweep(points(arch=["vit"]), [0, 1, 2], sensitivities)
    apart += sweep(points(arch=["cnn"]), [7, 8, 9], sensitivities)
    missing = judge(claim(than={"arch": "cnn"}), apart)["1.1"]
    assert missing.reason == "no seed has both sides: of has 0, 1, 2; than has 7, 8, 9"


def test_sides_are_matched_on_every_shared_axis_before_they_are_averaged():
    """The harder dataset of one model failed: comparing averages would say the opposite."""
    level = {"easy": 0.0, "hard": 1.0}

    def measure(point, seed):
        shift = -0.1 if point["arch"] == "vit" else 0.0
        return [
            ("sensitivity", level[point["dataset"]] + shift + 0.01 * noise(seed, point["arch"]), {})
        ]

    rows = sweep(points(arch=["vit", "mlp"], dataset=level), range(4), measure)
    lost = [r for r in rows if (r["arch"], r["dataset"], r["seed"]) != ("mlp", "hard", 2)]
    result = judge(claim(), lost)["1.1"]
    assert result.estimate == pytest.approx(-0.1, abs=0.02)
    assert (result.verdict, result.n) == ("supported", 4)
    assert result.note == "seed 2: fewer matched values than the others (2)"
    lost = [r for r in rows if (r["arch"], r["dataset"]) != ("mlp", "hard")]
    result = judge(claim(), lost)["1.1"]
    assert result.estimate == pytest.approx(-0.1, abs=0.02)
    assert result.note == "matched at dataset easy only; one side lacks hard"


def test_a_seed_with_one_side_only_is_left_out_and_named():
    rows = [r for r in PLAIN if (r["arch"], r["seed"]) != ("mlp", 3)]
    result = judge(claim(), rows)["1.1"]
    assert result.n == 4
    assert result.note == "left out, one side missing: seed 3"


def test_other_axes_of_one_side_are_averaged_within_a_seed_first():
    def measure(point, seed):
        level = 0.6 + point["strength"] if "strength" in point else 0.5
        return [("accuracy", level + 0.01 * noise(seed), {})]

    made = [{"intervention": "none"}, *points(intervention=["penalty"], strength=[0.1, 0.3])]
    spec = claim(value="accuracy", direction="higher",
                 of={"intervention": "penalty"}, than={"intervention": "none"})  # fmt: skip
    result = judge(spec, sweep(made, range(3), measure))["1.1"]
    assert result.estimate == pytest.approx(0.3)
    assert result.n == 3  # seeds, not models


def test_against_a_number_and_against_pooled_sides():
    number = judge(claim(of={"arch": "mlp"}, than=0.5), PLAIN)["1.1"]
    mean = np.mean([r["value"] for r in PLAIN if r["arch"] == "mlp"])
    assert number.estimate == pytest.approx(mean - 0.5)
    assert number.verdict == "supported"
    each = judge(claim(than={"arch": ["mlp", "cnn"]}), PLAIN)
    assert list(each) == ["1.1[than arch=mlp]", "1.1[than arch=cnn]"]
    pooled = judge(claim(than={"arch": ["mlp", "cnn"]}, against="pooled"), PLAIN)["1.1"]
    assert pooled.estimate == pytest.approx(np.mean([r.estimate for r in each.values()]))


def test_architectures_as_replicates_are_averaged_first_and_compared_unpaired():
    levels = {f"vit{i}": 0.1 + 0.01 * i for i in range(4)} | {
        f"cnn{i}": 0.3 + 0.01 * i for i in range(3)
    }
    rows = sweep(
        points(arch=levels),
        range(10),
        lambda p, seed: [("sensitivity", levels[p["arch"]] + 0.001 * noise(seed, p["arch"]), {})],
    )
    vits, cnns = ([a for a in levels if a.startswith(kind)] for kind in ("vit", "cnn"))
    spec = claim(of={"arch": vits}, than={"arch": cnns}, replicate="arch")
    result = judge(spec, rows)["1.1"]
    assert (result.n, result.verdict) == (7, "supported")
    assert result.note == "unpaired: 4 arch values against 3"
    assert result.estimate == pytest.approx(-0.195, abs=0.002)
    assert 0.03 < result.high - result.low < 0.1  # the spread of architectures, not of 70 models


def test_an_intervention_with_architectures_as_replicates_is_paired_by_architecture():
    def measure(point, seed):
        gain = 0.1 if point["intervention"] == "penalty" else 0.0
        return [
            ("accuracy", ARCHS[point["arch"]] * 10 + gain + 0.01 * noise(seed, *point.values()), {})
        ]

    rows = sweep(points(arch=ARCHS, intervention=["none", "penalty"]), SEEDS, measure)
    spec = claim(value="accuracy", of={"intervention": "penalty"}, than={"intervention": "none"},
                 direction="higher", replicate="arch")  # fmt: skip
    result = judge(spec, rows)["1.1"]
    assert (result.n, result.verdict) == (3, "supported")


def test_relative_differences():
    def measure(point, seed):
        factor = 0.5 if point["arch"] == "vit" else 1.0
        wobble = 1 + 0.02 * noise(seed, point["arch"])
        return [("sensitivity", factor * 10**seed * wobble, {})]

    rows = sweep(points(arch=["vit", "mlp"]), SEEDS, measure)
    result = judge(claim(relative=True, smallest_effect=0.3), rows)["1.1"]
    assert (result.verdict, result.unit) == ("supported", "1")
    assert result.estimate == pytest.approx(-0.5, abs=0.02)
    assert judge(claim(smallest_effect=0.3), rows)["1.1"].verdict == "inconclusive"
    rows[0]["value"] = 0.0
    zero = judge(claim(relative=True), rows)["1.1"]
    assert (zero.verdict, zero.reason) == (
        "inconclusive", "a relative difference needs positive values, got 0",
    )  # fmt: skip


# --- correlations -------------------------------------------------------------------------


def clouds(between, inside, archs=6, seeds=range(6)):
    """Models whose two quantities go together between and within architectures as asked."""

    def x(point, seed):
        return [
            ("sensitivity", point["size"] + 0.2 * noise("s", point["size"], seed), {"sigma": 0.1})
        ]

    def y(point, seed):
        within = inside * 0.2 * noise("s", point["size"], seed) + 0.02 * noise(
            "y", point["size"], seed
        )
        return [("accuracy", between * point["size"] + within, {"corruption": "blur"})]

    made = [{"arch": f"arch{i}", "size": i} for i in range(archs)]
    return sweep(made, seeds, x, "sensitivity") + sweep(made, seeds, y, "robustness")


def correlated(**fields):
    base = claim(type="correlation", x="sensitivity", y="accuracy", value=None, of=None, than=None)
    return base | fields


def test_correlations_within_and_between_architectures_are_different_claims():
    rows = clouds(between=-1.0, inside=1.0)
    between = judge(correlated(replicate="arch", average_over=["size"]), rows)["1.1"]
    assert (between.verdict, between.n) == ("supported", 6)
    assert (between.estimate, between.unit) == (-1.0, "1")
    within = judge(correlated(replicate="model", within="arch", direction="higher"), rows)["1.1"]
    assert (within.verdict, within.n) == ("supported", 36)
    assert within.note.startswith("36 models come from 6 arch")
    along = judge(correlated(replicate="arch", along="seed", direction="higher"), rows)["1.1"]
    assert (along.verdict, along.n) == ("supported", 6)
    opposite = judge(correlated(replicate="model", within="arch"), rows)["1.1"]
    assert opposite.verdict == "refuted"


def test_a_correlation_of_few_architectures_is_inconclusive_and_none_needs_its_margin():
    rows = clouds(between=0.0, inside=0.0, archs=6)
    few = judge(correlated(replicate="arch", average_over=["size"]), rows)["1.1"]
    assert few.verdict == "inconclusive"
    assert few.high - few.low > 1  # nearly empty at n = 6
    many = sweep(
        [{}], range(400), lambda p, s: [("a", noise("a", s), {}), ("b", noise("b", s), {})]
    )
    spec = correlated(x="a", y="b", direction="none", margin=0.2, replicate="seed")
    assert judge(spec, many)["1.1"].verdict == "supported"
    assert judge(spec | {"method": "pearson"}, many)["1.1"].verdict == "supported"


def test_a_correlation_along_steps_has_seeds_as_replicates():
    """A progress measure moves with test accuracy in every seed; 50 steps are not 50 replicates."""

    def curves(point, seed):
        wobble = [0.3 * noise(seed, step) for step in range(50)]
        return [("progress", step + wobble[step], {"step": step}) for step in range(50)] + [
            ("test_accuracy", step / 50, {"step": step}) for step in range(50)
        ]

    rows = sweep([{}], range(4), curves)
    spec = correlated(x="progress", y="test_accuracy", along="step", direction="higher")
    result = judge(spec, rows)["1.1"]
    assert (result.verdict, result.n, result.replicate) == ("supported", 4, "seed")
    short = judge(spec | {"where": {"step": [1, 2, 3]}}, rows)["1.1"]
    assert short.reason == "no curve along step has the 4 points that it needs"


def test_a_flat_side_has_no_correlation():
    rows = sweep([{}], range(6), lambda p, s: [("a", 1.0, {}), ("b", noise(s), {})])
    result = judge(correlated(x="a", y="b", replicate="seed"), rows)["1.1"]
    assert (result.verdict, result.estimate) == ("inconclusive", None)
    assert "does not vary" in result.reason


# --- quantities ---------------------------------------------------------------------------


def curve(point, seed):
    """Test accuracy jumps at step 30, sensitivity peaks at 20; three layers."""
    rows = []
    for step in range(0, 60, 10):
        jump = 0.9 if step >= 30 + 10 * (seed % 2) else 0.2
        rows.append(("test_accuracy", jump, {"step": step}))
        for layer, scale in enumerate([1.0, 3.0, 2.0]):
            peak = scale * (10 - abs(step - 20) / 10) + 0.01 * noise(seed)
            rows.append(("sensitivity", peak, {"step": step, "layer": layer, "unit": "1"}))
    return rows


@pytest.mark.parametrize(
    ("quantity", "value", "unit"),
    [
        ({"name": "sensitivity", "aggregate": "max"}, 21.0, "1"),
        ({"name": "sensitivity", "step": "first"}, 16.0, "1"),
        ({"name": "sensitivity", "step": 20, "where": {"layer": 0}}, 10.0, "1"),
        ({"name": "sensitivity", "step": "all", "aggregate": "min"}, 7.0, "1"),
        ({"name": "sensitivity", "aggregate": "step_of_max"}, 20.0, "step"),
        ({"name": "test_accuracy", "crossing": {"at_least": 0.5}}, 34.0, "step"),
        (
            {"name": "test_accuracy", "crossing": {"at_least": 0.5},
             "minus": {"name": "sensitivity", "aggregate": "step_of_max"}}, 14.0, "step",
        ),
        (
            {"name": "sensitivity", "where": {"layer": 1},
             "divided_by": {"name": "sensitivity", "where": {"layer": 0}}}, 3.0, "1",
        ),
    ],
)  # fmt: skip
def test_quantities(quantity, value, unit):
    rows = sweep([{"arch": "vit"}], range(5), curve)
    spec = {"type": "descriptive", "id": "q", "statement": "s", "value": quantity}
    result = judge(spec, rows)["q"]
    assert (result.reason, result.unit) == (None, unit)
    assert result.estimate == pytest.approx(value, abs=0.02)


def test_a_threshold_that_is_never_crossed_is_not_finite():
    rows = sweep([{"arch": "vit"}], range(5), curve)
    quantity = {"name": "test_accuracy", "crossing": {"at_least": 0.95}}
    result = judge(claim(value=quantity, than=10), rows)["1.1"]
    assert (result.verdict, result.non_finite, result.n) == ("inconclusive", 5, 0)


def test_a_difference_of_quantities_pairs_models_that_differ_in_one_axis():
    """The gap between attention and convolution shrinks with depth."""
    rows = sweep(
        points(mixer=["attention", "conv"], depth=[2, 4, 8]),
        range(4),
        lambda p, s: [("error", (1 / p["depth"] if p["mixer"] == "attention" else 0)
                       + s + 0.01 * noise(s, *p.values()), {})],
    )  # fmt: skip
    gap = {"name": "error", "where": {"mixer": "attention"},
           "minus": {"name": "error", "where": {"mixer": "conv"}}}  # fmt: skip
    spec = claim(type="trend", value=gap, over="depth", log=True, of=None, than=None)
    result = judge(spec, rows)["1.1"]
    assert (result.verdict, result.n) == ("supported", 4)
    assert result.estimate == pytest.approx(-0.1875, abs=0.02)


# --- what is not there, or not finite -----------------------------------------------------


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"value": "sensitivty"}, "no rows named sensitivty; did you mean sensitivity?"),
        ({"of": {"arch": "vitt"}}, "no rows of sensitivity (arch = vitt): arch has cnn, mlp, vit"),
        ({"of": {"archs": "vit"}}, "there is no column archs; did you mean arch?"),
        ({"where": {"split": "test"}}, "split has train"),
        ({"for_each": "sigma"}, "no rows have a value of sigma"),
        ({"replicate": "dataset"}, "has no column dataset"),
        ({"average_over": ["dataset"]}, "has no column dataset"),
        ({"value": {"name": "sensitivity", "step": 3}}, "no rows of sensitivity"),
        ({"value": {"name": "sensitivity", "minus": "loss"}}, "no rows named loss"),
    ],
)
def test_missing_data_is_inconclusive_with_what_was_looked_for(change, reason):
    (result,) = judge(claim(**change), PLAIN).values()
    assert (result.verdict, result.estimate, result.n) == ("inconclusive", None, 0)
    assert reason in result.reason
    assert "\n" not in result.reason


def test_no_rows_at_all_and_a_single_seed():
    empty = pd.DataFrame(PLAIN).head(0)
    assert judge(claim(), empty)["1.1"].reason == "no rows named sensitivity"
    one = judge(claim(), [r for r in PLAIN if r["seed"] == 0])["1.1"]
    assert (one.verdict, one.n, one.low) == ("inconclusive", 1, None)
    assert one.reason == "1 replicate: an interval needs at least 2"
    assert one.estimate == pytest.approx(-0.06, abs=0.01)
    with pytest.raises(ValueError, match="rows lack cell, seed, seq"):
        judge(claim(), pd.DataFrame({"name": ["a"], "value": [1.0]}))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_counted_and_decides_nothing(value):
    rows = [dict(r) for r in PLAIN]
    next(r for r in rows if r["arch"] == "vit" and r["seed"] == 2)["value"] = value
    result = judge(claim(), rows)["1.1"]
    assert (result.verdict, result.n, result.non_finite) == ("inconclusive", 4, 1)
    assert result.reason == "1 of 5 seed values are NaN or infinite"
    assert result.estimate == pytest.approx(-0.06, abs=0.005)
    left = judge(claim(non_finite="leave_out"), rows)["1.1"]
    assert (left.verdict, left.n, left.non_finite) == ("supported", 4, 1)
    assert "left out" in left.note


def test_one_nan_among_the_coordinates_of_a_model_makes_the_model_nan():
    rows = sweep(points(arch=["vit", "mlp"]), SEEDS, noise_sizes)
    rows[0]["value"] = float("nan")
    assert judge(claim(), rows)["1.1"].non_finite == 1


def test_two_trials_at_one_place_are_not_averaged_in_silence():
    rows = PLAIN + trial(
        "analyse", {"arch": "vit"}, 0, [("sensitivity", 0.5, {"split": "train"})], "old"
    )
    result = judge(claim(), rows)["1.1"]
    assert result.verdict == "inconclusive"
    assert "measured by more than one trial" in result.reason


def test_one_name_in_two_stages_or_units_must_be_told_apart():
    rows = PLAIN + sweep(points(arch=ARCHS), SEEDS, sensitivities, "again")
    assert (
        "has several stages, again, analyse: give one stage" in judge(claim(), rows)["1.1"].reason
    )
    told = claim(value={"name": "sensitivity", "stage": "again"})
    assert judge(told, rows)["1.1"].verdict == "supported"
    rows = [r | ({"unit": "%"} if r["seed"] == 1 else {}) for r in PLAIN]
    assert "several units, %, 1" in judge(claim(), rows)["1.1"].reason


def test_equal_values_give_an_interval_without_width_and_a_note():
    rows = sweep(points(arch=["vit"]), SEEDS, lambda p, s: [("average_sensitivity", 10.0, {})])
    exact = claim(
        type="equivalence", value="average_sensitivity", than=10, margin=1e-6, direction=None
    )
    result = judge(exact, rows)["1.1"]
    assert (result.verdict, result.low, result.high) == ("supported", 0.0, 0.0)
    assert "no width" in result.note


def test_identifiers_that_look_like_numbers_are_told_apart():
    """12e456 and 34e567 are both infinite as numbers, and two cells as hashes."""
    cells = {"vit": "12e4567890123456", "mlp": "34e5678901234567", "cnn": "56e6789012345678"}
    rows = [
        row | {"cell": cells[row["arch"]], "trial_id": f"{cells[row['arch']]}{row['seed']}1234567"}
        for row in PLAIN
    ]
    highest = {"name": "sensitivity", "aggregate": "max"}
    spec = claim(type="descriptive", value=highest, of=None, than=None, direction=None)
    assert judge(spec, rows)["1.1"].estimate == pytest.approx(judge(spec, PLAIN)["1.1"].estimate)


def test_a_filter_of_the_claim_leaves_a_quantity_alone_that_names_the_column_itself():
    """Corruption accuracy relative to clean accuracy, both rows of one trial."""

    def measure(point, seed):
        kept = 0.8 if point["arch"] == "vit" else 0.5
        clean = 0.9 + 0.01 * noise(seed, point["arch"])
        kept += 0.01 * noise("kept", seed, point["arch"])
        return [
            ("accuracy", clean, {"corruption": "none"}),
            ("accuracy", clean * kept, {"corruption": "blur"}),
        ]

    clean = {"name": "accuracy", "where": {"corruption": "none"}}
    spec = claim(
        value={"name": "accuracy", "divided_by": clean},
        where={"corruption": "blur"},
        direction="higher",
        gate=clean | {"at_least": 0.85},
    )
    result = judge(spec, sweep(points(arch=["vit", "mlp"]), SEEDS, measure))["1.1"]
    assert (result.verdict, result.unit) == ("supported", "1")
    assert result.estimate == pytest.approx(0.3, abs=0.02)
