"""The report of a sweep: one HTML page that needs nothing else, its figures, and its claims."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.resources import files
from itertools import groupby, pairwise
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sensweep.results.changes import changes
from sensweep.results.drawing import DOTS_PER_INCH
from sensweep.results.schema import canonical_json

if TYPE_CHECKING:
    import pandas as pd
    from duckdb import DuckDBPyConnection

    from sensweep.results.figures import FigureSpec
    from sensweep.results.search_figures import SearchFigure
    from sensweep.results.store import Home

MOST_TRIALS = 200  # lines of a table of trials
STATUSES = ("done", "stopped", "failed", "skipped", "pending")

_TRIALS = """
    select stage, cell, seed, trial_id, status, point, parents from trials
    where sweep = $sweep and current order by stage, point, seed
"""
_FAILURES = """
    select t.trial_id, t.stage, t.point, t.seed, t.attempts, t.error, a.log, a.traceback
    from trials t join (
        select trial_id, arg_max(log, (epoch, attempt)) as log,
            arg_max(traceback, (epoch, attempt)) as traceback
        from attempts where sweep = $sweep and status = 'failed' group by trial_id
    ) a using (trial_id)
    where t.sweep = $sweep and t.current and t.status = 'failed'
    order by t.stage, t.point, t.seed
"""
_FINISHED_BY_EPOCH = """
    select epoch, count(distinct trial_id) from attempts
    where sweep = $sweep and status in ('done', 'stopped') group by epoch
"""
_ASKS = "select * from asks where sweep = $sweep order by search, number"
_FROM_OTHER_SWEEPS = """
    select source, count(*) from (
        select min(a.sweep) as source, bool_or(a.sweep = $sweep) as own
        from trials t join attempts a using (trial_id)
        where t.sweep = $sweep and t.current and a.status in ('done', 'stopped')
        group by trial_id
    ) where not own group by source order by source
"""


def write_report(home: Home, sweep: str, importance: Sequence[Mapping[str, Any]] = ()) -> Path:
    """Write HOME/sweeps/<sweep>/report/: index.html, its figures as PNG, and claims.json.

    It tells what is committed when it is called; the same tables give the same bytes. A figure
    that the rows cannot fill becomes a note.

    Args:
        home: the home.
        sweep: a sweep of it.
        importance: of the axes that its searches search: mappings with search, objective, axis,
            where, importance, as `sensweep.orchestrator.search_importance` makes them.

    Returns:
        The path of index.html.

    Raises:
        UnknownSweep: the home has no such sweep.
        StoreError: a file of the home is not what was committed.
    """
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    contents = _contents(home, sweep, importance)
    folder = home.path / "sweeps" / sweep / "report"
    folder.mkdir(parents=True, exist_ok=True)
    contents["figures"] = _figures(contents["study"], contents.pop("rows"), folder)
    drawn = [*contents["figures"]]
    if contents["search"] is not None:
        contents["search"]["figures"] = _search_figures(contents["search"]["figures"], folder)
        drawn += contents["search"]["figures"]
    # A figure of an earlier report must not pass for one of this.
    for path in folder.glob("*.png"):
        if path.stem not in {figure["name"] for figure in drawn if figure["png"]}:
            path.unlink()
    kept = ("sweep", "profile", "smoke", "claims")
    claims = json.dumps({key: contents[key] for key in kept}, indent=1, ensure_ascii=False)
    (folder / "claims.json").write_text(claims + "\n", encoding="utf-8")
    environment = Environment(
        loader=FunctionLoader(
            lambda name: files("sensweep.results").joinpath(name).read_text(encoding="utf-8")
        ),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "estimate": _estimate,
        "interval": _interval,
        "point": _point,
    }
    page = folder / "index.html"
    page.write_text(environment.get_template("report.html").render(contents), encoding="utf-8")
    return page


def _contents(home: Home, sweep: str, importance: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Gather what the page tells, as the template's variables (all but the figures)."""
    from sensweep.results.claims import as_records, evaluate_study
    from sensweep.results.queries import connect
    from sensweep.results.search_report import search_contents
    from sensweep.results.summary import stage_tables

    state = home.manifest(sweep)
    records = [home.study(sweep, epoch.number) for epoch in state.epochs]
    study: dict[str, Any] = records[-1]["study"]  # type: ignore[assignment]
    with connect(home, views=("rows", "trials", "attempts")) as connection:
        rows = _frame(connection, "select * from rows where sweep = $sweep", sweep)
        trials = _frame(connection, _TRIALS, sweep)
        failures = _frame(connection, _FAILURES, sweep).to_dict("records")
        finished = dict(connection.execute(_FINISHED_BY_EPOCH, {"sweep": sweep}).fetchall())
        others = connection.execute(_FROM_OTHER_SWEEPS, {"sweep": sweep}).fetchall()
        asks: list[Any] = _frame(connection, _ASKS, sweep).to_dict("records")
    rows = rows.sort_values(["trial_id", "seq"], ignore_index=True)
    before = [
        sum(count for number, count in finished.items() if number < epoch.number)
        for epoch in state.epochs
    ]
    stages = _in_order(study["stages"], set(trials["stage"]))
    points = {
        cell: json.loads(point) for cell, point in zip(trials["cell"], trials["point"], strict=True)
    }
    of_trials = {
        trial: points[cell] for trial, cell in zip(trials["trial_id"], trials["cell"], strict=True)
    }
    return {
        "sweep": sweep,
        "study": study,
        "study_hash": hashlib.sha256(canonical_json(study).encode()).hexdigest()[:12],
        "profile": records[-1]["profile"],
        "smoke": records[-1]["profile"] == "smoke",
        "open": not state.closed,
        "rows": rows,
        "claims": (claims := as_records(evaluate_study(study, rows))),
        "claim_groups": [list(some) for _, some in groupby(claims, itemgetter("id"))],
        "search": search_contents(study, asks, rows, of_trials, points, importance),
        "verdicts": Counter(claim["verdict"] for claim in claims if claim["verdict"]),
        "tables": stage_tables(rows, points, stages),
        "statuses": STATUSES,
        "counts": _counts(trials, stages),
        "seeds": [int(seed) for seed in sorted(set(trials["seed"]))],
        "failures": failures,
        "skipped": _skipped(trials),
        "most": MOST_TRIALS,
        "changes": changes([record["study"] for record in records], before),  # type: ignore[misc]
        "others": others,
        "epochs": [
            {
                "owner": epoch.owner,
                "provenance": record["provenance"],
                "changed": changed,
                "finished": finished.get(epoch.number, 0),
            }
            for epoch, record, changed in zip(
                state.epochs, records, _changed_provenance(records), strict=True
            )
        ],
        "provenance": records[-1]["provenance"],
        "study_text": json.dumps(study, indent=1, ensure_ascii=False),
    }


def _frame(connection: DuckDBPyConnection, sql: str, sweep: str) -> pd.DataFrame:
    return connection.execute(sql, {"sweep": sweep}).df()


def _figures(study: Mapping[str, Any], rows: pd.DataFrame, folder: Path) -> list[dict[str, Any]]:
    """Draw the study's figures: name, title, note, PNG as base64 ("" without rows), width."""
    from sensweep.results.figures import FigureSpecs, default_figures, draw, plotted

    drawn = []
    for spec in FigureSpecs.validate_python(study.get("figures") or default_figures(rows)):
        try:
            shown = plotted(spec, rows)
            note, png = shown.note, draw(spec, rows, folder, shown).read_bytes()
        except ValueError as error:  # NoRows, or what cannot be drawn readably
            note, png = f"Not drawn: {error}", b""
        drawn.append(_as_drawn(spec, note, png))
    return drawn


def _search_figures(figures: Sequence[SearchFigure], folder: Path) -> list[dict[str, Any]]:
    """Draw the figures of the searches."""
    from sensweep.results.search_report import save

    drawn = []
    for figure in figures:
        try:
            note, png = figure.note, save(figure, folder).read_bytes()
        except ValueError as error:  # what cannot be drawn readably
            note, png = f"Not drawn: {error}", b""
        drawn.append(_as_drawn(figure, note, png))
    return drawn


def _as_drawn(spec: FigureSpec | SearchFigure, note: str, png: bytes) -> dict[str, Any]:
    return {
        "name": spec.name,
        "title": spec.title,
        "note": note,
        "png": base64.b64encode(png).decode(),
        "pixels": _css_pixels(png),
    }


def _css_pixels(png: bytes) -> int:
    """Width at which a PNG's text has the size that it was drawn for (1 inch = 96 pixels)."""
    return round(int.from_bytes(png[16:20], "big") * 96 / DOTS_PER_INCH)


def _in_order(stages: Mapping[str, Any], seen: set[str]) -> list[str]:
    """Order stages so that each follows what it needs; those of earlier studies come last."""

    def depth(stage: str) -> int:
        needs = [need.partition("@")[0] for need in stages[stage].get("needs", [])]
        return 1 + max(map(depth, needs), default=0)

    return [*sorted(stages, key=lambda stage: (depth(stage), stage)), *sorted(seen - set(stages))]


def _counts(trials: pd.DataFrame, stages: Sequence[str]) -> dict[str, dict[str, int]]:
    """Count the trials of each stage by status."""
    counts = {stage: dict.fromkeys(STATUSES, 0) for stage in stages}
    for stage, status in zip(trials["stage"], trials["status"], strict=True):
        counts[stage][status] += 1
    return counts


def _skipped(trials: pd.DataFrame) -> list[dict[str, Any]]:
    """List the skipped trials, each with the stages and trials whose failure barred it."""
    known: dict[str, Any] = {one["trial_id"]: one for one in trials.to_dict("records")}

    def failed(trial_id: str) -> list[str]:
        trial = known.get(trial_id)
        if trial is None:
            return []
        if trial["status"] == "failed":
            return [f"{trial['stage']} {trial_id[:8]}"]
        return [name for need in json.loads(trial["parents"]) for name in failed(need["trial_id"])]

    return [
        {**trial, "because": ", ".join(dict.fromkeys(failed(trial["trial_id"])))}
        for trial in known.values()
        if trial["status"] == "skipped"
    ]


def _changed_provenance(records: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """For each epoch, which versions and machine facts differ from the epoch before."""
    flat = []
    for record in records:
        facts = {k: v for k, v in record["provenance"].items() if k not in ("started", "command")}
        flat.append({**facts, **facts.pop("versions", {})})
    return [
        [],
        *(
            [f"{key}: {old.get(key)} → {new.get(key)}" for key in new if new[key] != old.get(key)]
            for old, new in pairwise(flat)
        ),
    ]


def _point(point: str) -> str:
    """Write a point's JSON as people say it: `arch vit, strength 0.1`."""
    return ", ".join(f"{axis} {label}" for axis, label in json.loads(point).items())


def _estimate(claim: Mapping[str, Any]) -> str:
    """Write a claim's estimate with its unit, rounded to what its interval allows."""
    if claim["estimate"] is None:
        return "–"
    unit = f" {claim['unit']}" if claim["unit"] not in ("", "1") else ""
    return _rounded(claim["estimate"], claim) + unit


def _interval(claim: Mapping[str, Any]) -> str:
    if claim["low"] is None or claim["high"] is None:
        return "–"
    return f"[{_rounded(claim['low'], claim)}, {_rounded(claim['high'], claim)}]"


def _rounded(value: float, claim: Mapping[str, Any]) -> str:
    low, high = claim["low"], claim["high"]
    width = high - low if low is not None and high is not None else abs(value)
    if not 1e-4 < width < 1e6:
        return f"{value:.4g}".replace("-", "−")
    decimals = max(0, 2 - math.floor(math.log10(width)))
    return f"{value:.{decimals}f}".replace("-", "−")
