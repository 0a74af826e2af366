"""What a home tells of a sweep, without Ray: how far it is, whether it runs, where a log is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sensweep.orchestrator.errors import InputError
from sensweep.results.store import Home


def sweep_status(home: Home, sweep: str) -> dict[str, Any]:
    """Describe a sweep as plain data.

    Returns:
        state: running; ended (its driver closed it); or interrupted (the driver is gone without
        having closed it). On another machine than the driver's, an interrupted sweep is called
        running until its lease has been seen to lapse by whoever resumes it.
        stages: trials by stage and status, from what is committed; while it runs, as its driver
        last published them.
    """
    from sensweep.results.views import connect

    log = home.manifest(sweep)
    if log.closed:
        state = "ended"
    else:
        state = "interrupted" if home.alive(sweep) is False else "running"
    live: dict[str, Any] = home.live(sweep) or {}
    stages: dict[str, dict[str, int]] = {}
    if state == "running" and live.get("epoch") == log.epoch:
        stages = live["stages"]
    else:
        counted = connect(home, ["trials"]).execute(
            "select stage, status, count(*) from trials where sweep = ? and current "
            "group by all order by all",
            [sweep],
        )
        for stage, status, number in counted.fetchall():
            stages.setdefault(stage, {})[status] = number
    return {
        "sweep": sweep,
        "state": state,
        "epoch": log.epoch,
        "home": str(home.path),
        "stages": stages,
        "live": live if state == "running" else None,
        "report": _report(home, sweep),
    }


def _report(home: Home, sweep: str) -> str | None:
    page = home.path / "sweeps" / sweep / "report" / "index.html"
    return str(page) if page.is_file() else None


def failures(home: Home, sweep: str) -> list[dict[str, Any]]:
    """List the sweep's failed trials: id, stage, point, error, and the log of the last attempt."""
    from sensweep.results.views import connect

    found = connect(home, ["trials", "attempts"]).execute(
        "select t.trial_id, t.stage, t.point, t.seed, arg_max(a.error, (a.epoch, a.attempt)), "
        "arg_max(a.log, (a.epoch, a.attempt)) from trials t join attempts a using (trial_id) "
        "where t.sweep = ? and t.current and t.status = 'failed' group by all order by all",
        [sweep],
    )
    names = ("trial_id", "stage", "point", "seed", "error", "log")
    return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def last_log(home: Home, trial: str) -> Path:
    """Find the log of a trial's last attempt by the first characters of its id.

    Raises:
        InputError: no trial, or more than one, begins so; or nothing was logged yet.
    """
    logs = [p for p in home.path.glob("logs/*/*.log") if p.name.startswith(trial)]
    trials = {path.name.partition(".")[0] for path in logs}
    if len(trials) > 1:
        raise InputError(f"{trial!r} begins {len(trials)} trials: {', '.join(sorted(trials)[:5])}")
    if not logs:
        raise InputError(
            f'no log of a trial {trial!r} in {home.path}: `sensweep query "select trial_id, '
            'stage, status from trials"` lists them'
        )
    return max(logs, key=lambda path: tuple(map(int, path.name.split(".")[1:3])))
