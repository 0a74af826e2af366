"""The views of a home: what a query, a claim or a report can read, made of the committed tables.

rows      one line per measurement, with its trial's point and its coordinates as columns
trials    one line per planned trial, with its status
attempts  as committed
asks      one line per point that a search asked for, with what became of it
cells     measurements aggregated over seeds
claims    verdicts on the claims of each sweep's study

A measurement is stored once, under one winner per trial. A trial that two sweeps planned appears
under each of them, with that sweep's stage and point: filter by `sweep` where a home has several.

Where a point's key has the name of a fixed column, its column is `point_<key>`; a coordinate's is
`coord_<key>`, also where a point has the key.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import fields
from typing import TYPE_CHECKING, Any, cast

import duckdb
import pyarrow as pa

from sensweep.results.expand import column_names, expand

if TYPE_CHECKING:
    from sensweep.results.store import Home

VIEWS = ("rows", "trials", "attempts", "asks", "cells", "claims")

#: The columns that `rows` always has, before those of points and coordinates.
ROW_COLUMNS = (
    *("sweep", "stage", "task", "cell", "seed", "trial_id", "seq"),
    *("name", "value", "step", "unit", "coordinates"),
)
#: The columns that `trials` always has, before those of points. `status` is done, stopped,
#: failed, skipped (an ancestor failed) or pending; `current` is false for what the sweep's last
#: plan no longer has (the study was edited), and then `rows` leaves it out.
TRIAL_COLUMNS = (
    *("sweep", "stage", "task", "cell", "seed", "trial_id", "status", "attempts", "seconds"),
    *("error", "current", "epoch", "point", "params", "parents", "code", "code_files", "data"),
)
#: What identifies a measurement of a cell.
CELL_KEY = ("sweep", "stage", "cell", "name", "step", "unit", "coordinates")
#: What `cells` computes over seeds: unit and description.
CELL_STATISTICS = {
    "n": ("1", "seeds, those with a value that is not finite included"),
    "mean": ("see unit", "mean over seeds; NaN if any seed's value is not finite"),
    "sd": ("see unit", "sample standard deviation over seeds; null if n < 2 or not all finite"),
    "low": ("see unit", "lower end of the 95% t-interval of the mean; null where sd is"),
    "high": ("see unit", "upper end of the 95% t-interval of the mean; null where sd is"),
    "nonfinite": ("1", "seeds whose value is NaN or infinite"),
}

# Columns of `rows` that a cell sums up; all others are equal throughout a cell.
_WITHIN_CELL = ("task", "seed", "trial_id", "seq", "value")

# Each driver commits its whole plan. After an edit of the study the last plan counts: rows of
# two versions of a trial must never be averaged.
_PLANNED = """
    create table stored.planned as
    select *, epoch = max(epoch) over (partition by sweep) as current from stored.trials
"""

# done and stopped are final, in whichever sweep they happened. Else a sweep's own last attempt
# decides, or where it made none that of another sweep. A trial whose last attempt was lost will be
# run again, so it is pending.
_TRIALS = """
    create view trials as
    with own as (
        select sweep, trial_id, arg_max(status, (epoch, attempt)) as status,
            arg_max(seconds, (epoch, attempt)) as seconds,
            arg_max(coalesce(error, ''), (epoch, attempt)) as error
        from stored.attempts group by all
    ),
    everywhere as (
        select trial_id, count(*) as attempts, arg_max(status, (started, sweep)) as status,
            arg_max(seconds, (started, sweep)) as seconds,
            arg_max(coalesce(error, ''), (started, sweep)) as error
        from stored.attempts group by all
    ),
    known as (
        select p.*, coalesce(e.attempts, 0) as attempts,
            coalesce(w.seconds, o.seconds, e.seconds) as seconds,
            case when w.status is null then nullif(coalesce(o.error, e.error), '') end as error,
            case when w.status is not null then w.status
                when coalesce(o.status, e.status) = 'failed' then 'failed'
                else 'pending' end as status
        from stored.planned p left join stored.winners w on p.trial_id = w.trial_id
            left join own o on p.sweep = o.sweep and p.trial_id = o.trial_id
            left join everywhere e on p.trial_id = e.trial_id
    ),
    needs as (
        select sweep, trial_id, unnest(json_extract_string(parents, '$[*].trial_id')) as parent
        from stored.planned where parents <> '[]'
    ),
    barred as (
        with recursive below as (
            select sweep, trial_id from known where status = 'failed'
            union
            select needs.sweep, needs.trial_id
            from needs join below on needs.sweep = below.sweep and parent = below.trial_id
        )
        select sweep, trial_id, true as barred from below
    ),
    t as (
        select known.* replace (
            case when status = 'pending' and barred then 'skipped' else status end as status
        ) from known left join barred using (sweep, trial_id)
    )
    select {columns} from t join stored.points p on t.point = p.json
"""

_ROWS = """
    create view rows as
    select {columns}
    from stored.measurements m join stored.planned t using (trial_id)
        join stored.points p on t.point = p.json
        join stored.coordinates c on m.coordinates = c.json
    where t.current
"""

# An ask and its tell are two events; the later one has all that the earlier one had.
_ASKS = """
    create view asks as
    select * from stored.asks
    qualify event = max(event) over (partition by sweep, search, number)
"""

# Within a seed first: a trial that measured the same thing twice counts once, with its mean. (A
# NaN of a pandas frame arrives as null.)
_CELLS = """
    with seeds as (
        select {key}, seed, avg(coalesce(value, 'nan')) as value{within}
        from rows group by {key}, seed
    ),
    spread as (
        select {key}, {over}count(*) as n,
            count(*) filter (where not isfinite(value)) as nonfinite,
            case when nonfinite > 0 then 'nan'::double else avg(value) end as mean,
            case when nonfinite = 0 then stddev_samp(value) end as sd
        from seeds group by {key}
    )
    select spread.* exclude (n, mean, sd, nonfinite), n, mean, sd,
        mean - t * sd / sqrt(n) as low, mean + t * sd / sqrt(n) as high, nonfinite
    from spread left join {quantiles} using (n)
"""

# No file is read or written from here on, not even to spill, and nothing can be switched back.
# `temp_directory` is emptied first, for what lies below it would stay open to SQL.
_LOCK = """
    set autoinstall_known_extensions = false; set autoload_known_extensions = false;
    set python_enable_replacements = false; set temp_directory = '';
    set enable_external_access = false; set lock_configuration = true
"""


def connect(home: Home, views: Collection[str] = VIEWS) -> duckdb.DuckDBPyConnection:
    """Load a home into an in-memory DuckDB that is locked: it reaches no file and no network.

    Args:
        home: the home; an empty one has all the views, without lines.
        views: the views that will be asked for. Intervals (in `cells`) and verdicts (`claims`)
            cost time, so without these names here intervals are null and verdicts absent.

    Raises:
        StoreError: a file of the home is not what was committed.
    """
    connection = duckdb.connect()
    connection.execute("set TimeZone = 'UTC'; set enable_progress_bar = false")
    connection.execute("create schema stored")
    for name, table in {**home.results(), "asks": home.read("asks")}.items():
        _store(connection, name, table)
    connection.execute(_PLANNED)
    _create_views(connection, with_intervals="cells" in views)
    _create_claims(connection, home if "claims" in views else None)
    connection.execute(_LOCK)
    return connection


def cells_select(row_columns: Iterable[str], quantiles: str = "t_quantiles") -> str:
    """Write the SELECT that makes cells of `rows`, which has `row_columns`.

    Args:
        row_columns: columns of `rows`; those that are not fixed ones come through, as
            `point_<name>` where a statistic has the name.
        quantiles: the table that holds `t_quantiles`.
    """
    extra = [name for name in row_columns if name not in (*CELL_KEY, *_WITHIN_CELL)]
    named = column_names((*CELL_KEY, *CELL_STATISTICS), point=extra)["point"]
    # Columns that a query does not ask for are not aggregated: DuckDB prunes them.
    return _CELLS.format(
        key=", ".join(CELL_KEY),
        within="".join(f", any_value({_quote(name)}) as {_quote(name)}" for name in extra),
        over="".join(
            f"any_value({_quote(name)}) as {_quote(alias)}, "
            for name, alias in zip(extra, named, strict=True)
        ),
        quantiles=quantiles,
    )


def t_quantiles(largest: int) -> pa.Table:
    """Tabulate `t`, the 0.975 quantile of Student's t with n - 1 degrees of freedom, by `n`.

    Args:
        largest: the last n; the first is 2.
    """
    import numpy as np
    from scipy.special import stdtrit  # 0.3 s, which only intervals need

    n = np.arange(2, largest + 1)
    return pa.table({"n": pa.array(n, pa.int64()), "t": pa.array(stdtrit(n - 1, 0.975))})


def _create_views(connection: duckdb.DuckDBPyConnection, *, with_intervals: bool) -> None:
    points = _store_expanded(connection, "points", "trials", "point")
    coordinates = _store_expanded(connection, "coordinates", "measurements", "coordinates")
    names = column_names(TRIAL_COLUMNS, point=points)
    columns = {f"t.{name}": name for name in TRIAL_COLUMNS} | _keys("p", names["point"])
    connection.execute(_TRIALS.format(columns=_select_list(columns)))

    names = column_names(ROW_COLUMNS, point=points, coord=coordinates)
    measured = ("seq", "name", "value", "step", "unit", "coordinates")
    columns = {f"{'m' if name in measured else 't'}.{name}": name for name in ROW_COLUMNS}
    columns |= _keys("p", names["point"]) | _keys("c", names["coord"])
    connection.execute(_ROWS.format(columns=_select_list(columns)))

    connection.execute("create view attempts as select * from stored.attempts")
    connection.execute(_ASKS)

    seeds = "select count(distinct seed) as n from stored.planned group by sweep, cell"
    found = connection.sql(f"select coalesce(max(n), 0) from ({seeds})").fetchall()
    _store(connection, "t_quantiles", t_quantiles(found[0][0]) if with_intervals else _NO_QUANTILES)
    select = cells_select(columns.values(), "stored.t_quantiles")
    connection.execute(f"create view cells as {select}")


_NO_QUANTILES = pa.table({"n": pa.array([], pa.int64()), "t": pa.array([], pa.float64())})


def _create_claims(connection: duckdb.DuckDBPyConnection, home: Home | None) -> None:
    """Judge the claims of every sweep's last study; without a home there is an empty view."""
    if home is None:
        connection.execute("create view claims as select null::varchar as sweep where false")
        return
    from sensweep.results.claims import ClaimResult, as_records, evaluate_study

    types = {"int": pa.int64(), "float": pa.float64(), "float | None": pa.float64()}
    columns = [
        (field.name, types.get(str(field.type), pa.string())) for field in fields(ClaimResult)
    ]
    records: list[dict[str, object]] = []
    for sweep in home.sweeps():
        study = cast("dict[str, Any]", home.study(sweep)["study"])
        # Claims take the coordinates from their own columns.
        found = "select * exclude (coordinates) from rows where sweep = ?"
        rows = connection.sql(found, params=[sweep]).df()
        results = evaluate_study(study, rows) if study.get("claims") else []
        records += [{"sweep": sweep, **record} for record in as_records(results)]
    schema = pa.schema([("sweep", pa.string()), *columns])
    _store(connection, "claims", pa.Table.from_pylist(records, schema))
    connection.execute("create view claims as select * from stored.claims")


def _store(connection: duckdb.DuckDBPyConnection, name: str, table: pa.Table) -> None:
    connection.register("arriving", table)
    connection.execute(f"create table stored.{name} as select * from arriving")
    connection.unregister("arriving")


def _store_expanded(
    connection: duckdb.DuckDBPyConnection, name: str, table: str, column: str
) -> list[str]:
    texts = connection.sql(f"select distinct {column} from stored.{table}").fetchall()
    keys, expanded = expand(text for (text,) in texts)
    _store(connection, name, expanded)
    return keys


def _keys(table: str, names: Iterable[str]) -> dict[str, str]:
    """Map the expressions of the expanded keys of `table` to their columns' names."""
    return {f"{table}.k{i}": name for i, name in enumerate(names)}


def _select_list(columns: dict[str, str]) -> str:
    return ", ".join(f"{expression} as {_quote(name)}" for expression, name in columns.items())


def _quote(name: str) -> str:
    doubled = name.replace('"', '""')
    return f'"{doubled}"'
