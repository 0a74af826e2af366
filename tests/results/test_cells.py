"""Cells: the aggregate over seeds, against an independent computation."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from small_study import POINTS, SIGMAS, SWEEP, PlannedTrial, run_study, sensitivity_value

from sensweep.results.cells import cells, write_cells
from sensweep.results.errors import UnknownSweep
from sensweep.results.queries import query, select_sweep
from sensweep.results.store import Home

SETTING = {
    "sweep": "s",
    "stage": "train",
    "task": "t",
    "cell": "c",
    "name": "loss",
    "step": 1,
    "unit": "nats",
    "coordinates": "{}",
    "arch": "vit",
}


def rows_of(values: list[float], **other: object) -> pd.DataFrame:
    """One cell with a value per seed."""
    lines = [
        {**SETTING, "seed": seed, "trial_id": f"{seed:024x}", "seq": 0, "value": value, **other}
        for seed, value in enumerate(values)
    ]
    return pd.DataFrame(lines)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=12))
def test_the_interval_is_students_t_over_seeds(values: list[float]) -> None:
    [cell] = cells(rows_of(values)).to_pylist()
    assert (cell["n"], cell["nonfinite"], cell["arch"]) == (len(values), 0, "vit")
    assert cell["mean"] == pytest.approx(np.mean(values), abs=1e-6)
    assert cell["sd"] == pytest.approx(np.std(values, ddof=1), abs=1e-6)
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    assert cell["low"] == pytest.approx(np.mean(values) - half, abs=1e-5)
    assert cell["high"] == pytest.approx(np.mean(values) + half, abs=1e-5)


@pytest.mark.parametrize("n", [3, 5, 10])
def test_the_interval_covers_the_mean_as_often_as_it_says(n: int) -> None:
    cases = 4000
    values = np.random.default_rng(n).normal(2.0, 3.0, (cases, n))
    rows = rows_of([0.0]).drop(columns=["value", "seed", "cell"])
    rows = rows.merge(
        pd.DataFrame(
            {
                "cell": np.repeat(np.arange(cases), n).astype(str),
                "seed": np.tile(np.arange(n), cases),
                "value": values.ravel(),
            }
        ),
        how="cross",
    )
    found = cells(rows).to_pandas()
    covered = ((found["low"] <= 2.0) & (found["high"] >= 2.0)).mean()
    print(f"n = {n}: coverage {covered:.3f}")
    assert abs(covered - 0.95) < 4 * math.sqrt(0.95 * 0.05 / cases)


def test_one_seed_has_no_interval() -> None:
    [cell] = cells(rows_of([0.5])).to_pylist()
    assert (cell["n"], cell["mean"]) == (1, 0.5)
    assert (cell["sd"], cell["low"], cell["high"]) == (None, None, None)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_spoils_the_mean_and_is_counted(bad: float) -> None:
    [cell] = cells(rows_of([1.0, bad, 3.0, bad])).to_pylist()
    assert (cell["n"], cell["nonfinite"]) == (4, 2)
    assert math.isnan(cell["mean"])
    assert (cell["sd"], cell["low"], cell["high"]) == (None, None, None)


def test_a_seed_counts_once_however_often_it_was_measured() -> None:
    rows = pd.concat([rows_of([1.0, 5.0]), rows_of([3.0], seq=1)])
    [cell] = cells(rows).to_pylist()
    assert (cell["n"], cell["mean"]) == (2, 3.5)
    [spoilt] = cells(pd.concat([rows, rows_of([math.nan], seq=2)])).to_pylist()
    assert (spoilt["n"], spoilt["nonfinite"]) == (2, 1)


def test_whatever_tells_measurements_apart_makes_a_cell_of_its_own() -> None:
    others = [
        {"step": 2},
        {"step": None},
        {"name": "accuracy"},
        {"unit": "1"},
        {"coordinates": '{"sigma":0.1}'},
        {"stage": "test"},
        {"cell": "d", "arch": "mlp"},
        {"sweep": "r"},
    ]
    parts = [rows_of([0.0, 1.0])] + [rows_of([1.0, 2.0], **other) for other in others]
    found = cells(pa.Table.from_pandas(pd.concat(parts)))
    assert found.num_rows == 1 + len(others)
    assert set(found["n"].to_pylist()) == {2}
    assert found.column_names[-6:] == ["n", "mean", "sd", "low", "high", "nonfinite"]


def test_no_rows_make_no_cells() -> None:
    assert cells(rows_of([1.0]).iloc[:0]).num_rows == 0


def test_the_view_agrees_with_the_function_and_the_file(small_home: Home) -> None:
    run_study(small_home, seeds=[5], sweep="other.cpu")
    view = select_sweep(small_home, "cells", SWEEP).to_pandas()
    made = cells(select_sweep(small_home, "rows", SWEEP)).to_pandas()
    path = write_cells(small_home, SWEEP)
    assert path == small_home.path / "sweeps" / SWEEP / "cells.parquet"
    key = ["stage", "cell", "name", "step", "coordinates"]
    pd.testing.assert_frame_equal(made, view.sort_values(key, ignore_index=True))
    pd.testing.assert_frame_equal(made, pq.read_table(path).to_pandas())
    assert set(made["sweep"]) == {SWEEP}
    vit = made.query("name == 'sensitivity' and sigma == 0.1 and arch == 'vit' and strength == 0.1")
    truth = [sensitivity_value(POINTS[1], seed, SIGMAS[1]) for seed in range(3)]
    assert vit["mean"].tolist() == pytest.approx([np.mean(truth)])


def test_the_file_says_what_its_columns_are_and_is_replaced_whole(small_home: Home) -> None:
    write_cells(small_home, SWEEP)
    run_study(small_home, seeds=range(5))
    schema = pq.read_schema(path := write_cells(small_home, SWEEP))
    assert schema.metadata[b"schema_version"] == b"1"
    for name in ("n", "mean", "low", "high", "sd", "nonfinite", "unit", "step", "coordinates"):
        assert schema.field(name).metadata[b"description"]
    assert set(pq.read_table(path)["n"].to_pylist()) == {5}
    assert [p.name for p in path.parent.glob("*cells*")] == ["cells.parquet"]
    with pytest.raises(UnknownSweep):
        write_cells(small_home, "nothing.cpu")


def test_nan_and_infinite_cells_can_be_queried(tmp_path: Path) -> None:
    home = Home(tmp_path)
    trials = [
        PlannedTrial("toy", {}, seed, {}, rows=[("m", value, None, "1", {})])
        for seed, value in enumerate([1e308, math.nan, -1e308, 1e200])
    ]
    run_study(home, sweep="s", trials=trials, study={"study": "s"})
    assert query(home, "select n, nonfinite, mean, low from cells") == [
        {"n": 4, "nonfinite": 1, "mean": None, "low": None}
    ]
