"""The display of a running sweep: a live panel on a terminal or in a notebook, else plain lines."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from sensweep.orchestrator.plan import Plan
    from sensweep.results.store import Home

LINE_EVERY = 5.0  # seconds between plain lines
SHOWN_RUNNING = 8


class Progress:
    """Shows what the sweep's driver publishes in the home, from wherever the home can be seen."""

    def __init__(self, home: Home, sweep: str, plan: Plan | None = None) -> None:
        self._home, self._sweep = home, sweep
        self._console = Console(stderr=True)
        rich_display = self._console.is_terminal or self._console.is_jupyter
        self._panel = Live(console=self._console, auto_refresh=False) if rich_display else None
        self._to_run = _to_run(plan) if plan is not None else None
        # What an earlier driver left published is not this run's.
        self._stale = (home.live(sweep) or {}).get("epoch") if plan is not None else None
        self._said: str | None = None
        self._said_at = float("-inf")
        self._begun = time.monotonic()

    def __enter__(self) -> Self:
        if self._to_run is not None:
            self._console.print(f"{self._sweep}: {self._to_run}", highlight=False)
        if self._panel is not None:
            self._panel.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.update(last=True)
        if self._panel is not None:
            self._panel.stop()

    def update(self, last: bool = False) -> None:
        """Show the latest status."""
        status = self._home.live(self._sweep)
        if status is None or status.get("epoch") == self._stale:
            waited = time.monotonic() - self._begun
            self._show(Text(f"starting ({waited:.0f} s)"), "starting", last=False)
            return
        self._show(panel(status), line(status), last)

    def _show(self, panel: Any, text: str, last: bool) -> None:
        if self._panel is not None:
            self._panel.update(panel, refresh=True)
            return
        now = time.monotonic()
        if text != self._said and (last or now - self._said_at >= LINE_EVERY):
            self._console.print(text, highlight=False, soft_wrap=True)
            self._said, self._said_at = text, now


def _to_run(plan: Plan) -> str:
    text = f"{len(plan.to_run)} trials to run"
    searched = sum(count for _, count in plan.searched)
    return f"{text}; its searches run up to {searched} more" if searched else text


def line(status: dict[str, Any]) -> str:
    """Put a status into one line."""
    stages = []
    for stage in status["order"]:
        states = status["stages"][stage]
        total = sum(states.values())
        text = f"{stage} {states.get('done', 0)}/{total}"
        extra = [f"{states[s]} {s}" for s in ("running", "failed", "skipped") if states.get(s)]
        stages.append(text + (f" ({', '.join(extra)})" if extra else ""))
    return " | ".join([", ".join(stages), *_totals(status)])


def panel(status: dict[str, Any]) -> Group:
    """Lay a status out as a panel of bars, running trials and totals."""
    table = Table.grid(padding=(0, 2))
    for stage in status["order"]:
        states = status["stages"][stage]
        total, done = sum(states.values()), states.get("done", 0)
        extra = [f"{states[s]} {s}" for s in ("running", "failed", "skipped") if states.get(s)]
        bar = ProgressBar(total=total, completed=done, width=30)
        table.add_row(stage, bar, f"{done}/{total}", ", ".join(extra))
    running = Table.grid(padding=(0, 2))
    for run in status["running"][:SHOWN_RUNNING]:
        latest = run["latest"]
        shown = (
            f"{latest[0]} {latest[1]:.4g}" + (f" @{latest[2]}" if latest[2] else "")
            if latest
            else ""
        )
        running.add_row("  running", run["stage"], run["label"], f"{run['seconds']:.0f} s", shown)
    more = len(status["running"]) - SHOWN_RUNNING
    if more > 0:
        running.add_row("", f"... {more} more")
    elapsed = f"{duration(status['elapsed_s'])} elapsed"
    return Group(table, running, Text(" | ".join([elapsed, *_totals(status)])))


def _totals(status: dict[str, Any]) -> list[str]:
    parts = [f"{status['trials_per_s']:.1f} trials/s"]
    if status["eta_s"]:
        parts.append(f"about {duration(status['eta_s'])} left")
    if status["best"]:
        found = status["best"]
        parts.append(f"best {found['name']} {found['value']:.4g} ({found['label']})")
    if status["message"]:
        parts.append(status["message"])
    return parts


def duration(seconds: float) -> str:
    """Write seconds for people: ``8 s``, ``3 min 20 s``, ``2 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
