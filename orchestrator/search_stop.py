"""Successive halving for any number of objectives: who is not among the best of a rung is stopped.

Optuna's pruners judge one objective, and refuse several. This rule ranks whole vectors: by fronts
of dominance, and within a front by the contribution to its hypervolume (`results/pareto.py`). It
is asynchronous, as ASHA is (Li et al., MLSys 2020): a point is judged against those that came as
far before it, and nobody waits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from sensweep.orchestrator.errors import FieldError, suggest
from sensweep.orchestrator.search_spec import Stop
from sensweep.results import pareto

DEFAULTS = {"eta": 2, "startup": 4, "first": 1}


class Halving:
    """Judges points at rungs `first`, `first * eta`, `first * eta**2`, ...

    Raises:
        FieldError: an option that is not one of `DEFAULTS`, or is no whole number in its range.
    """

    def __init__(self, stop: Stop | None, directions: Sequence[str]) -> None:
        options = dict(DEFAULTS) | (stop.options if stop is not None else {})
        for name, value in options.items():
            if name not in DEFAULTS:
                raise FieldError(
                    f"unknown option{suggest(name, DEFAULTS)}", "stop", "options", name
                )
            least = 2 if name == "eta" else 1
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise FieldError(
                    f"{value!r} is no whole number of at least {least}", "stop", "options", name
                )
        self._eta, self._startup, self._first = (options[n] for n in ("eta", "startup", "first"))
        self._directions = directions
        self._rungs: dict[int, dict[int, list[float]]] = {}

    def report(self, number: int, rung: int, values: list[float]) -> bool:
        """Take a point's values at a rung; answer whether it is to be stopped there."""
        if not self._judges(rung):
            return False
        if not all(map(math.isfinite, values)):
            return True
        there = self._rungs.setdefault(rung, {})
        there[number] = values
        if len(there) < self._startup:
            return False
        numbers = list(there)
        ranked = pareto.order(pareto.minimised([there[n] for n in numbers], self._directions))
        kept = max(1, len(numbers) // self._eta)
        return number not in {numbers[i] for i in ranked[:kept]}

    def _judges(self, rung: int) -> bool:
        level = rung / self._first
        return level >= 1 and math.isclose(
            level, self._eta ** round(math.log(level, self._eta)), rel_tol=1e-9
        )
