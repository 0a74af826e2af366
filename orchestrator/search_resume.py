"""The searches of a study as its home has recorded them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from sensweep.orchestrator.chain import ChainPlanner
from sensweep.orchestrator.errors import FieldError, InputError, joined
from sensweep.orchestrator.search import ReplayError
from sensweep.orchestrator.search_spec import CONFIRMED
from sensweep.orchestrator.search_values import Row
from sensweep.orchestrator.searches import Searches
from sensweep.orchestrator.study import Study
from sensweep.results.queries import measured_by_trial
from sensweep.results.store import Home


def continued(study: Study, home: Home) -> Searches:
    """Continue the searches of a study from what its sweep has committed; begin those it has not.

    Raises:
        InputError: the study's search cannot be run, or Optuna does not repeat what is recorded.
    """
    assert study.search is not None
    known = _Known(study, home)
    recorded: list[dict[str, Any]] = []
    if study.sweep in home.sweeps():
        recorded = home.read("asks", [study.sweep]).sort_by("event").to_pylist()
    warm: list[dict[str, Any]] = []
    if study.search.warm_start:
        points = dict.fromkeys(home.read("trials", columns=["point"])["point"].to_pylist())
        warm = [point for text in points if CONFIRMED not in (point := json.loads(text))]
    try:
        planner = ChainPlanner(study)
        return Searches(planner, study.axes, recorded, known.rows, warm)
    except FieldError as error:
        path = joined(("search", *error.path))
        raise InputError(f"{study.source}: {path}: {error.message}") from None
    except ReplayError as error:
        raise InputError(str(error)) from None


class _Known:
    """The rows of trials that the home has, of the names that a search looks at."""

    def __init__(self, study: Study, home: Home) -> None:
        assert study.search is not None
        self._home = home
        self._names = {q.name for q in study.search.quantities()} | {"diverged"}

    @cached_property
    def _rows(self) -> dict[str, list[Row]]:
        return measured_by_trial(self._home, self._names)

    def rows(self, trial_id: str) -> Sequence[Row] | None:
        """Return the rows of a trial that is done; None for any other."""
        return self._rows.get(trial_id)
