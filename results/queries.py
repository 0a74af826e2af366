"""Questions to a home, in SQL: one SELECT at a time, and nothing else.

    query(Home("runs"), "select arch, avg(value) from rows where name = 'accuracy' group by arch")

The views are described in `sensweep.results.views`.
"""

from __future__ import annotations

import datetime
import decimal
import json
import math
import re
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from sensweep.results.schema import nearest
from sensweep.results.views import VIEWS, connect

if TYPE_CHECKING:
    from sensweep.results.store import Home

__all__ = ["QueryError", "claims_of", "connect", "measured_by_trial", "query", "select_sweep"]

#: Table functions that only compute. All others are refused: most of them read files.
TABLE_FUNCTIONS = ("generate_series", "json_each", "json_tree", "range", "repeat", "unnest")

# DuckDB lets the body of a WITH insert, delete, or COPY to a file, and calls the whole a SELECT.
_QUERY_NODES = ("CTE_NODE", "RECURSIVE_CTE_NODE", "SELECT_NODE", "SET_OPERATION_NODE")

_MEASURED = ("name", "value", "step", "unit", "coordinates")
_NO_TABLE = re.compile(r'(?:Table with name|Referenced table) "?([^"\s]+)')
_NO_COLUMN = re.compile(r'(?:Referenced column|column named) "?([^"\s]+)')


class QueryError(Exception):
    """A query that cannot be answered, in one line."""


def query(home: Home, sql: str) -> list[dict[str, Any]]:
    """Answer one SELECT (WITH, UNION, DESCRIBE and SHOW TABLES included) over the views of a home.

    It cannot read or write a file, reach a network, or change a setting.

    Returns:
        one mapping per line, by column name (a repeated name gets `_2`, `_3`), of values that
        JSON can hold: NaN and infinities, which it cannot, are None (ask `isnan(value)` or
        `value::varchar` to tell them apart), times are ISO 8601, bytes are hexadecimal, and what
        else JSON lacks is text.

    Raises:
        QueryError: it is not one SELECT, does not parse, names what is not there, or fails.
        StoreError: a file of the home is not what was committed.
    """
    check_select(sql)
    # A view can be reached by its name only: functions that take names as text are refused.
    mentioned = [view for view in VIEWS if re.search(view, sql, re.IGNORECASE)]
    with connect(home, mentioned) as connection:
        try:
            return _plain(connection.sql(sql).to_arrow_table())
        except duckdb.Error as error:
            raise QueryError(_explain(error, connection, mentioned)) from None


def select_sweep(home: Home, view: str, sweep: str) -> pa.Table:
    """Return the lines of one sweep in a view, as an Arrow table.

    Raises:
        QueryError: there is no such view.
        UnknownSweep: the home has no such sweep.
        StoreError: a file of the home is not what was committed.
    """
    if view not in VIEWS:
        raise QueryError(f"no view is called {view!r}; {nearest(view, VIEWS)}")
    home.manifest(sweep)
    with connect(home, [view]) as connection:
        return connection.sql(f"from {view} where sweep = ?", params=[sweep]).to_arrow_table()


def claims_of(home: Home, sweep: str) -> list[dict[str, Any]]:
    """Judge the claims of a sweep's study; one mapping per verdict, of values that JSON can hold.

    Raises:
        UnknownSweep: the home has no such sweep.
        StoreError: a file of the home is not what was committed.
        ValueError: a claim is malformed.
    """
    return _plain(select_sweep(home, "claims", sweep).drop_columns("sweep"))


def measured_by_trial(
    home: Home, names: Collection[str]
) -> dict[str, list[tuple[str, float, int | None, str, str]]]:
    """Read what the trials that are done have measured under these names.

    Returns:
        trial_id -> rows of (name, value, step, unit, coordinates as JSON), in their order; a trial
        that is done and measured none of the names has no rows.
    """
    tables = home.results()
    winners = tables["winners"]
    done = winners.filter(pc.equal(winners["status"], "done"))["trial_id"].to_pylist()
    found: dict[str, list[tuple[str, float, int | None, str, str]]] = {each: [] for each in done}
    rows = tables["measurements"]
    rows = rows.filter(pc.is_in(rows["name"], pa.array(sorted(names)))).sort_by("seq")
    columns = (rows[name].to_pylist() for name in ("trial_id", *_MEASURED))
    for trial_id, *row in zip(*columns, strict=True):
        if trial_id in found:  # one that was stopped is not done
            found[trial_id].append(tuple(row))
    return found


def check_select(sql: str) -> None:
    """Let pass exactly one SELECT that uses no table function but TABLE_FUNCTIONS.

    Raises:
        QueryError: it is something else, or does not parse.
    """
    try:
        statements = duckdb.extract_statements(sql)
    except duckdb.Error as error:
        raise QueryError(_first_line(error)) from None
    if len(statements) != 1:
        raise QueryError(f"exactly one SELECT is wanted, and here are {len(statements)} statements")
    kind = statements[0].type.name
    if kind == "MULTI":
        raise QueryError("a PIVOT must list its values: pivot ... on column in (...)")
    if kind != "SELECT":
        raise QueryError(f"only SELECT is allowed, and this is {kind}")
    for node in _syntax_nodes(sql):
        kind = str(node.get("type"))
        if "cte_map" in node and kind not in _QUERY_NODES:
            word = kind.removesuffix("_QUERY_NODE")
            raise QueryError(f"only SELECT is allowed, and this has {word} within WITH")
        if kind == "TABLE_FUNCTION":
            name = node["function"]["function_name"].lower()
            if name not in TABLE_FUNCTIONS:
                raise QueryError(
                    f"the table function {name} is not allowed, for a query reads the views "
                    f"({', '.join(VIEWS)}) only; {nearest(name, TABLE_FUNCTIONS)}"
                )


def _syntax_nodes(sql: str) -> Iterator[dict[str, Any]]:
    """Walk DuckDB's own syntax tree of a SELECT."""
    try:
        with duckdb.connect() as connection:
            found = connection.execute("select json_serialize_sql(?)", [sql]).fetchall()
        tree = json.loads(found[0][0])
    except (duckdb.Error, RecursionError) as error:
        raise QueryError(f"this SELECT cannot be checked: {_first_line(error)}") from None
    if tree["error"]:
        raise QueryError(f"this SELECT cannot be checked: {tree['error_message'].splitlines()[0]}")
    stack = [tree["statements"]]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            yield node
            stack.extend(node.values())
        elif isinstance(node, list):
            stack.extend(node)


def _explain(
    error: duckdb.Error, connection: duckdb.DuckDBPyConnection, mentioned: list[str]
) -> str:
    """Make DuckDB's message one line; behind an unknown name comes the nearest valid one."""
    line = _first_line(error).rstrip("!")
    if unknown := _NO_TABLE.search(line):
        return f"{line}; {nearest(unknown[1], VIEWS)}"
    if unknown := _NO_COLUMN.search(line):
        columns = {name for view in mentioned for name in connection.sql(f"from {view}").columns}
        return f"{line}; {nearest(unknown[1], columns)}"
    return line


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _plain(table: pa.Table) -> list[dict[str, Any]]:
    names = _distinct(table.column_names)
    columns = []
    for column in table.columns:
        convert = _converter(column.type)
        values = column.to_pylist()
        columns.append(values if convert is None else [convert(value) for value in values])
    return [dict(zip(names, line, strict=True)) for line in zip(*columns, strict=True)]


def _distinct(names: list[str]) -> list[str]:
    distinct: list[str] = []
    for name in names:
        unique, number = name, 1
        while unique in distinct:
            number += 1
            unique = f"{name}_{number}"
        distinct.append(unique)
    return distinct


def _converter(kind: pa.DataType) -> Callable[[Any], Any] | None:
    """Return what makes values of an Arrow type fit for JSON; None if they are."""
    types = pa.types
    if any(fits(kind) for fits in (types.is_boolean, types.is_integer, types.is_string)):
        return None
    return _number if types.is_floating(kind) else _json_value


def _number(value: float | None) -> float | None:
    return value if value is None or math.isfinite(value) else None


def _json_value(value: Any) -> Any:
    match value:
        case None | bool() | int() | str():
            return value
        case pa.MonthDayNano():
            return str(value)
        case float():
            return _number(value)
        case decimal.Decimal():
            return int(value) if value == value.to_integral_value() else float(value)
        case datetime.datetime() | datetime.date() | datetime.time():
            return value.isoformat()
        case bytes():
            return value.hex()
        case dict():
            return {str(key): _json_value(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_json_value(inner) for inner in value]
    return str(value)
