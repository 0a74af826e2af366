"""The tables' schemas, and how rows are fitted to them."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_kit import attempts, measurements, trial

from sensweep.results.errors import BadRows
from sensweep.results.schema import KEYS, TABLES, build, canonical_json, sort

FIXED = {"sweep": "kit.cpu", "epoch": 3}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
def test_canonical_json_reads_back_and_does_not_depend_on_order(value: object) -> None:
    text = canonical_json(value)
    assert json.loads(text) == value
    assert canonical_json(json.loads(text)) == text
    if isinstance(value, dict):
        assert canonical_json(dict(reversed(value.items()))) == text


def test_canonical_json_is_compact_and_readable() -> None:
    assert canonical_json({"σ": 0.1, "layer": [1, None]}) == '{"layer":[1,null],"σ":0.1}'


def test_every_field_says_its_unit_and_meaning() -> None:
    for schema in TABLES.values():
        for field in schema:
            assert field.metadata[b"description"], field.name
            assert b"unit" in field.metadata, field.name
            if pa.types.is_floating(field.type) or pa.types.is_integer(field.type):
                assert field.metadata[b"unit"] or field.name in ("seed", "number"), field.name


def test_measurements_hold_nothing_that_differs_between_runs() -> None:
    assert not {"sweep", "attempt", "host", "started", "epoch"} & set(TABLES["measurements"].names)


def test_build_fills_in_what_the_writer_knows() -> None:
    table = build("attempts", attempts([trial(1), trial(2)]), FIXED)
    assert table.schema.equals(TABLES["attempts"], check_metadata=True)
    assert table["sweep"].to_pylist() == ["kit.cpu"] * 2
    assert table["epoch"].to_pylist() == [3, 3]
    assert table["started"][0].as_py() == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_build_takes_lists_arrays_and_tables_alike() -> None:
    lists = measurements([trial(1)], rows=3)
    arrays = {**lists, "value": np.array(lists["value"]), "seq": np.arange(3)}
    want = build("measurements", lists, FIXED)
    assert build("measurements", arrays, FIXED).equals(want)
    assert build("measurements", pa.table(lists), FIXED).equals(want)
    in_two_chunks = pa.concat_tables([want.slice(0, 1), want.slice(1)])
    assert build("measurements", in_two_chunks, FIXED).equals(want)


def test_nan_and_infinity_are_values() -> None:
    rows = measurements([trial(1)], rows=3)
    rows["value"] = [float("nan"), float("inf"), -0.0]
    values = build("measurements", rows, FIXED)["value"].to_pylist()
    assert np.isnan(values[0])
    assert values[1:] == [np.inf, 0.0]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"valu": [1.0] * 2}, "has no column 'valu'; did you mean value?"),
        ({"value": None}, "lacks its column 'value'"),
        ({"value": [1.0]}, r"differ in length: .*'value': 1"),
        ({"value": [1.0, "high"]}, "column value: not all values are double"),
        ({"value": [1.0, None]}, "column value: row 1 is null"),
        ({"seq": [0, 2**40]}, "column seq: not all values are int32"),
        ({"name": ["ok", "\ud800"]}, "column name: not all values are string"),
        ({"seq": ["0", "1"]}, "column seq: not all values are int32: they are string"),
        ({"step": [1.5, 2]}, "column step: not all values are int64"),
    ],
)
def test_rows_that_do_not_fit_get_one_clear_line(change: dict, line: str) -> None:
    rows = {**measurements([trial(1)]), **change}
    rows = {name: values for name, values in rows.items() if values is not None}
    with pytest.raises(BadRows, match=line) as caught:
        build("measurements", rows, FIXED)
    assert "\n" not in str(caught.value)


def test_an_unknown_table_gets_the_nearest_name() -> None:
    with pytest.raises(BadRows, match="did you mean measurements"):
        build("mesurements", {}, FIXED)


def test_rows_of_another_sweep_or_epoch_are_refused() -> None:
    rows = attempts([trial(1), trial(2)])
    build("attempts", {**rows, "epoch": [3, 3]}, FIXED)
    with pytest.raises(BadRows, match="row 1 is 2, but this writer writes for epoch 3 only"):
        build("attempts", {**rows, "epoch": [3, 2]}, FIXED)
    with pytest.raises(BadRows, match="row 0 is 'other"):
        build("attempts", {**rows, "sweep": ["other.cpu", "kit.cpu"]}, FIXED)


@given(st.permutations(list(range(6))))
def test_sort_gives_one_order(order: list[int]) -> None:
    rows = build("measurements", measurements([trial(2), trial(1)], rows=3), FIXED)
    table = sort("measurements", rows.take(order))
    keys = [(row["trial_id"], row["seq"]) for row in table.to_pylist()]
    assert keys == [(trial(t), s) for t in (1, 2) for s in range(3)]
    assert table.column(0).num_chunks == 1


def test_keys_are_columns() -> None:
    assert KEYS.keys() == TABLES.keys()
    for table, keys in KEYS.items():
        assert set(keys) <= set(TABLES[table].names)
