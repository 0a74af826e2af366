"""A point that a search asked for, and what became of it: a line of the table `asks`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from sensweep.orchestrator.axes import Point
from sensweep.results import pareto

# What a point's line in the table `asks` says of it. `duplicate` was asked again.
Told = Literal["complete", "pruned", "failed"]
State = Told | Literal["running", "duplicate"]
TOLD: tuple[Told, ...] = get_args(Told)


@dataclass(slots=True)
class Proposal:
    """A point of a search, and what became of it.

    Attributes:
        number: of the ask, from 0.
        labels: axis -> label.
        suggested: Optuna's own parameters, unrounded.
        given: why it was not Optuna's choice: enqueued, or taken over from the home (`warm`).
        values: one per objective, once it is told.
        violations: per constraint; more than 0 is a broken one.
        reports: rung -> values, where the search stops points early.
        trial_ids: of the trials that answer it.
        reason: of a failure, in one line.
        optuna: what Optuna noted of it (generations, completed rungs), pickles aside.
    """

    number: int
    labels: Point
    suggested: dict[str, Any]
    given: Literal["", "enqueued", "warm"] = ""
    state: State = "running"
    values: list[float] = field(default_factory=list)
    violations: list[float] = field(default_factory=list)
    reports: dict[int, list[float]] = field(default_factory=dict)
    trial_ids: list[str] = field(default_factory=list)
    reason: str = ""
    optuna: dict[str, Any] = field(default_factory=dict)

    @property
    def feasible(self) -> bool:
        """Whether it was told and breaks no constraint."""
        return self.state == "complete" and all(v <= 0 for v in self.violations)


def best(points: Sequence[Proposal], directions: Sequence[str]) -> Proposal | None:
    """Return the best feasible point, or of several objectives the knee of the front."""
    feasible = [point for point in points if point.feasible]
    if not feasible:
        return None
    values = pareto.minimised([point.values for point in feasible], directions)
    return feasible[pareto.knee(values)]


def read_event(event: Mapping[str, Any]) -> Proposal:
    """Read a line of the table `asks`."""
    attributes = json.loads(event["attributes"])
    return Proposal(
        number=int(event["number"]),
        labels=json.loads(event["params"]),
        suggested=attributes["suggested"],
        given=attributes.get("given", ""),
        state=event["state"],
        values=json.loads(event["values"]),
        violations=attributes.get("violations", []),
        reports={int(rung): values for rung, values in attributes.get("reports", {}).items()},
        trial_ids=json.loads(event["trial_ids"]),
        reason=attributes.get("reason", ""),
        optuna=attributes.get("optuna", {}),
    )
