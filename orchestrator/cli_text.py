"""What the commands print for people."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sensweep.orchestrator.progress import duration, line

if TYPE_CHECKING:
    from sensweep.orchestrator.plan import Estimate, Plan
    from sensweep.orchestrator.why import Reason
    from sensweep.results.store import Home

FAILURES_SHOWN = 5
WRAPPED_WIDTH = 72
CUT_AT = 48


def plan_text(plan: Plan, cost: Estimate, slots: int, reasons: Sequence[Reason]) -> str:
    """Show a plan: trials per stage by status, then time and cost, then what made them new."""
    from sensweep.orchestrator.plan import searched_counts

    searched = searched_counts(plan)
    lines = [f"{plan.study.sweep}: {len(plan.trials)} trials, {len(plan.to_run)} to run"]
    if searched:
        lines[0] += f"; its searches run up to {searched.total()} more"
    for stage, counts in plan.counts().items():
        shown = ", ".join(f"{number} {status}" for status, number in sorted(counts.items()))
        if stage in searched:
            shown = f"up to {searched[stage]} searched"
        lines.append(f"  {stage:<16} {sum(counts.values()):>6}   {shown}")
    if (search := plan.study.search) is not None:
        what = ", ".join(f"{o.direction} {o.name}" for o in search.objectives)
        lines.append(
            f"  each search: {search.trials} points over {', '.join(search.axes)} "
            f"({search.sampler.name}): {what}"
        )
    lines += _cost_lines(plan, cost, slots)
    lines += [f"  {r.stage}: {len(r.trials)} new: {r.text}" for r in reasons]
    return "\n".join(lines)


def _cost_lines(plan: Plan, cost: Estimate, slots: int) -> list[str]:
    if not cost.measured + cost.stated:
        if plan.to_run or plan.searched:
            return ["  time and cost unknown: nothing like these trials was measured in this home"]
        return []
    gpus = f", {cost.gpu_hours:.3g} GPU-hours" if cost.gpu_hours else ""
    about = f"{duration(cost.seconds)} on {slots} cores, " if not cost.gpu_hours else ""
    sources = {
        "from measured history": cost.measured,
        "as the study expects": cost.stated,
        "unknown and left out": cost.unknown,
    }
    several = sum(map(bool, sources.values())) > 1
    told = ", ".join(
        f"{number} trials {source}" if several else source
        for source, number in sources.items()
        if number
    )
    return [f"  about {about}{cost.worker_hours:.3g} worker-hours{gpus}: {told}"]


def status_text(status: Mapping[str, Any]) -> str:
    """Show a sweep's status."""
    lines = [f"{status['sweep']}: {status['state']} (driver epoch {status['epoch']})"]
    for stage, states in status["stages"].items():
        shown = ", ".join(f"{number} {state}" for state, number in states.items())
        lines.append(f"  {stage:<16} {shown}")
    if status["live"]:
        lines.append(f"  {line(status['live'])}")
    if status["report"]:
        lines.append(f"  report {status['report']}")
    return "\n".join(lines)


def failures_text(home: Home, sweep: str) -> str:
    """Show the first failed trials, each with where its log is."""
    from sensweep.orchestrator.sweep_status import failures

    failed = failures(home, sweep)
    lines = [f"{len(failed)} trials failed; `--retry-failed` runs them again"]
    for trial in failed[:FAILURES_SHOWN]:
        lines.append(f"  {trial['stage']} {trial['trial_id']} {trial['point']} s{trial['seed']}")
        lines.append(f"    {trial['error']}")
        lines.append(f"    log {home.path / trial['log']}")
    if len(failed) > FAILURES_SHOWN:
        lines.append(
            f'  ... {len(failed) - FAILURES_SHOWN} more: `sensweep query "select * from '
            "trials where status = 'failed'\"`"
        )
    return "\n".join(lines)


def claims_text(claims: Sequence[Mapping[str, Any]]) -> str:
    """Show the verdicts."""
    rows = []
    for claim in claims:
        low, high = claim["low"], claim["high"]
        note = "; ".join(str(claim[k]) for k in ("reason", "fragile") if claim.get(k))
        rows.append(
            {
                "claim": claim["key"],
                "statement": claim["statement"] + (f" ({note})" if note else ""),
                "verdict": claim["verdict"] or "(descriptive)",
                "estimate": _number(claim["estimate"]),
                "interval": "" if low is None else f"[{_number(low)}, {_number(high)}]",
                "n": claim["n"],
            }
        )
    return table_text(rows, wrapped="statement")


def table_text(rows: Sequence[Mapping[str, Any]], wrapped: str = "") -> str:
    """Lay mappings out as a table, a column per key; long values are cut, or wrapped in one column.

    It is as wide as it needs to be: a terminal may wrap it, a file or a pipe must not.
    """
    if not rows:
        return "(no lines)"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in rows[0]:
        numeric = all(isinstance(row[name], int | float | None) for row in rows)
        if name == wrapped:
            table.add_column(name, width=WRAPPED_WIDTH)
        else:
            table.add_column(name, justify="right" if numeric else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(_cell(row[name], name == wrapped) for name in rows[0]))
    out = io.StringIO()
    Console(file=out, width=10_000, highlight=False, markup=False).print(table)
    return "\n".join(text.rstrip() for text in out.getvalue().splitlines() if text.strip())


def _cell(value: object, whole: bool) -> Text:
    if value is None:
        return Text("")
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return Text(text if whole or len(text) <= CUT_AT else f"{text[: CUT_AT - 3]}...")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
