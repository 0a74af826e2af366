"""One search over every sampler: interrupted anywhere, it asks what it would have asked."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensweep.orchestrator.axes import Axis, Point, parse_axis
from sensweep.orchestrator.errors import FieldError
from sensweep.orchestrator.search import ReplayError, Search
from sensweep.orchestrator.search_proposal import Proposal, best
from sensweep.orchestrator.search_sampler import KINDS
from sensweep.orchestrator.search_spec import SAMPLERS, SearchSpec
from sensweep.orchestrator.search_stop import Halving

# A conditional axis of two blocks, a categorical one, a whole number, a logarithmic one.
AXES: dict[str, Axis] = {
    "kind": parse_axis(["penalty", "noise", "none"]),
    "strength": parse_axis(
        [
            {"when": {"kind": "penalty"}, "values": {"uniform": [0.0, 1.0]}},
            {"when": {"kind": "noise"}, "values": {"log_uniform": [0.01, 2.0]}},
        ]
    ),
    "width": parse_axis({"integers": [1, 6]}),
}
NUMERIC: dict[str, Axis] = {
    "x": parse_axis({"uniform": [-1.0, 1.0]}),
    "y": parse_axis({"log_uniform": [0.01, 1.0]}),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "tpe": {"n_startup_trials": 4},
    "gp": {"n_startup_trials": 4},
    "nsga2": {"population_size": 5},
    "nsga3": {"population_size": 5},
    "cma_es": {"popsize": 4},
    "random": {},
    "quasi_random": {"scramble": True},
}
assert OPTIONS.keys() == SAMPLERS.keys()


def spec(
    sampler: str = "tpe", objectives: int = 1, axes: dict[str, Axis] = AXES, **more: Any
) -> SearchSpec:
    block = {
        "axes": list(axes),
        "objectives": [{"name": "loss", "stage": "s", "direction": "minimize"}] * objectives,
        "trials": 100,
        "sampler": {"name": sampler, "options": OPTIONS[sampler]},
    }
    return SearchSpec.model_validate(block | more)


def evaluate(labels: Point, objectives: int) -> list[float]:
    strength = float(labels.get("strength", 0.5))
    loss = (
        (strength - 0.3) ** 2 + 0.1 * len(str(labels.get("kind", ""))) + float(labels.get("x", 0))
    )
    return [loss, -strength * float(labels.get("width", 1))][:objectives]


def go_on(search: Search, points: int, objectives: int) -> None:
    while len(search.proposals) < points:
        point = search.ask()
        search.begin(point, [f"{point.number:024x}"])
        if point.number % 7 == 3:
            search.tell(point.number, "failed", reason="it raised")
        else:
            search.tell(point.number, "complete", evaluate(point.labels, objectives), [])


def labels(search: Search) -> list[Point]:
    return [point.labels for point in search.proposals]


CASES = [
    (sampler, objectives)
    for sampler, objectives in itertools.product(SAMPLERS, (1, 2))
    if (sampler, objectives) != ("cma_es", 2)  # Optuna's has one objective
]


@pytest.mark.parametrize(("sampler", "objectives"), CASES)
def test_an_interrupted_search_asks_what_the_uninterrupted_one_asks(
    sampler: str, objectives: int
) -> None:
    axes = NUMERIC if sampler == "cma_es" else AXES
    points = 7 if sampler == "gp" else 16
    of = spec(sampler, objectives, axes)
    whole = Search("s", of, axes, {})
    go_on(whole, points, objectives)
    events = whole.drain()
    every = 9 if sampler == "gp" else 3
    for cut in range(0, len(events), every):  # after asks, and after tells
        again = Search("s", of, axes, {}, events[:cut])
        assert again.drain() == []
        for point in again.running:  # asked, and never told: its trials run again
            told = whole.proposals[point.number]
            again.tell(point.number, told.state, told.values, [], told.reason)  # type: ignore[arg-type]
        go_on(again, points, objectives)
        assert labels(again) == labels(whole), cut
        assert [e for e in again.drain() if e["event"] >= cut] == events[cut:], cut


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_a_parallel_search_replays_its_recorded_order(sampler: str) -> None:
    axes = NUMERIC if sampler == "cma_es" else AXES
    of = spec(sampler, axes=axes)
    search, order = Search("s", of, axes, {}), random.Random(5)
    running: list[Proposal] = []
    while len(search.proposals) < (8 if sampler == "gp" else 20):
        if len(running) < 4:
            running.append(search.ask())
            search.begin(running[-1], ["0" * 24])
        else:
            point = running.pop(order.randrange(4))
            search.tell(point.number, "complete", evaluate(point.labels, 1))
    events = search.drain()
    again = Search("s", of, axes, {}, events)
    assert labels(again) == labels(search)
    assert [p.number for p in again.running] == [p.number for p in search.running]
    assert again.ask().labels == search.ask().labels


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_points_under_way_are_not_proposed_twice(sampler: str) -> None:
    axes = {"x": parse_axis({"integers": [1, 5]}), "y": parse_axis(["a", "b"])}
    search = Search("s", spec(sampler, axes=axes), axes, {})
    seen = [search.ask().labels for _ in range(6)]
    assert len({json.dumps(point) for point in seen}) == 6
    # With all ten points under way there is nothing new: the next one shares a point's trials.
    for _ in range(8):
        search.ask()


def test_a_tell_that_is_not_finite_is_a_failure() -> None:
    search = Search("s", spec(), AXES, {})
    search.tell(search.ask().number, "complete", [float("nan")])
    assert search.proposals[0].state == "failed"
    assert "not finite" in search.proposals[0].reason


def test_infeasible_points_are_never_best_and_the_sampler_avoids_them() -> None:
    axes = {"x": NUMERIC["x"]}
    block = [{"name": "cost", "stage": "s", "at_most": 0.0}]
    search = Search("s", spec(axes=axes, constraints=block), axes, {})
    for _ in range(60):
        point = search.ask()
        x = float(point.labels["x"])
        search.tell(point.number, "complete", [x], [0.2 - x])  # feasible from 0.2 on
    winner = best(search.proposals, ["minimize"])
    assert winner is not None
    assert 0.2 <= float(winner.labels["x"]) < 0.35
    late = [float(point.labels["x"]) for point in search.proposals[30:]]
    assert sum(x > 0 for x in late) > 20


def test_a_window_keeps_the_best_points_and_the_latest_and_survives_an_interruption() -> None:
    axes, window = NUMERIC, KINDS["tpe"].window
    assert window is not None
    of = spec(axes=axes)

    def run(points: int, events: list[dict[str, object]]) -> Search:
        search = Search("s", of, axes, {}, events)
        while len(search.proposals) < points:
            point = search.ask()
            search.begin(point, [])
            search.tell(point.number, "complete", [evaluate(point.labels, 1)[0]])
        return search

    whole = run(2 * window, [])
    events = whole.drain()
    cut = run(2 * window, events[: int(3.3 * window)])
    assert labels(cut) == labels(whole)
    shown = cut._shown
    assert len(shown) <= 1.5 * window
    told = sorted(whole.proposals, key=lambda p: p.values[0])
    forgotten = {p.number for p in told[: window // 8]} - set(shown)
    assert not forgotten, "the best points must stay"


def test_another_version_of_optuna_is_noticed() -> None:
    search = Search("s", spec("quasi_random"), AXES, {})
    go_on(search, 3, 1)
    events = search.drain()
    events[2] = events[2] | {"params": json.dumps({"kind": "none", "width": 99})}
    with pytest.raises(ReplayError, match=r"ask 1 was .*99.* proposes"):
        Search("s", spec("quasi_random"), AXES, {}, events)


@pytest.mark.parametrize(
    ("rule", "options"),
    [
        ("median", {"n_startup_trials": 2}),
        ("percentile", {"percentile": 50.0, "n_startup_trials": 2}),
        ("asha", {"min_resource": 1, "reduction_factor": 2}),
        ("hyperband", {"min_resource": 1, "max_resource": 8, "reduction_factor": 2}),
        ("wilcoxon", {"n_startup_steps": 2, "p_threshold": 0.3}),
        ("halving", {"eta": 2, "startup": 2}),
    ],
)
def test_every_rule_stops_hopeless_points_and_keeps_the_best(
    rule: str, options: dict[str, Any]
) -> None:
    of = spec(axes=NUMERIC, stop={"by": rule, "rungs": "steps", "options": options})
    events: list[dict[str, object]] = []
    decisions: dict[int, int] = {}
    search = Search("s", of, NUMERIC, {})
    for number in range(24):
        point = search.ask()
        search.begin(point, [])
        level = 1.0 if number % 4 else 0.0  # every fourth point is good
        stopped = 0
        for step in range(1, 9):
            if search.report(number, step, [level + 0.01 * number + 0.001 * step]):
                stopped = step
                break
        decisions[number] = stopped
        state = "pruned" if stopped else "complete"
        search.tell(number, state, [level])  # type: ignore[arg-type]
        events += search.drain()
        # The rule knows after an interruption what it knew before.
        if number == 11:
            search = Search("s", of, NUMERIC, {}, events)
    bad = [stopped for number, stopped in decisions.items() if number % 4 and number > 4]
    assert sum(map(bool, bad)) > len(bad) / 2, decisions
    assert not decisions[0]
    assert search.proposals[0].state == "complete"


def test_halving_keeps_the_front_of_several_objectives() -> None:
    of = spec(objectives=2, stop={"by": "halving", "options": {"eta": 3, "startup": 3}})
    halving = Halving(of.stop, ["minimize", "maximize"])
    front = [[0.0, 0.5], [0.5, 1.0]]
    behind = [[0.6, 0.4], [0.7, 0.3], [0.9, 0.2], [0.8, 0.1]]
    assert [halving.report(i, 1, v) for i, v in enumerate(front)] == [False, False]
    assert [halving.report(9 + i, 1, v) for i, v in enumerate(behind)] == [True] * 4
    assert not halving.report(20, 1, [-0.1, 1.1])  # dominates all
    assert not halving.report(21, 2, [9.0, -9.0])  # rungs are 1, 3, 9, ...
    assert halving.report(22, 3, [float("nan"), 1.0])


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (
            {"sampler": {"name": "tpe", "options": {"n_startup": 3}}},
            "unknown option; did you mean 'n_startup_trials'",
        ),
        ({"sampler": {"name": "nsga2", "options": {"population_size": 1}}}, "population_size"),
        ({"stop": {"by": "halving", "options": {"eta": 1}}}, "1 is no whole number of at least 2"),
        ({"stop": {"by": "median", "options": {"startup": 1}}}, "unknown option"),
    ],
)
def test_wrong_options_are_said_in_one_line(change: dict[str, Any], wanted: str) -> None:
    of = SearchSpec.model_validate(spec().model_dump() | change)
    with pytest.raises(FieldError, match=wanted):
        Search("s", of, AXES, {})


@st.composite
def spaces(draw: st.DrawFn) -> dict[str, Axis]:
    """Draw axes of every kind, some of them conditional on an earlier list."""
    axes: dict[str, Any] = {
        "first": draw(st.lists(st.sampled_from("abcd"), min_size=1, unique=True))
    }
    for name in draw(st.lists(st.sampled_from(["p", "q", "r"]), unique=True)):
        values = draw(
            st.sampled_from(
                [
                    {"uniform": [-1.5, 2.0]},
                    {"log_uniform": [1e-4, 10.0]},
                    {"integers": [-3, 4]},
                    {"choice": ["u", "v"]},
                    [1, 2.5, "w"],
                ]
            )
        )
        label = draw(st.sampled_from(axes["first"]))
        axes[name] = draw(st.sampled_from([values, {"when": {"first": label}, "values": values}]))
    return {name: parse_axis(value) for name, value in axes.items()}


@settings(max_examples=40, deadline=None)
@given(spaces(), st.sampled_from(["tpe", "random", "nsga2"]), st.integers(0, 99))
def test_every_proposal_has_exactly_the_axes_that_apply_with_valid_labels(
    axes: dict[str, Axis], sampler: str, seed: int
) -> None:
    of = spec(sampler, axes=axes, seed=seed)
    search = Search("s", of, axes, {})
    for point in asked(search, 6):
        for name, axis in axes.items():
            block = axis.at(point.labels)
            assert (name in point.labels) == (block is not None)
            if block is not None:
                label = point.labels[name]
                assert label in block.values or (
                    block.range is not None and block.range.holds(label)
                )
    again = Search("s", of, axes, {}, search.drain())
    assert labels(again) == labels(search)


def asked(search: Search, points: int) -> Iterator[Proposal]:
    for number in range(points):
        point = search.ask()
        search.begin(point, [])
        yield point
        search.tell(point.number, "complete", [float(number)])
