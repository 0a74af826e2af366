"""Axes become points: nothing twice, conditions respected, counts as the product says."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensweep.orchestrator import space
from sensweep.orchestrator.axes import parse_axis
from sensweep.orchestrator.errors import FieldError


def axes(**written):
    return {name: parse_axis(axis) for name, axis in written.items()}


INTERVENTIONS = axes(
    arch={"vit": {"name": "vit"}, "mlp": {"name": "mlp"}},
    intervention=["none", "noise", "penalty"],
    strength=[
        {"when": {"intervention": "noise"}, "values": [0.1, 0.3]},
        {"when": {"intervention": "penalty"}, "values": [0.25, 0.5, 0.75]},
    ],
)


def test_baseline_is_one_point_not_one_per_strength():
    points = space.grid(INTERVENTIONS, list(INTERVENTIONS))
    assert len(points) == 2 * (1 + 2 + 3)
    baselines = [p for p in points if p["intervention"] == "none"]
    assert baselines == [
        {"arch": "vit", "intervention": "none"},
        {"arch": "mlp", "intervention": "none"},
    ]


def test_parameters_are_the_values_behind_the_labels():
    point = {"arch": "vit", "intervention": "noise", "strength": 0.3}
    assert space.parameters(INTERVENTIONS, list(INTERVENTIONS), point) == {
        "arch": {"name": "vit"},
        "intervention": "noise",
        "strength": 0.3,
    }
    baseline = {"arch": "vit", "intervention": "none"}
    assert "strength" not in space.parameters(INTERVENTIONS, list(INTERVENTIONS), baseline)


def test_conditions_may_be_chained_and_joint():
    tree = axes(
        c={"when": {"b": [1, 2], "z": "on"}, "values": ["x", "y"]},
        b={"when": {"a": "deep"}, "values": [1, 2, 3]},
        a=["flat", "deep"],
        z=["on", "off"],
    )
    points = space.grid(tree, list(tree))
    # flat: z alone; deep: per b of 3, z on with c (2) where b in {1, 2}, else bare.
    assert len(points) == 2 + (2 * (2 + 1) + 2)
    for point in points:
        assert ("b" in point) == (point["a"] == "deep")
        assert ("c" in point) == (point.get("b") in (1, 2) and point["z"] == "on")


def test_conditions_in_a_circle_are_refused_with_their_names():
    loop = axes(
        a={"when": {"b": 1}, "values": [1]},
        b={"when": {"c": 1}, "values": [1]},
        c={"when": {"a": 1}, "values": [1]},
        d=[1],
    )
    with pytest.raises(FieldError, match="circle: a -> b -> c -> a"):
        space.grid(loop, list(loop))


def test_two_blocks_that_apply_at_one_point_are_refused():
    both = axes(
        a=[1, 2],
        b=[1],
        s=[{"when": {"a": 1}, "values": [0.1]}, {"when": {"b": 1}, "values": [0.2]}],
    )
    with pytest.raises(FieldError, match="blocks 0 and 1 both apply"):
        space.grid(both, list(both))


def test_inherited_labels_meet_conditions():
    own = axes(arch=["vit", "mlp"], heads={"when": {"arch": "vit"}, "values": [1, 2]})
    assert len(space.grid(own, ["heads"], {"arch": "vit"})) == 2
    assert space.grid(own, ["heads"], {"arch": "mlp"}) == [{"arch": "mlp"}]


labels = st.lists(st.integers(0, 9), min_size=1, max_size=4, unique=True)


@st.composite
def conditional_spaces(draw):
    """A few axes; each may depend on some labels of one that was drawn before it."""
    written = {}
    for name in draw(st.permutations("abcde"))[: draw(st.integers(1, 5))]:
        values = draw(labels)
        parents = [p for p in written if isinstance(written[p], list)]
        if parents and draw(st.booleans()):
            parent = draw(st.sampled_from(sorted(parents)))
            met = draw(st.lists(st.sampled_from(written[parent]), min_size=1, unique=True))
            written[name] = {"when": {parent: met}, "values": values}
        else:
            written[name] = values
    return written


def expected_count(written):
    """Count by brute force: every combination of the free axes, times the conditional ones."""
    free = {name: axis for name, axis in written.items() if isinstance(axis, list)}
    total = 0
    for combination in itertools.product(*free.values()):
        at = dict(zip(free, combination, strict=True))
        total += math.prod(
            len(axis["values"])
            for axis in written.values()
            if isinstance(axis, dict) and all(at[k] in v for k, v in axis["when"].items())
        )
    return total


@given(conditional_spaces())
def test_grid_has_every_point_once_and_respects_conditions(written):
    points = space.grid(axes(**written), list(written))
    keys = {tuple(sorted(p.items())) for p in points}
    assert len(keys) == len(points) == expected_count(written)
    for point in points:
        for name, axis in written.items():
            if isinstance(axis, list):
                assert point[name] in axis
            else:
                met = all(point[k] in v for k, v in axis["when"].items())
                assert (point.get(name) in axis["values"]) == met
                assert (name in point) == met


@given(conditional_spaces(), st.randoms())
def test_order_does_not_depend_on_the_order_of_the_axes(written, rng):
    names = list(written)
    rng.shuffle(names)
    shuffled = axes(**{name: written[name] for name in names})
    assert space.grid(shuffled, names) == space.grid(axes(**written), list(written))


@given(conditional_spaces(), st.integers(0, 99))
@settings(max_examples=50)
def test_random_points_of_lists_are_distinct_points_of_the_grid(written, seed):
    parsed = axes(**written)
    grid = space.grid(parsed, list(written))
    drawn = space.draw(parsed, list(written), len(grid), seed)
    assert sorted(map(repr, drawn)) == sorted(map(repr, grid))
    fewer = space.draw(parsed, list(written), max(1, len(grid) // 2), seed)
    assert fewer == drawn[: len(fewer)]
    with pytest.raises(FieldError, match="ask for fewer"):
        space.draw(parsed, list(written), len(grid) + 1, seed)


RANGES = axes(
    arch=["vit", "mlp"],
    lr={"log_uniform": [1e-4, 1e-2]},
    decay={"uniform": [0, 0.1]},
    depth={"when": {"arch": "vit"}, "values": {"integers": [1, 3]}},
    norm={"choice": ["batch", "layer"]},
)


def test_random_points_lie_in_their_ranges_and_repeat():
    points = space.draw(RANGES, list(RANGES), 400, seed=1)
    assert points == space.draw(RANGES, list(RANGES), 400, seed=1)
    assert points != space.draw(RANGES, list(RANGES), 400, seed=2)
    assert len({repr(p) for p in points}) == 400
    for point in points:
        assert 1e-4 <= point["lr"] <= 1e-2
        assert 0 <= point["decay"] <= 0.1
        assert point["norm"] in ("batch", "layer")
        assert ("depth" in point) == (point["arch"] == "vit")
        assert point.get("depth", 1) in (1, 2, 3)
    assert {p["depth"] for p in points if "depth" in p} == {1, 2, 3}


def test_log_uniform_is_uniform_in_the_logarithm():
    logs = sorted(math.log10(p["lr"]) for p in space.draw(RANGES, ["lr"], 2000, seed=0))
    # Kolmogorov-Smirnov distance from uniform on [-4, -2]; 1.95 / sqrt(n) has p = 0.001.
    distance = max(abs((x + 4) / 2 - (i + 0.5) / 2000) for i, x in enumerate(logs))
    assert distance < 1.95 / math.sqrt(2000)


def test_another_axis_leaves_the_other_draws_as_they_are():
    without = space.draw(RANGES, ["lr"], 20, seed=3)
    among = space.draw(RANGES, ["arch", "lr", "norm"], 20, seed=3)
    assert [p["lr"] for p in among] == [p["lr"] for p in without]


def test_more_draws_begin_with_the_same_points():
    assert space.draw(RANGES, list(RANGES), 10, 0) == space.draw(RANGES, list(RANGES), 30, 0)[:10]


def test_a_distribution_has_no_grid():
    with pytest.raises(FieldError, match="random: COUNT"):
        space.grid(RANGES, list(RANGES))


def test_too_large_a_grid_is_refused_at_once():
    huge = axes(**{name: list(range(100)) for name in "abcdefgh"})
    with pytest.raises(FieldError, match="1,000,000"):
        space.grid(huge, list(huge))


def test_listed_points_are_checked_against_their_axes():
    good = [{"arch": "vit", "lr": 0.001}, {"arch": "mlp", "lr": 0.002}]
    assert space.listed(RANGES, good) == good
    for bad, message in [
        ([{"arch": "vitt", "lr": 0.001}], "did you mean 'vit'"),
        ([{"arch": "vit", "lr": 1.0}], "log_uniform in"),
        ([{"arch": "vit", "lr": True}], "log_uniform in"),
        ([{"arch": "vit", "lr": 0.001}, {"arch": "mlp"}], "'lr' is missing"),
        ([good[0], dict(good[0])], "listed twice"),
        ([{"arch": "mlp", "depth": 1}], "condition is not met"),
        ([{"arch": "vit", "depth": 1.5}], "integers in"),
    ]:
        with pytest.raises(FieldError, match=message):
            space.listed(RANGES, bad)


@pytest.mark.parametrize(
    "written",
    [
        [],
        {},
        "digits",
        None,
        [1, 1.0],
        [None],
        [[1, 2]],
        [""],
        {"log_uniform": [0, 1]},
        {"uniform": [1, 1]},
        {"uniform": [1]},
        {"uniform": "1..2"},
        {"integers": [1, 2.5]},
        {"choice": {"a": 1}},
        {"log_unifrom": [1, 2]},
        {"values": [1]},
        {"when": {"a": 1}},
        {"when": {}, "values": [1]},
        {"when": {"a": []}, "values": [1]},
        {"when": {"a": 1}, "values": [1], "valeus": [2]},
        [{"when": {"a": 1}, "values": [1]}, {"values": [2]}],
    ],
)
def test_bad_axes_are_refused(written):
    with pytest.raises(FieldError):
        parse_axis(written)


@given(conditional_spaces())
def test_an_axis_survives_being_written_and_read(written):
    for axis in axes(**written, r={"log_uniform": [1, 2]}).values():
        assert parse_axis(axis.plain()) == axis
