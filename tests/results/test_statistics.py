"""Coverage and error rates on synthetic data whose truth is known, at the n of a study."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sensweep.results import statistics as s

REPEATS = 20_000


def within_monte_carlo(rate, truth, repeats=REPEATS):
    """Whether an observed rate is within four standard errors of a true one."""
    return abs(rate - truth) < 4 * math.sqrt(truth * (1 - truth) / repeats)


def coverage(estimate, truth, level=0.95):
    low, high = estimate.interval(level)
    return float(np.mean((low <= truth) & (truth <= high)))


def false_positives(estimate, null, alpha=0.05):
    """Rate of intervals on either side of a null that is true."""
    low, high = estimate.interval(1 - alpha)
    return float(np.mean((low > null) | (high < null)))


def normal(rng, n, mean=0.0, sd=1.0):
    return mean + sd * rng.standard_normal((REPEATS, n))


def test_coverage_and_false_positives_at_3_5_and_10(capsys):
    """The table that the design asks for. Seeds share noise (sd 1) on top of their own."""
    rng = np.random.default_rng(7)
    lines = [f"{'n':>3} {'estimator':<28} {'coverage':>9} {'false positives':>16}"]
    for n in (3, 5, 10):
        shared = normal(rng, n)
        of, than = normal(rng, n, 0.7) + shared, normal(rng, n) + shared
        x = np.arange(6.0)
        lines_of_seeds = 0.3 * x + shared[..., None] + rng.standard_normal((REPEATS, n, 6))
        exact = {
            "mean, t": (s.mean_estimate(of), 0.7),
            "paired difference, t": (s.paired_difference(of, than), 0.7),
            "paired ratio, t on logs": (s.paired_ratio(np.exp(of), np.exp(than)), math.expm1(0.7)),
            "slope over 6 points, t": (s.mean_estimate(s.slope(x, lines_of_seeds)), 0.3),
        }
        welch = s.welch_difference(normal(rng, n, 0.7, sd=3.0), normal(rng, n))
        for name, (estimate, truth) in exact.items():
            covered, wrong = coverage(estimate, truth), false_positives(estimate, truth)
            lines.append(f"{n:>3} {name:<28} {covered:>9.3f} {wrong:>16.3f}")
            assert within_monte_carlo(covered, 0.95), (n, name, covered)
            assert within_monte_carlo(wrong, 0.05), (n, name, wrong)
        lines.append(f"{n:>3} {'Welch, sd 3 against 1':<28} {coverage(welch, 0.7):>9.3f} "
                     f"{false_positives(welch, 0.7):>16.3f}")  # fmt: skip
        assert 0.93 < coverage(welch, 0.7) < 0.97
        percentile = np.percentile(
            normal(rng, n)[:2000, rng.integers(0, n, (500, n))].mean(-1), [2.5, 97.5], axis=-1
        )
        bootstrap = np.mean((percentile[0] <= 0) & (percentile[1] >= 0))
        lines.append(
            f"{n:>3} {'(percentile bootstrap)':<28} {bootstrap:>9.3f} {1 - bootstrap:>16.3f}"
        )
        assert bootstrap < 0.92  # why it is never used
    with capsys.disabled():
        print("\n" + "\n".join(lines))


def test_correlation_coverage_at_small_n(capsys):
    rng = np.random.default_rng(8)
    repeats = 8000
    lines = [f"{'n':>3} {'truth':>6} {'Spearman':>9} {'Pearson':>9}   (coverage of 95%)"]
    for n in (5, 6, 10, 12, 20):
        for rho in (0.0, 0.5, 0.8, 0.95):
            x = rng.standard_normal((repeats, n))
            y = rho * x + math.sqrt(1 - rho**2) * rng.standard_normal((repeats, n))
            rank_rho = 6 / math.pi * math.asin(rho / 2)  # of the bivariate normal
            spearman = coverage(s.spearman(x, y), rank_rho)
            pearson = coverage(s.pearson(x, y), rho)
            lines.append(f"{n:>3} {rho:>6.2f} {spearman:>9.3f} {pearson:>9.3f}")
            assert spearman > 0.93, (n, rho)
            assert pearson > 0.935, (n, rho)
            if rho == 0 and n >= 6:
                assert spearman < 0.98, n  # conservative, but not empty
    with capsys.disabled():
        print("\n" + "\n".join(lines))


def test_pooled_ranks_within_groups_cover_and_ignore_differences_between_groups():
    rng = np.random.default_rng(9)
    groups = np.repeat(["vit", "mlp", "cnn"], 8)
    offset = np.repeat([0.0, 5.0, 10.0], 8)
    x = rng.standard_normal((8000, 24))
    null = s.spearman(x + offset, rng.standard_normal((8000, 24)) - offset, groups)
    assert 0.94 < coverage(null, 0.0) < 0.98
    assert (
        float(s.spearman((x + offset)[0], -offset + x[0], None).value) < -0.3
    )  # ungrouped: opposite
    assert float(s.spearman((x + offset)[0], -offset + x[0], groups).value) == pytest.approx(1.0)
    assert s.spearman(x[0], x[0], groups).n == 22  # two degrees of freedom for three groups


def test_estimates_agree_with_scipy():
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal(6) + 1, rng.standard_normal(6)
    paired = s.paired_difference(a, b)
    reference = stats.ttest_rel(a, b)
    assert paired.interval(0.9) == pytest.approx(tuple(reference.confidence_interval(0.9)))
    assert paired.p_value(0.0) == pytest.approx(reference.pvalue)
    welch = stats.ttest_ind(a, b[:4], equal_var=False)
    assert s.welch_difference(a, b[:4]).p_value(0.0) == pytest.approx(welch.pvalue)
    assert s.welch_difference(a, b[:4]).interval(0.95) == pytest.approx(
        tuple(welch.confidence_interval(0.95))
    )
    assert float(s.spearman(a, b).value) == pytest.approx(stats.spearmanr(a, b).statistic)
    pearson = stats.pearsonr(a, b)
    assert s.pearson(a, b).interval(0.95) == pytest.approx(tuple(pearson.confidence_interval(0.95)))
    assert float(s.slope(a, b)) == pytest.approx(stats.linregress(a, b).slope)


def test_a_paired_interval_is_narrow_only_because_it_is_paired():
    seeds = np.array([0.2, 0.9, 0.5, 0.7, 0.1])
    of, than = seeds + np.array([0.10, 0.11, 0.09, 0.10, 0.12]), seeds
    low, high = s.paired_difference(of, than).interval(0.95)
    assert low > 0
    assert high - low < 0.05
    assert s.welch_difference(of, than).interval(0.95)[0] < 0


def test_perfect_ranks_of_few_units_are_not_certain():
    """With 4 units a perfect order has chance 1/12 (two-sided), with 5 units 1/60."""
    four, five = s.spearman(range(4), range(4)), s.spearman(range(5), range(5))
    assert four.value == 1.0
    assert four.p_value(0.0) > 2 / math.factorial(4)
    assert 2 / math.factorial(5) < five.p_value(0.0) < 0.05
    assert five.interval(0.95)[1] == 1.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: s.mean_estimate([1.0]), "1 replicate: an interval needs at least 2"),
        (lambda: s.mean_estimate([]), "0 replicates: an interval needs at least 2"),
        (
            lambda: s.welch_difference([1.0, 2.0], [3.0]),
            "1 replicate: an interval needs at least 2",
        ),
        (lambda: s.spearman([1, 2, 3], [1, 2, 3]), "3 replicates: an interval needs at least 4"),
        (lambda: s.paired_ratio([1.0, 2.0], [0.0, 1.0]), "needs positive values, got 0"),
    ],
)
def test_too_little_is_said_in_one_line(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_holm_matches_the_textbook():
    assert s.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert s.holm([0.9, 0.8]) == [1.0, 1.0]
    assert s.holm([]) == []


HYPOTHESES = {
    "superiority": s.Hypothesis("superiority"),
    "superiority, smallest effect 0.5": s.Hypothesis("superiority", 0.5),
    "noninferiority": s.Hypothesis("noninferiority", 0.5),
    "equivalence": s.Hypothesis("equivalence", 0.5),
}


@pytest.mark.parametrize(
    ("name", "value", "low", "high", "verdict"),
    [
        ("superiority", 1.0, 0.1, 1.9, "supported"),
        ("superiority", 1.0, -0.1, 2.1, "inconclusive"),
        ("superiority", -1.0, -1.9, -0.1, "refuted"),
        ("superiority", 0.0, 0.0, 0.0, "inconclusive"),
        ("superiority, smallest effect 0.5", 0.6, 0.1, 1.1, "supported"),
        ("superiority, smallest effect 0.5", 0.4, 0.1, 0.7, "inconclusive"),
        ("superiority, smallest effect 0.5", 0.3, 0.2, 0.4, "refuted"),  # real, but too small
        ("superiority, smallest effect 0.5", 0.6, -0.1, 1.3, "inconclusive"),
        ("noninferiority", 0.0, -0.4, 0.4, "supported"),
        ("noninferiority", 0.0, -0.6, 0.6, "inconclusive"),
        ("noninferiority", -1.0, -1.4, -0.6, "refuted"),
        ("equivalence", 0.1, -0.4, 0.49, "supported"),
        ("equivalence", 0.1, -0.4, 0.6, "inconclusive"),
        ("equivalence", 1.0, 0.6, 1.4, "refuted"),
        ("equivalence", -1.0, -1.4, -0.6, "refuted"),
    ],
)
def test_verdicts(name, value, low, high, verdict):
    hypothesis = HYPOTHESES[name]
    assert hypothesis.verdict(value, low, high) == verdict
    mirrored = s.Hypothesis(hypothesis.kind, hypothesis.bound, sign=-1)
    assert mirrored.verdict(-value, -high, -low) == verdict


def test_tost_agrees_with_two_one_sided_tests():
    x = np.array([0.02, -0.05, 0.04, 0.01, -0.03, 0.03])
    estimate, margin = s.mean_estimate(x), 0.06
    one_sided = max(
        stats.ttest_1samp(x, -margin, alternative="greater").pvalue,
        stats.ttest_1samp(x, margin, alternative="less").pvalue,
    )
    assert s.Hypothesis("equivalence", margin).p_value(estimate) == pytest.approx(2 * one_sided)


values = st.lists(st.floats(-5, 5), min_size=3, max_size=8).filter(lambda v: np.ptp(v) > 1e-3)


@given(values, st.sampled_from(sorted(HYPOTHESES)), st.sampled_from([1, -1]), st.floats(0.01, 0.3))
@settings(max_examples=300, deadline=None)
def test_p_value_and_interval_always_give_the_same_verdict(numbers, name, sign, alpha):
    hypothesis = s.Hypothesis(HYPOTHESES[name].kind, HYPOTHESES[name].bound, sign)
    estimate = s.mean_estimate(numbers)
    p = hypothesis.p_value(estimate)
    verdict = hypothesis.verdict(float(estimate.value), *estimate.interval(1 - alpha))
    if abs(p - alpha) > 1e-9:
        assert (verdict != "inconclusive") == (p < alpha)


def family_errors(rng, means, hypothesis, wrong, correlation=0.0, repeats=1200, n=5):
    """Rate at which a family of claims has at least one verdict in `wrong` (per claim)."""
    k, errors = len(means), 0
    common = rng.standard_normal((repeats, 1, n)) * math.sqrt(correlation)
    own = rng.standard_normal((repeats, k, n)) * math.sqrt(1 - correlation)
    data = common + own + np.asarray(means)[:, None]
    for family in data:
        decisions = s.decide([(s.mean_estimate(x), hypothesis) for x in family], 0.95)
        errors += any(d.verdict in bad for d, bad in zip(decisions, wrong, strict=True))
    return errors / repeats


@pytest.mark.parametrize("correlation", [0.0, 0.8])
def test_family_wise_error_under_holm(correlation, capsys):
    rng = np.random.default_rng(3)
    limit = 0.05 + 4 * math.sqrt(0.05 * 0.95 / 1200)
    either, superior = {"supported", "refuted"}, s.Hypothesis("superiority")
    families = {
        "all 5 null": ([0] * 5, superior, [either] * 5),
        "2 true, 3 null": ([3, 3, 0, 0, 0], superior, [{"refuted"}] * 2 + [either] * 3),
        "4 at the smallest effect": (
            [0.5] * 4, s.Hypothesis("superiority", 0.5), [{"refuted"}] * 4,
        ),
        "4 at 0, smallest effect 2": (
            [0] * 4, s.Hypothesis("superiority", 2.0), [{"supported"}] * 4,
        ),
        "4 at the margin": ([-0.5] * 4, s.Hypothesis("noninferiority", 0.5), [either] * 4),
    }  # fmt: skip
    rates = {
        name: family_errors(rng, *family, correlation=correlation)
        for name, family in families.items()
    }
    with capsys.disabled():
        print(f"\nfalse verdicts per family, correlation {correlation:g}: "
              + ", ".join(f"{name} {rate:.3f}" for name, rate in rates.items()))  # fmt: skip
    assert all(rate < limit for rate in rates.values()), rates
    if correlation == 0:
        uncorrected = 1 - 0.95**5
        assert uncorrected > 2 * limit  # what the same family would do without Holm
        assert rates["all 5 null"] > 0.03  # and Holm is not idle


def test_holm_decides_more_than_bonferroni_and_levels_say_so():
    rng = np.random.default_rng(5)
    strong = [(s.mean_estimate(rng.standard_normal(5) * 0.1 + 2), s.Hypothesis("superiority"))] * 3
    noise = (s.mean_estimate([1.0, -1.0, 0.3]), s.Hypothesis("superiority"))
    decisions = s.decide([*strong, noise, None], 0.95)
    assert [d and d.verdict for d in decisions] == ["supported"] * 3 + ["inconclusive", None]
    levels = [round(d.level, 6) for d in decisions[:4]]
    assert sorted(levels) == [round(1 - 0.05 / m, 6) for m in (2, 3, 4, 5)]
    assert levels[3] == round(1 - 0.05 / 2, 6)  # noise and the impossible one are left
