"""Writing a sweep's report: what of it needs Optuna is worked out here and handed over as data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sensweep.results.store import Home


def report_sweep(home: Home, sweep: str) -> Path:
    """Write the report of a sweep, and return the path of its page.

    Raises:
        UnknownSweep: the home has no such sweep.
        StoreError: a file of the home is not what was committed.
    """
    from sensweep.results.report import write_report

    if not home.study(sweep)["study"].get("search"):  # type: ignore[attr-defined]
        return write_report(home, sweep)
    from sensweep.orchestrator.search_importance import importances  # and Optuna with it
    from sensweep.orchestrator.search_trials import recorded_searches

    return write_report(home, sweep, importances(recorded_searches(home, sweep)))
