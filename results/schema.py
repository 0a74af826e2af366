"""The four committed tables: their columns, units and keys, and how rows become Arrow tables.

Every field carries `unit` and `description` as metadata, which Parquet keeps. `measurements` has
no column for time, host, attempt or sweep, so that a disturbed run and an undisturbed one hold
identical rows.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from sensweep.results.errors import BadRows

SCHEMA_VERSION = 1

#: Statuses of an attempt. The first two are final: they alone come with measurements. A rebuilt
#: one ran a finished trial once more, for checkpoints that had been freed; its rows are there.
FINAL = ("done", "stopped")
STATUSES = (*FINAL, "failed", "lost", "rebuilt")

Columns = Mapping[str, Sequence[object]]


def canonical_json(value: object) -> str:
    """Write `value` as JSON in the one form that is stored: sorted keys, no spaces, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _field(
    name: str, type_: pa.DataType, description: str, unit: str = "", *, nullable: bool = False
) -> pa.Field:
    return pa.field(
        name, type_, nullable=nullable, metadata={"unit": unit, "description": description}
    )


_text, _int32, _int64, _real = pa.string(), pa.int32(), pa.int64(), pa.float64()
_instant = pa.timestamp("us", tz="UTC")

_FIELDS = {
    "trials": [
        _field("sweep", _text, "the sweep that planned the trial"),
        _field("trial_id", _text, "hash of everything that decides the trial's numbers, 24 hex"),
        _field("stage", _text, "stage of the study"),
        _field("task", _text, "module:function that computes the trial"),
        _field("point", _text, "coordinates of the trial without its seed, canonical JSON"),
        _field("params", _text, "parameters that the task receives, canonical JSON"),
        _field("seed", _int64, "seed from which the task derives its random streams"),
        _field("parents", _text, 'trials it builds on: [{"stage","trial_id","select"}], JSON'),
        _field("code", _text, "digest of the code that computes the trial"),
        _field("code_files", _text, "digest of each source file, by relative path, JSON"),
        _field("data", _text, "digest of each dataset, by parameter, JSON"),
        _field("cell", _text, "hash of (stage, point): the trials that differ in seed only"),
        _field("epoch", _int64, "driver epoch that planned the trial", "1"),
    ],
    "attempts": [
        _field("sweep", _text, "the sweep that ran the attempt"),
        _field("trial_id", _text, "the trial"),
        _field("attempt", _int32, "number of the attempt within the sweep, from 1", "1"),
        _field("epoch", _int64, "driver epoch that ran the attempt", "1"),
        _field("status", _text, "done, stopped, failed, lost or rebuilt"),
        _field("error", _text, "what went wrong, one line", nullable=True),
        _field("traceback", _text, "the whole traceback", nullable=True),
        _field("log", _text, "log file, relative to the home"),
        _field("host", _text, "host that ran the attempt"),
        _field("worker", _text, "worker that ran the attempt"),
        _field("started", _instant, "when the attempt began, by its host's clock"),
        _field("queued_s", _real, "time between ready and started", "s"),
        _field("seconds", _real, "time between started and ended", "s"),
        _field("cpu_seconds", _real, "processor time, user and system", "s"),
        _field("peak_rss_bytes", _int64, "largest resident memory of the worker", "B"),
        _field("resources", _text, "resources that the attempt held, JSON"),
        _field("artifacts", _text, "files that it saved, with sha256 and metrics, JSON list"),
        _field("rows", _int32, "measurements that the attempt returned", "1"),
    ],
    "measurements": [
        _field("trial_id", _text, "the trial"),
        _field("seq", _int32, "position among the trial's measurements, from 0", "1"),
        _field("name", _text, "what was measured"),
        _field("value", _real, "the number; NaN and infinities are kept", "see unit"),
        _field("step", _int64, "position along the training axis", "epochs", nullable=True),
        _field("unit", _text, "unit of the value; 1 for ratios and counts"),
        _field("coordinates", _text, "what the value depends on in the trial, canonical JSON"),
    ],
    "asks": [
        _field("sweep", _text, "the sweep that asked"),
        _field("search", _text, "the search within the study"),
        _field("event", _int64, "position among the asks and tells of the search, from 0", "1"),
        _field("number", _int64, "number of the ask within the search, from 0", "1"),
        _field("trial_ids", _text, "trials that answer the ask, JSON list"),
        _field("params", _text, "what the search proposed, canonical JSON"),
        _field("attributes", _text, "what the search remembers of the ask, canonical JSON"),
        _field("state", _text, "state of the ask in the search's own terms"),
        _field("values", _text, "what the search was told, JSON list"),
    ],
}

#: The Arrow schema of each table.
TABLES: dict[str, pa.Schema] = {
    name: pa.schema(fields, metadata={"table": name, "schema_version": str(SCHEMA_VERSION)})
    for name, fields in _FIELDS.items()
}

#: The columns that each table is sorted by when its parts are merged.
KEYS: dict[str, tuple[str, ...]] = {
    "trials": ("trial_id", "epoch", "stage"),
    "attempts": ("trial_id", "attempt"),
    "measurements": ("trial_id", "seq"),
    "asks": ("search", "event"),
}


def nearest(word: str, known: Iterable[str]) -> str:
    """End an error line: the nearest of the `known` names to `word`, then all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, 1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"{hint}known: {', '.join(known) or 'none'}"


def schema_of(table: str) -> pa.Schema:
    """Look up a table's schema.

    Raises:
        BadRows: there is no such table.
    """
    if table not in TABLES:
        raise BadRows(f"no table is called {table!r}; {nearest(table, TABLES)}")
    return TABLES[table]


def build(table: str, columns: pa.Table | Columns, fixed: Mapping[str, object]) -> pa.Table:
    """Make a table of the stored schema out of columns of equal length.

    Args:
        table: the table's name.
        columns: every column of the schema; those in `fixed` may be left out.
        fixed: columns that have one value in all rows (the writer's sweep and epoch).

    Raises:
        BadRows: a column is missing, unknown, of another length or type, null where that is
            not allowed, or differs from its fixed value.
    """
    schema = schema_of(table)
    given = columns.column_names if isinstance(columns, pa.Table) else list(columns)
    for name in given:
        if name not in schema.names:
            raise BadRows(f"table {table} has no column {name!r}; {nearest(name, schema.names)}")
    lengths = {name: len(columns[name]) for name in given}
    if len(set(lengths.values())) > 1:
        raise BadRows(f"table {table}: columns differ in length: {lengths}")
    rows = next(iter(lengths.values()), 0)
    arrays = []
    for field in schema:
        if field.name in lengths:
            arrays.append(_array(table, field, columns[field.name], fixed))
        elif field.name in fixed:
            arrays.append(pa.repeat(pa.scalar(fixed[field.name], field.type), rows))
        else:
            raise BadRows(f"table {table} lacks its column {field.name!r}")
    return pa.Table.from_arrays(arrays, schema=schema)


def _array(
    table: str, field: pa.Field, values: Sequence[object], fixed: Mapping[str, object]
) -> pa.Array:
    where = f"table {table}, column {field.name}"
    try:
        if isinstance(values, pa.ChunkedArray):
            array = values.combine_chunks()
        elif pa.types.is_integer(field.type):
            array = pa.array(values)  # with its type given, it would cut 1.5 to 1
        else:
            array = pa.array(values, type=field.type)
        if pa.types.is_integer(field.type) and not _is_whole(array.type):
            raise TypeError(f"they are {array.type}")
        array = array.cast(field.type)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        reason = str(error).splitlines()[0]
        raise BadRows(f"{where}: not all values are {field.type}: {reason}") from None
    if array.null_count and not field.nullable:
        row = pc.index(array.is_null(), True).as_py()
        raise BadRows(f"{where}: row {row} is null, and a value is needed")
    if field.name in fixed:
        wanted = pa.scalar(fixed[field.name], field.type)
        if not pc.all(pc.equal(array, wanted)).as_py() and len(array):
            row = pc.index(pc.equal(array, wanted), False).as_py()
            raise BadRows(
                f"{where}: row {row} is {array[row].as_py()!r}, but this writer writes for "
                f"{field.name} {fixed[field.name]!r} only"
            )
    return array


def _is_whole(type_: pa.DataType) -> bool:
    return bool(pa.types.is_integer(type_) or pa.types.is_null(type_))


def sort(table: str, rows: pa.Table) -> pa.Table:
    """Sort rows by the table's key, into one chunk; equal keys keep their order."""
    order = [(key, "ascending") for key in KEYS[table]]
    rows = rows.combine_chunks()  # taking from many chunks is slow
    return rows.take(pc.sort_indices(rows, sort_keys=order))
