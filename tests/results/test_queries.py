"""Views and queries: what they show is what was committed, and they do nothing but show it."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_study import (
    EPOCHS,
    POINTS,
    SIGMAS,
    SWEEP,
    PlannedTrial,
    accuracy_value,
    attempt,
    plan,
    run_study,
    sensitivity_trial,
    sensitivity_value,
    small_trials,
    train_trial,
)

from sensweep.results.errors import UnknownSweep
from sensweep.results.expand import column_names, expand
from sensweep.results.queries import QueryError, claims_of, connect, query, select_sweep
from sensweep.results.store import Home
from sensweep.results.views import CELL_KEY, ROW_COLUMNS, TRIAL_COLUMNS, VIEWS


def one_trial(point: dict[str, object], *rows: tuple[str, float, int | None, str, dict]) -> list:
    return [PlannedTrial("toy", point, 0, {}, rows=rows)]


# ---- what the views show


def test_an_empty_home_has_every_view_with_its_fixed_columns(tmp_path: Path) -> None:
    home = Home(tmp_path / "none")
    for view in VIEWS:
        assert query(home, f"select * from {view}") == []
    names = {
        view: [line["column_name"] for line in query(home, f"describe {view}")] for view in VIEWS
    }
    assert names["rows"] == list(ROW_COLUMNS)
    assert names["trials"] == list(TRIAL_COLUMNS)
    assert names["cells"] == [*CELL_KEY, "n", "mean", "sd", "low", "high", "nonfinite"]
    assert names["claims"][:4] == ["sweep", "id", "key", "statement"]
    assert {"verdict", "estimate", "low", "high", "p_value", "family", "n"} < set(names["claims"])
    assert [line["name"] for line in query(home, "show tables")] == sorted(VIEWS)
    assert not home.path.exists()  # reading made nothing


def test_rows_hold_every_measurement_with_its_point_and_coordinates(small_home: Home) -> None:
    rows = query(small_home, "select * from rows order by trial_id, seq")
    trained = [row for row in rows if row["stage"] == "train" and row["name"] == "train_accuracy"]
    tested = [row for row in rows if row["stage"] == "sensitivity"]
    assert len(rows) == len(POINTS) * 3 * (EPOCHS + 1 + len(SIGMAS))
    assert len({(row["trial_id"], row["seq"]) for row in rows}) == len(rows)
    for row in trained:
        assert row["value"] == accuracy_value(row, row["seed"], row["step"])
        assert (row["sigma"], row["split"], row["coordinates"]) == (None, None, "{}")
    for row in tested:
        point = {"arch": row["arch"], "strength": row["strength"] or 0.0}
        assert row["value"] == sensitivity_value(point, row["seed"], row["sigma"])
        assert (row["split"], row["unit"], row["step"]) == ("train", "1", EPOCHS)
    # A conditional axis is null where it is absent, and comparable as a number where it is not.
    [found] = query(
        small_home,
        "select count(*) filter (intervention = 'none' and strength is null) as without,"
        " count(*) filter (strength > 0.05) as strong, count(*) as n from rows",
    )
    assert found == {"without": len(rows) // 2, "strong": len(rows) // 2, "n": len(rows)}


def test_a_trial_of_two_sweeps_has_one_winner_and_stands_in_both(small_home: Home) -> None:
    run_study(small_home, seeds=range(4), sweep="small.paper")
    counts = query(
        small_home, "select sweep, count(distinct trial_id) as n from rows group by sweep"
    )
    assert {line["sweep"]: line["n"] for line in counts} == {SWEEP: 24, "small.paper": 32}
    seeds = query(small_home, "select distinct sweep, n from cells order by sweep")
    assert seeds == [{"sweep": SWEEP, "n": 3}, {"sweep": "small.paper", "n": 4}]
    [shared] = query(
        small_home,
        "select count(*) as n, count(distinct value) as values from rows"
        " where seed = 0 and name = 'sensitivity' and sigma = 0.1 and arch = 'vit'"
        " and intervention = 'none'",
    )
    assert shared == {"n": 2, "values": 1}


def test_the_last_plan_counts_and_older_trials_are_still_listed(small_home: Home) -> None:
    trained = [train_trial(point, seed) for seed in range(3) for point in POINTS]
    edited = trained + [sensitivity_trial(parent, draws=50) for parent in trained]
    run_study(small_home, trials=edited)
    sql = (
        "select count(distinct trial_id) as n, count(*) as m from rows where stage = 'sensitivity'"
    )
    assert query(small_home, sql) == [{"n": 12, "m": 12 * len(SIGMAS)}]
    listed = query(
        small_home,
        "select current, params->>'draws' as draws, count(*) as n from trials"
        " where stage = 'sensitivity' group by all order by current",
    )
    assert listed == [
        {"current": False, "draws": "5", "n": 12},
        {"current": True, "draws": "50", "n": 12},
    ]
    run_study(small_home, trials=small_trials(range(3)))  # and back, without running anything
    found = query(small_home, "select distinct params->>'draws' as draws from trials where current"
                              " and stage = 'sensitivity'")  # fmt: skip
    assert found == [{"draws": "5"}]


def test_a_trial_has_the_status_that_its_attempts_and_ancestors_give_it(tmp_path: Path) -> None:
    home = Home(tmp_path)
    trained = [train_trial(POINTS[0], seed) for seed in range(6)]
    done, failed, stopped, lost, again, waiting = trained
    below = [sensitivity_trial(parent) for parent in (done, failed, waiting)]
    deeper = PlannedTrial("deeper", {}, 0, {}, [{"trial_id": below[1].trial_id, "select": "final"}])
    with home.open_sweep("s", study={"study": {}}) as writer:
        plan(writer, [*trained, *below, deeper])
        attempt(writer, [done])
        attempt(writer, [failed], "failed", error="ValueError: no")
        attempt(writer, [stopped], "stopped")
        attempt(writer, [lost], "lost")
        attempt(writer, [again], "failed", error="OSError: once")
        attempt(writer, [again], number=2)
    found = {
        line["trial_id"]: (line["status"], line["attempts"], line["error"])
        for line in query(home, "select trial_id, status, attempts, error from trials")
    }
    assert [found[trial.trial_id] for trial in trained] == [
        ("done", 1, None),
        ("failed", 1, "ValueError: no"),
        ("stopped", 1, None),
        ("pending", 1, None),
        ("done", 2, None),
        ("pending", 0, None),
    ]
    assert [found[trial.trial_id][0] for trial in below] == ["pending", "skipped", "pending"]
    assert found[deeper.trial_id] == ("skipped", 0, None)

    with home.open_sweep("other", study={"study": {}}) as writer:  # it has made no attempt yet
        plan(writer, [failed, below[1], lost, done])
    sql = "select trial_id, status from trials where sweep = 'other'"
    assert {line["trial_id"]: line["status"] for line in query(home, sql)} == {
        failed.trial_id: "failed",
        below[1].trial_id: "skipped",
        lost.trial_id: "pending",
        done.trial_id: "done",
    }


def test_claims_are_judged_per_sweep_and_only_when_asked_for(
    small_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    [claim] = query(small_home, "select * from CLAIMS")
    values = [
        sensitivity_value({**p, "arch": "vit"}, seed, sigma)
        - sensitivity_value({**p, "arch": "mlp"}, seed, sigma)
        for p in POINTS[:2]
        for seed in range(3)
        for sigma in SIGMAS
    ]
    assert claim["verdict"] == "supported"
    assert claim["estimate"] == pytest.approx(sum(values) / len(values))
    assert claims_of(small_home, SWEEP) == [{k: v for k, v in claim.items() if k != "sweep"}]

    def refuse(*_: object) -> None:
        raise AssertionError("claims were judged")

    monkeypatch.setattr("sensweep.results.claims.evaluate_study", refuse)
    assert query(small_home, "select count(*) as n from trials") == [{"n": 24}]
    with pytest.raises(AssertionError, match="were judged"):
        query(small_home, "select 1 from claims")


def test_names_that_clash_or_are_odd_still_become_columns(tmp_path: Path) -> None:
    home = Home(tmp_path)
    odd = {"value": 1, "Sigma": 0.5, 'a"b; drop': "x", "json": True, "mean": 7}
    trials = one_trial(odd, ("m", 2.0, None, "1", {"sigma": 0.1, "name": "c", "json": 3}))
    run_study(home, sweep="s", trials=trials, study={"study": "s"})
    [row] = query(home, "select * from rows")
    assert (row["value"], row["point_value"]) == (2.0, 1)
    assert (row["Sigma"], row["coord_sigma"]) == (0.5, 0.1)
    assert (row["name"], row["coord_name"]) == ("m", "c")
    assert (row["json"], row["coord_json"], row['a"b; drop'], row["mean"]) == (True, 3, "x", 7)
    [cell] = query(home, "select * from cells")
    assert (cell["mean"], cell["point_mean"], cell["n"]) == (2.0, 7, 1)


def test_select_sweep_gives_a_view_of_one_sweep(small_home: Home) -> None:
    run_study(small_home, seeds=[7], sweep="other.cpu")
    table = select_sweep(small_home, "rows", "other.cpu")
    assert set(table["seed"].to_pylist()) == {7}
    with pytest.raises(UnknownSweep, match=r"small\.cpu"):
        select_sweep(small_home, "rows", "smal.cpu")
    with pytest.raises(QueryError, match="did you mean rows"):
        select_sweep(small_home, "row", SWEEP)


# ---- what may be asked


@pytest.mark.parametrize(
    ("sql", "answer"),
    [
        ("with a as (select 1 as x) select x from a union all select 2 order by x", [1, 2]),
        (
            "with recursive t as (select 1 as n union all select n + 1 from t where n < 3) from t",
            None,
        ),
        ("select count(*) as n from (select distinct arch from rows);", [2]),
        ("select row_number() over (order by seed) as i from rows qualify i = 1", [1]),
        ("select unnest([1, 2]) as x", [1, 2]),
        ("select sum(range) as s from range(4) -- a comment", [6]),
        ("values (3)", [3]),
        ("from rows select count(*)", [72]),
        ("pivot (select arch, seed from rows) on arch in ('vit') using count(*)", None),
        ("select key from json_each('{\"a\": 1}')", ["a"]),
        ("summarize rows", None),
    ],
)
def test_every_way_to_select_is_allowed(small_home: Home, sql: str, answer: list | None) -> None:
    lines = query(small_home, sql)
    assert lines
    if answer is not None:
        assert [next(iter(line.values())) for line in lines] == answer


ESCAPES = [
    "select * from read_csv('{file}')",
    "select * from read_text('{file}')",
    "select * from read_blob('{file}')",
    "select * from '{file}'",
    'select * from "{file}"',
    "select (select content from read_text('{file}'))",
    "select * from rows where exists (from read_text('{file}'))",
    "with a as (from READ_TEXT('{file}')) from a",
    "select * from glob('{folder}/*')",
    "select * from parquet_scan('{parquet}')",
    "select * from parquet_metadata('{parquet}')",
    "select * from sniff_csv('{file}')",
    "select * from read_json_auto('{file}')",
    "select * from query('from read_text(''{file}'')')",
    "select * from query_table('{file}')",
    "select * from json_execute_serialized_sql('x')",
    "select * from duckdb_secrets()",
    "select * from enable_logging('QueryLog', storage='file', storage_path='{new}')",
    "select * from checkpoint()",
    "select * from arrow_scan(1, 2, 3)",
    "select getenv('HOME')",
    "copy (select 1) to '{new}'",
    "copy rows to '{new}' (format parquet)",
    "with a as (copy (select 1) to '{new}') select 1",
    "with a as (copy (select 1) to '.tmp/new.csv') select 1",
    "select 1; copy (select 1) to '{new}'",
    "export database '{new}'",
    "attach '{new}' as other",
    "create table t as select 1",
    "create macro f() as 1",
    "insert into rows select * from rows",
    "with a as (insert into stored.trials select * from stored.trials returning *) from a",
    "with a as (delete from stored.measurements returning *) select * from a",
    "with a as (update stored.trials set stage = 'x' returning *) from a",
    "drop view rows",
    "set enable_external_access = true",
    "reset lock_configuration",
    "pragma database_list",
    "call pragma_version()",
    "install httpfs",
    "load '{new}'",
    "use stored",
    "prepare p as select 1",
    "explain analyze select 1",
    "vacuum",
    "begin transaction",
    "select * from home",
    "select * from os.environ",
]


@pytest.mark.parametrize("sql", ESCAPES)
def test_nothing_but_the_views_can_be_reached(
    small_home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sql: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".tmp").mkdir()
    secret = tmp_path / "secret.csv"
    secret.write_text("secret\n1\n")
    parquet = next(small_home.path.rglob("*.parquet"))
    before = _files(tmp_path)
    new = tmp_path / "new"
    with pytest.raises(QueryError) as refusal:
        query(small_home, sql.format(file=secret, folder=tmp_path, parquet=parquet, new=new))
    assert "\n" not in str(refusal.value)
    assert _files(tmp_path) == before


@pytest.mark.parametrize(
    "sql",
    [
        "with a as (copy (select 1) to '.tmp/new.csv') select 1",
        "copy (select 1) to 'new.csv'",
        "select * from read_text('secret')",
        "select * from '.tmp/secret.csv'",
        "set lock_configuration = false",
        "set temp_directory = 'x'",
        "attach 'new.db' as other",
        "install httpfs",
        "select * from secret_frame",
    ],
)
def test_the_connection_is_locked_even_without_the_check(
    small_home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sql: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".tmp").mkdir()
    for name in ("secret", ".tmp/secret.csv"):
        (tmp_path / name).write_text("secret\n1\n")
    before = _files(tmp_path)
    secret_frame = pa.table({"a": [1]})
    with connect(small_home) as connection, pytest.raises(duckdb.Error):
        connection.execute(sql)
    assert _files(tmp_path) == before
    del secret_frame


def _files(folder: Path) -> dict[str, tuple[int, float]]:
    return {
        str(path): (path.stat().st_size, path.stat().st_mtime)
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("select archs from rows", ["archs", "did you mean arch?", "strength"]),
        ("select r.sigm from rows r", ["sigm", "did you mean sigma?"]),
        ("select * from row", ["row", "did you mean rows?", "claims"]),
        ("select value from rowz", ["rowz", "did you mean rows?"]),
        ("selec 1", ["selec"]),
        ("select 1 +", ["syntax"]),
        ("", ["exactly one SELECT", "0 statements"]),
        ("select 1; select 2", ["exactly one SELECT", "2 statements"]),
        ("delete from rows", ["only SELECT", "DELETE"]),
        ("pivot rows on arch using count(*)", ["PIVOT", "in ("]),
        ("select cast(arch as integer) from rows", ["Could not convert"]),
        ("from read_csv('x')", ["read_csv", "not allowed", "range"]),
        ("select ?", ["parameter"]),
        ("select " + "(" * 3000 + "1" + ")" * 3000, ["d"]),
    ],
)
def test_a_bad_query_gets_one_clear_line(small_home: Home, sql: str, words: list[str]) -> None:
    with pytest.raises(QueryError) as refusal:
        query(small_home, sql)
    text = str(refusal.value)
    assert "\n" not in text
    for word in words:
        assert word in text


# ---- what comes back


def test_answers_are_json(small_home: Home, tmp_path: Path) -> None:
    home = Home(tmp_path / "odd")
    values = [math.nan, math.inf, -math.inf, 1e308, -0.0]
    trials = one_trial({}, *[("m", value, i, "1", {}) for i, value in enumerate(values)])
    run_study(home, sweep="s", trials=trials, study={"study": "s"})
    assert [line["value"] for line in query(home, "select value from rows order by step")] == [
        *(None, None, None),
        1e308,
        -0.0,
    ]
    assert query(home, "select value::varchar as v from rows where isnan(value)") == [{"v": "nan"}]
    [line] = query(
        small_home,
        "select started, count(*) over () as n, sum(rows) over () as total, 1.5::decimal(4,2) as d,"
        " date '2026-01-02' as day, [1.0, 'nan'::double] as list, {'a': 'inf'::double} as struct,"
        " interval 3 days as i, 'ab'::blob as b, map {'k': 1} as m, seconds, null as nothing"
        " from attempts order by started limit 1",
    )
    assert json.loads(json.dumps(line, allow_nan=False)) == line
    assert line["started"] == "2026-01-02T03:04:15.678900+00:00"
    assert (line["n"], line["total"], line["d"], line["day"]) == (24, 72, 1.5, "2026-01-02")
    assert (line["list"], line["struct"], line["b"]) == ([1.0, None], {"a": None}, "6162")
    assert line["nothing"] is None


def test_columns_of_the_same_name_are_all_there(small_home: Home) -> None:
    [line] = query(small_home, "select 1 as a, 2 as a, 3 as a_2, 4 as a")
    assert list(line.values()) == [1, 2, 3, 4]
    assert len(line) == 4


# ---- JSON to columns


@settings(deadline=None)
@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["a", "b"]),
            st.one_of(
                st.booleans(),
                st.integers(-(10**20), 10**20),
                st.floats(allow_nan=False, allow_infinity=False),
                st.text(max_size=3),
                st.lists(st.integers(), max_size=2),
                st.none(),
            ),
        ),
        max_size=6,
    )
)
def test_expanding_loses_no_value(mappings: list[dict[str, object]]) -> None:
    texts = [json.dumps(mapping, sort_keys=True) for mapping in mappings]
    keys, table = expand(texts)
    assert keys == sorted({key for mapping in mappings for key in mapping})
    lines = {line["json"]: line for line in table.to_pylist()}
    assert set(lines) == set(texts)
    for text in texts:
        for i, key in enumerate(keys):
            value, found = json.loads(text).get(key), lines[text][f"k{i}"]
            if isinstance(found, str) and not isinstance(value, str):
                found = json.loads(found)
            assert found == value


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, 2, None], pa.int64()),
        ([1, 0.5], pa.float64()),
        ([True, False], pa.bool_()),
        ([True, 1], pa.string()),
        (["none", 0.1], pa.string()),
        ([1, 2**63], pa.string()),
        ([0.5, 10**400], pa.string()),
        ([[1], [2]], pa.string()),
    ],
)
def test_a_key_gets_the_narrowest_type_that_holds_it(values: list, kind: pa.DataType) -> None:
    _, table = expand(json.dumps({"a": value}) for value in values)
    assert table.schema.field("k0").type == kind


def test_column_names_are_unique_to_sql() -> None:
    names = column_names(["n"], point=["N", "a", "A", "coord_b"], coord=["a", "b", "B", ""])
    assert names == {
        "point": ["point_N", "a", "point_A", "coord_b"],
        "coord": ["coord_a", "b", "coord_B_2", "coord_"],
    }


def test_a_query_imports_nothing_heavy(small_home: Home) -> None:
    code = (
        "import sys; from sensweep.results.queries import query; from sensweep.results.store "
        f"import Home; query(Home({str(small_home.path)!r}), 'select count(*) from rows');"
        "print(sorted({'torch', 'mlflow', 'scipy', 'matplotlib', 'ray'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
