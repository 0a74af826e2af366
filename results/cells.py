"""Cells: one line per point of a study and measurement, aggregated over seeds.

`n` seeds, their `mean` and `sd`, and the 95% t-interval `low`, `high` of the mean, which is
mean -+ t(0.975, n - 1) sd / sqrt(n) and supposes independent seeds with about normal values. It is
the aggregate that people share, so each sweep's is also written as one Parquet file.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa

from sensweep.results import parts
from sensweep.results.files import LocalFiles
from sensweep.results.schema import SCHEMA_VERSION, TABLES
from sensweep.results.views import CELL_KEY, CELL_STATISTICS, cells_select, connect, t_quantiles

if TYPE_CHECKING:
    import pandas as pd

    from sensweep.results.store import Home


def cells(rows: pa.Table | pd.DataFrame) -> pa.Table:
    """Aggregate rows over seeds.

    A seed counts once: where a trial measured the same thing several times (equal name, step,
    unit and coordinates), its mean counts.

    Args:
        rows: the columns of the `rows` view.

    Returns:
        the columns of the `cells` view (`views.CELL_KEY`, those of points and coordinates,
        `views.CELL_STATISTICS`), sorted by the first.
    """
    with duckdb.connect() as connection:
        connection.register("rows", rows)
        seeds = "select count(distinct seed) as n from rows group by sweep, cell"
        largest = connection.sql(f"select coalesce(max(n), 0) from ({seeds})").fetchall()[0][0]
        connection.register("t_quantiles", t_quantiles(largest))
        select = cells_select(connection.sql("from rows").columns)
        return _described(connection.sql(f"{select} order by {_ORDER}").to_arrow_table())


def cells_of(connection: duckdb.DuckDBPyConnection, sweep: str) -> pa.Table:
    """Read a sweep's lines of the `cells` view, sorted, from a connection of `views.connect`."""
    found = connection.sql(f"from cells where sweep = ? order by {_ORDER}", params=[sweep])
    return _described(found.to_arrow_table())


def write_cells(home: Home, sweep: str) -> Path:
    """Write a sweep's cells to `HOME/sweeps/<sweep>/cells.parquet`, whole or not at all.

    Raises:
        UnknownSweep: the home has no such sweep.
        StoreError: a file of the home is not what was committed.
    """
    home.manifest(sweep)
    with connect(home, ("cells",)) as connection:
        table = cells_of(connection, sweep)
    path = f"sweeps/{sweep}/cells.parquet"
    LocalFiles(home.path).write(path, parts.encode(table))
    return home.path / path


_ORDER = ", ".join(CELL_KEY)


def _described(table: pa.Table) -> pa.Table:
    """Give the fixed columns their units and descriptions."""
    stored = {field.name: field.metadata for name in TABLES for field in TABLES[name]}
    computed = {
        name: {"unit": unit, "description": text} for name, (unit, text) in CELL_STATISTICS.items()
    }
    fields = [
        field.with_metadata(computed.get(field.name) or stored[field.name])
        if field.name in (*CELL_KEY, *CELL_STATISTICS)
        else field
        for field in table.schema
    ]
    version = {"table": "cells", "schema_version": str(SCHEMA_VERSION)}
    return table.cast(pa.schema(fields, version))
