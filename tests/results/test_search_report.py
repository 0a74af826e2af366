"""What the report says of searches whose points, front and confirmation are known."""

from __future__ import annotations

import copy
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from search_home import (
    CNN,
    DEFAULT,
    FATES,
    FRESH,
    MLP,
    OLD,
    STUDY,
    SWEEP,
    Ask,
    confirmed_value,
    hunt,
    noise,
)
from test_report import Page, drive, trials

from sensweep.results import queries
from sensweep.results.report import write_report
from sensweep.results.schema import canonical_json
from sensweep.results.search_confirmed import Confirmation, by_seed, confirmation
from sensweep.results.search_parallel import columns_of
from sensweep.results.searched import Searched, quantity_titles, read_searches
from sensweep.results.store import Home

IMPORTANCE = [
    {"search": MLP, "objective": "loss", "axis": axis, "where": where, "importance": share}
    for axis, where, share in (("kind", "", 0.875), ("strength", "kind noise", 0.125))
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return hunt(Home(tmp_path_factory.mktemp("hunt")))


@pytest.fixture(scope="module")
def page(home: Home) -> Path:
    return write_report(home, SWEEP, IMPORTANCE)


@pytest.fixture(scope="module")
def found(home: Home) -> dict[str, Searched]:
    asks = queries.select_sweep(home, "asks", SWEEP).to_pylist()
    planned = home.read("trials", [SWEEP]).to_pylist()
    points = {trial["trial_id"]: json.loads(trial["point"]) for trial in planned}
    searches, earlier = read_searches(STUDY, asks, points)
    assert earlier == [OLD]
    return {searched.name: searched for searched in searches}


@pytest.fixture(scope="module")
def rows(home: Home) -> pd.DataFrame:
    return queries.select_sweep(home, "rows", SWEEP).to_pandas()


@pytest.fixture(scope="module")
def confirmed(home: Home, found: dict[str, Searched], rows: pd.DataFrame) -> Confirmation:
    planned = home.read("trials", [SWEEP]).to_pylist()
    points = {trial["cell"]: json.loads(trial["point"]) for trial in planned}
    return confirmation(found[CNN], STUDY, rows, points)


def searched(values: list[list[float]], directions: list[str]) -> Searched:
    """A search that was told these values in this order."""
    objectives = [{"name": f"o{i}", "stage": "s", "direction": d} for i, d in enumerate(directions)]
    asks = [
        {
            "search": "all#1",
            "event": number,
            "number": number,
            "trial_ids": canonical_json([f"t{number}"]),
            "params": '{"x":1}',
            "attributes": "{}",
            "state": "complete",
            "values": canonical_json(each),
        }
        for number, each in enumerate(values)
    ]
    study = {"search": {"axes": ["x"], "objectives": objectives}}
    return read_searches(study, asks, {f"t{i}": {"x": 1} for i in range(len(asks))})[0][0]


# ---- searches


def test_a_point_is_what_became_of_it(found: dict[str, Searched]) -> None:
    cnn = found[CNN]
    assert (cnn.title, cnn.cell) == ("arch cnn", {"arch": "cnn"})
    assert [(point.number, point.outcome) for point in cnn.tried] == [
        (0, "feasible"),
        (1, "feasible"),
        (2, "feasible"),
        (3, "feasible"),
        (4, "infeasible"),
        (5, "stopped early"),
        (6, "failed"),
        (8, "running"),
    ]
    assert cnn.repeated == 1


def test_the_front_leaves_out_what_is_dominated_infeasible_or_stopped(
    found: dict[str, Searched],
) -> None:
    assert [point.number for point in found[CNN].front] == [2, 3, 1]


def test_the_best_point_is_the_knee(found: dict[str, Searched]) -> None:
    best = found[CNN].best
    assert best is not None
    assert (best.number, best.labels) == (3, noise(0.125))


def test_the_hypervolume_grows_as_points_are_told(found: dict[str, Searched]) -> None:
    assert found[CNN].reference == pytest.approx((0.53, 0.48))
    first = (0.53 - 0.40) * (0.70 - 0.48)
    second = first + (0.40 - 0.20) * (0.50 - 0.48)
    third = first + (0.40 - 0.30) * (0.65 - 0.48) + (0.30 - 0.20) * (0.50 - 0.48)
    wanted = [first, first, first, first, second, second, third]
    history = found[CNN].history()
    assert [count for count, _ in history] == [1, 2, 3, 4, 5, 6, 7]
    assert [volume for _, volume in history] == pytest.approx(wanted)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(*[st.integers(0, 5)] * 3), min_size=1, max_size=12),
    st.lists(st.sampled_from(["minimize", "maximize"]), min_size=1, max_size=3),
)
def test_front_and_history_follow_their_definitions(
    points: list[tuple[int, ...]], directions: list[str]
) -> None:
    values = [[float(v) for v in point[: len(directions)]] for point in points]
    search = searched(values, directions)
    signs = np.array([1 if d == "minimize" else -1 for d in directions])
    costs = np.array(values) * signs
    free = [
        i
        for i, cost in enumerate(costs)
        if not any((other <= cost).all() and (other < cost).any() for other in costs)
    ]
    assert sorted(point.number for point in search.front) == free
    history = [number for _, number in search.history()]
    if len(directions) == 1:
        assert history == list(itertools.accumulate(values_of(values), best_of(directions[0])))
    else:
        assert all(later >= earlier for earlier, later in itertools.pairwise(history))
        assert history[-1] == pytest.approx(volume_of(costs, np.array(search.reference) * signs))


def values_of(values: list[list[float]]) -> list[float]:
    return [value for (value,) in values]


def best_of(direction: str) -> Any:
    return min if direction == "minimize" else max


def volume_of(costs: np.ndarray, ref: np.ndarray) -> float:
    """Count cells of the grid that the points' coordinates span: slow, and by the definition."""
    edges = [np.unique([*costs[:, i], ref[i]]) for i in range(len(ref))]
    volume = 0.0
    for corner in itertools.product(*[range(len(e) - 1) for e in edges]):
        low = np.array([e[i] for e, i in zip(edges, corner, strict=True)])
        high = np.array([e[i + 1] for e, i in zip(edges, corner, strict=True)])
        volume += np.prod(high - low) * bool((costs <= low).all(axis=1).any())
    return float(volume)


def test_a_search_of_another_space_or_of_other_objectives_is_left_out(home: Home) -> None:
    asks = queries.select_sweep(home, "asks", SWEEP).to_pylist()
    points = {t["trial_id"]: json.loads(t["point"]) for t in home.read("trials").to_pylist()}
    for key, count in (("axes", 1), ("objectives", 1)):
        study = copy.deepcopy(STUDY)
        study["search"][key] = study["search"][key][:count]
        assert read_searches(study, asks, points) == ([], sorted([CNN, MLP, OLD]))


def test_names_of_quantities_are_as_short_as_tells_them_apart() -> None:
    loss = {"name": "loss", "stage": "train"}
    again = {**loss, "where": {"split": "validation"}, "over_seeds": "max"}
    assert quantity_titles([loss, {"name": "size", "stage": "train"}, loss]) == [
        "loss",
        "size",
        "loss",
    ]
    assert quantity_titles([loss, again]) == [
        "loss (train)",
        "loss (train, split validation, max over seeds of mean)",
    ]


def test_an_axis_with_blocks_has_a_column_for_each(found: dict[str, Searched]) -> None:
    low, high = columns_of(found[CNN], "strength", STUDY["axes"]["strength"])
    assert (low.title, low.log) == ("strength (kind noise)", False)
    assert (high.title, high.log) == ("strength (kind penalty)", True)
    assert low.position(noise(0.25)) == 0.25
    assert np.isnan(high.position(noise(0.25)))
    (kinds,) = columns_of(found[CNN], "kind", STUDY["axes"]["kind"])
    assert kinds.names == ("none", "noise", "penalty")


# ---- confirmation


def test_selected_and_confirmed_values_stand_side_by_side(confirmed: Confirmation) -> None:
    loss, accuracy, clean, exam = confirmed.quantities
    assert confirmed.number == 3
    assert [q.title for q in confirmed.quantities] == [
        "loss",
        "accuracy",
        "clean",
        "exam: exam score",
    ]
    assert loss.selected == {"best": 0.30, "plain": 0.50}
    assert accuracy.selected == {"best": 0.65, "plain": 0.60}
    assert clean.selected == pytest.approx({"best": 0.85, "plain": 0.85})
    assert exam.selected == {}
    for quantity, name in ((loss, "loss"), (accuracy, "accuracy"), (exam, "exam")):
        for point in ("best", "default", "plain"):
            wanted = {seed: confirmed_value(point, "cnn", name, seed) for seed in FRESH}
            assert quantity.fresh[point] == pytest.approx(wanted)
    assert loss.mean("best") == pytest.approx(0.4)
    assert (loss.worse_than_selected(), accuracy.worse_than_selected()) == (True, True)
    assert clean.worse_than_selected() is None


def test_differences_are_paired_over_the_fresh_seeds(confirmed: Confirmation) -> None:
    loss = confirmed.quantities[0]
    # best is 0.4 + 0.04 k and default 0.6 + 0.02 k at k = -1, 0, 1
    assert loss.differences("default") == pytest.approx([-0.22, -0.20, -0.18])
    half = stats.t.ppf(0.975, 2) * 0.02 / np.sqrt(3)
    assert loss.texts("default", 3)[2] == f"-0.200 ± {half:.3f}"


def test_a_bound_relative_to_a_point_is_judged_on_fresh_seeds(confirmed: Confirmation) -> None:
    # 0.4 - 0.7 is below -0.1, and 0.6 - 0.7 is just not
    assert confirmed.quantities[2].kept == {"best": False, "default": True, "plain": True}


def test_a_bound_relative_to_a_point_that_is_not_confirmed_is_not_judged(
    home: Home, found: dict[str, Searched], rows: pd.DataFrame
) -> None:
    study = copy.deepcopy(STUDY)
    study["search"]["confirm"]["compare"] = {"default": DEFAULT}
    planned = home.read("trials", [SWEEP]).to_pylist()
    points = {trial["cell"]: json.loads(trial["point"]) for trial in planned}
    clean = confirmation(found[CNN], study, rows, points).quantities[2]
    assert clean.kept == {}
    assert clean.goal == "at least −0.1, after that of kind none is taken off"


def test_a_seed_has_the_last_steps_of_its_trials_at_the_coordinates_and_labels() -> None:
    frame = pd.DataFrame(
        [
            ("train", "loss", "a", "A", 0, 1.0, 1, '{"split":"validation"}'),
            ("train", "loss", "a", "A", 0, 2.0, 2, '{"k":1,"split":"validation"}'),
            ("train", "loss", "a", "A", 0, 4.0, 2, '{"k":2,"split":"validation"}'),
            ("train", "loss", "a", "A", 0, 99.0, 2, '{"split":"train"}'),
            ("exam", "loss", "a", "A", 0, 99.0, 2, '{"split":"validation"}'),
            ("train", "loss", "b", "B", 0, 9.0, 1, '{"split":"validation"}'),
            ("train", "loss", "c", "A", 1, 7.0, None, '{"split":"validation"}'),
        ],
        columns=["stage", "name", "trial_id", "cell", "seed", "value", "step", "coordinates"],
    )
    points = {"A": {"depth": 1}, "B": {"depth": 2}}
    quantity = {"name": "loss", "stage": "train", "where": {"split": "validation"}}
    assert by_seed(frame, quantity, points) == {0: 5.0, 1: 7.0}
    assert by_seed(frame, {**quantity, "over": "max"}, points) == {0: 9.0, 1: 7.0}
    deep = {"split": "validation", "depth": [2, 3]}
    assert by_seed(frame, {**quantity, "where": deep}, points) == {0: 9.0}
    assert by_seed(frame, {**quantity, "where": {"split": ["test"]}}, points) == {}


# ---- the page


def test_the_page_tells_the_searches(page: Path) -> None:
    text = Page(page).text
    assert "2 searches by the sampler random" in text
    assert "minimize loss, maximize accuracy" in text
    assert "point 3: kind noise, strength 0.125" in text
    assert "1 repeated, asked again" in text
    assert "Left out: 1 search of earlier versions of the study (arch=cnn#000000)." in text
    for said in ("feasible, on the front, best", "feasible, enqueued", "stopped early"):
        assert said in text
    assert "train of seed 1 diverged" in text


def test_the_page_has_selected_and_confirmed_values(page: Path) -> None:
    text = Page(page).text
    half = stats.t.ppf(0.975, 2) * 0.04 / np.sqrt(3)
    assert f"0.400 ± {half:.3f}" in text
    assert "at least −0.1, after that of kind none is taken off" in text
    # the objectives of two searches: all are worse on fresh seeds, but the accuracy of mlp
    assert "Of 4 objective values of the best points, fresh seeds say worse" in text
    assert "than the search did of 3." in text


def test_the_figures_are_in_the_page_and_beside_it(page: Path) -> None:
    names = {"front", "history", "importance"}
    names |= {f"{kind}-{number}" for kind in ("slices", "parallel") for number in (1, 2)}
    assert {path.stem for path in page.parent.glob("*.png")} == {f"search-{n}" for n in names}
    parsed = Page(page)
    assert {f"figure-search-{name}" for name in names} <= set(parsed.ids)
    assert all(reference.startswith(("data:", "#")) for reference in parsed.references)
    assert "0.88" in parsed.text  # an importance of 0.875
    assert "kind noise" in parsed.text


def test_before_the_confirmation_the_page_says_so_and_stays_the_same(tmp_path: Path) -> None:
    home = hunt(Home(tmp_path), confirm=False, mlp=[])
    page = write_report(home, SWEEP)
    text = Page(page).text
    assert "Not confirmed yet: its 3 fresh seeds have measured nothing." in text
    assert "fresh seeds say worse" not in text
    before = {path.name: path.read_bytes() for path in page.parent.iterdir()}
    write_report(home, SWEEP)
    assert {path.name: path.read_bytes() for path in page.parent.iterdir()} == before


@pytest.mark.parametrize("objectives", [1, 3])
def test_one_objective_and_three_have_their_figures(tmp_path: Path, objectives: int) -> None:
    study = copy.deepcopy(STUDY)
    clean = {**study["search"]["constraints"][0], "direction": "maximize"}
    kept = {key: clean[key] for key in study["search"]["objectives"][0]}
    study["search"]["objectives"] = [*study["search"]["objectives"], kept][:objectives]
    if objectives == 1:
        study["search"]["stop"]["by"] = "median"
    asks = [
        Ask(a.number, a.state, a.labels, [*a.values, a.number / 10][:objectives], a.attributes)
        if a.values
        else a
        for a in FATES
    ]
    page = write_report(hunt(Home(tmp_path), study, cnn=asks, mlp=[]), SWEEP)
    names = {path.stem for path in page.parent.glob("*.png")}
    front = {"search-front"} if objectives == 3 else set()
    assert names == {"search-history", "search-slices", "search-parallel", *front}
    if objectives == 1:  # the lowest loss of what is feasible
        assert "point 2: kind penalty, strength 0.01" in Page(page).text


def test_a_sweep_without_a_search_says_nothing_of_one(tmp_path: Path) -> None:
    home = Home(tmp_path)
    drive(home, trials())
    page = write_report(home, "small.cpu")
    assert "search" not in Page(page).text.lower()
    assert not list(page.parent.glob("search-*"))
