"""What a home has of each search of a sweep: the points that it tried, its front, its history.

    found, earlier = read_searches(study, asks, points)
    found[0].best, found[0].front(), found[0].history()

Pure functions from lines of the view `asks`; nothing here knows of Optuna.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from sensweep.results import pareto
from sensweep.results.schema import canonical_json
from sensweep.results.selector import Scalar

Outcome = Literal["feasible", "infeasible", "stopped early", "failed", "running"]
OUTCOMES: tuple[Outcome, ...] = ("feasible", "infeasible", "stopped early", "failed", "running")


@dataclass(frozen=True, slots=True)
class Tried:
    """A point that a search tried.

    Attributes:
        number: of the ask, from 0.
        event: position of its last line among the lines of the search.
        labels: of the searched axes; one that does not apply at the point is absent.
        outcome: one of `OUTCOMES`; only a feasible point can be on the front.
        given: why it was not the sampler's choice: enqueued, warm (taken over from the home), "".
        values: one per objective, aggregated over seeds. Of a point that was stopped early they
            are what it had when it was stopped; none of a failed one.
        violations: by how much it breaks each constraint; more than 0 is broken.
        reason: of a failure, in one line.
        trial_ids: of the trials that answer it.
    """

    number: int
    event: int
    labels: dict[str, Scalar]
    outcome: Outcome
    given: str
    values: tuple[float, ...]
    violations: tuple[float, ...]
    reason: str
    trial_ids: tuple[str, ...]


@dataclass(frozen=True)
class Searched:
    """One search: that of one point of the grid of the axes that are not searched.

    Attributes:
        name: as in the table `asks`.
        title: its cell, as people say it; "" where the study has one search.
        cell: axis -> label of the axes that are not searched.
        tried: its points by number; proposals that repeated one under way are not among them.
        repeated: how many those were.
        objectives: their titles.
        directions: minimize or maximize, for each objective.
    """

    name: str
    title: str
    cell: dict[str, Scalar]
    tried: tuple[Tried, ...]
    repeated: int
    objectives: tuple[str, ...]
    directions: tuple[Literal["minimize", "maximize"], ...]

    @cached_property
    def counts(self) -> Counter[str]:
        """Points by outcome."""
        return Counter(point.outcome for point in self.tried)

    @cached_property
    def feasible(self) -> list[Tried]:
        """The points that were told every objective and break no constraint, by number."""
        return [point for point in self.tried if point.outcome == "feasible"]

    @cached_property
    def best(self) -> Tried | None:
        """The best feasible point; with several objectives the knee of the front."""
        return self.feasible[pareto.knee(self._minimised)] if self.feasible else None

    @cached_property
    def front(self) -> list[Tried]:
        """The feasible points that no other dominates, by their first objective."""
        members = [self.feasible[i] for i in pareto.front(self._minimised)]
        return sorted(members, key=lambda point: (point.values, point.number))

    @cached_property
    def reference(self) -> tuple[float, ...]:
        """The point to which all hypervolumes of this search reach, in the objectives' own signs.

        A tenth of the range of the feasible points beyond the worst of them; () without any.
        """
        if not self.feasible:
            return ()
        return tuple(pareto.minimised([pareto.reference(self._minimised)], self.directions)[0])

    def history(self) -> list[tuple[int, float]]:
        """List how good the search was after each point that it was told.

        Returns:
            (points told, number): of one objective the best feasible value, of several the
            hypervolume of the feasible points up to `reference`; it never becomes worse. Points
            told before the first feasible one have no entry.
        """
        told = sorted((p for p in self.tried if p.outcome != "running"), key=lambda p: p.event)
        single = len(self.directions) == 1
        front = np.empty((0, len(self.directions)))
        said: list[tuple[int, float]] = []
        for count, point in enumerate(told, start=1):
            if point.outcome == "feasible":
                value = pareto.minimised([point.values], self.directions)
                # Only a point that no member dominates changes the front, and its hypervolume.
                if not (front <= value).all(axis=1).any():
                    front = np.vstack([front[~(value <= front).all(axis=1)], value])
                    good = self._quality(front, single)
            if len(front):
                said.append((count, good))
        return said

    def at(self, labels: Mapping[str, Scalar]) -> Tried | None:
        """Return the feasible or infeasible point with these labels, if one was tried."""
        return next(
            (p for p in self.tried if p.labels == labels and p.outcome in OUTCOMES[:2]), None
        )

    @cached_property
    def _minimised(self) -> pareto.Values:
        return pareto.minimised([point.values for point in self.feasible], self.directions)

    def _quality(self, front: pareto.Values, single: bool) -> float:
        if single:
            return float(pareto.minimised(front, self.directions)[0, 0])
        return pareto.hypervolume(front, pareto.minimised([self.reference], self.directions)[0])


def read_searches(
    study: Mapping[str, Any],
    asks: Iterable[Mapping[str, Any]],
    points: Mapping[str, Mapping[str, Scalar]],
) -> tuple[list[Searched], list[str]]:
    """Read the searches of a sweep's present study.

    An edit of the space or the objectives begins another search of the same cell, so a sweep may
    have asks of several; the one counts whose trials are in the last plan.

    Args:
        study: as the home has it (`Home.study(sweep)["study"]`), with a `search`.
        asks: lines of the view `asks`, of one sweep.
        points: the point (axis -> label) of each trial of the last plan.

    Returns:
        the searches, ordered by their cells; the names of those that are of earlier studies.
    """
    search = study["search"]
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    for ask in asks:
        by_name.setdefault(ask["search"], []).append(ask)
    shares: dict[str, list[tuple[float, int, str]]] = {}
    for name, some in by_name.items():
        trials = [trial for ask in some for trial in json.loads(ask["trial_ids"])]
        share = sum(trial in points for trial in trials) / max(len(trials), 1)
        shares.setdefault(name.rpartition("#")[0], []).append((share, len(some), name))
    present = {max(some)[2] for some in shares.values() if max(some)[0] > 0}
    # While a driver begins with an edited study, its plan is not there yet.
    present = {name for name in present if all(_fits(ask, search) for ask in by_name[name])}
    titles = tuple(quantity_titles(search["objectives"]))
    directions = tuple(objective["direction"] for objective in search["objectives"])
    found = []
    for name in sorted(present):
        tried = [_tried(ask) for ask in by_name[name] if ask["state"] != "duplicate"]
        cell = _cell(name, [points[t] for p in tried for t in p.trial_ids if t in points])
        found.append(
            Searched(
                name=name,
                title=label_text(cell),
                cell=cell,
                tried=tuple(sorted(tried, key=lambda point: point.number)),
                repeated=len(by_name[name]) - len(tried),
                objectives=titles,
                directions=directions,
            )
        )
    return found, sorted(set(by_name) - present)


def quantity_titles(quantities: Sequence[Mapping[str, Any]]) -> list[str]:
    """Name quantities of a search as briefly as tells them apart.

    A name that is used for several things gets its stage, its coordinates and its aggregations.
    """
    known: dict[str, set[tuple[str, str, str, str]]] = {}
    for quantity in quantities:
        known.setdefault(quantity["name"], set()).add(_identity(quantity))
    titles = []
    for quantity in quantities:
        title = quantity["name"]
        if len(known[title]) > 1:
            stage, _, over, over_seeds = _identity(quantity)
            at = [f"{key} {_joined(wanted)}" for key, wanted in quantity.get("where", {}).items()]
            how = [] if over == over_seeds == "mean" else [f"{over_seeds} over seeds of {over}"]
            title = f"{title} ({', '.join([stage, *at, *how])})"
        titles.append(title)
    return titles


def _identity(quantity: Mapping[str, Any]) -> tuple[str, str, str, str]:
    where = canonical_json(quantity.get("where", {}))
    return (
        quantity["stage"],
        where,
        quantity.get("over", "mean"),
        quantity.get("over_seeds", "mean"),
    )


def label_text(labels: Mapping[str, Scalar]) -> str:
    """Write labels as people say them: `arch vit, strength 0.1`."""
    return ", ".join(f"{axis} {label}" for axis, label in labels.items())


def _joined(wanted: object) -> str:
    return " or ".join(map(str, wanted)) if isinstance(wanted, list | tuple) else str(wanted)


def _tried(ask: Mapping[str, Any]) -> Tried:
    attributes = json.loads(ask["attributes"])
    violations = tuple(attributes.get("violations", ()))
    outcome: Outcome
    if ask["state"] == "complete":
        outcome = "feasible" if all(v <= 0 for v in violations) else "infeasible"
    else:
        outcome = {"pruned": "stopped early", "failed": "failed"}.get(ask["state"], "running")  # type: ignore[assignment]
    return Tried(
        number=int(ask["number"]),
        event=int(ask["event"]),
        labels=json.loads(ask["params"]),
        outcome=outcome,
        given=attributes.get("given", ""),
        values=tuple(json.loads(ask["values"])),
        violations=violations,
        reason=attributes.get("reason", ""),
        trial_ids=tuple(json.loads(ask["trial_ids"])),
    )


def _fits(ask: Mapping[str, Any], search: Mapping[str, Any]) -> bool:
    """Whether an ask can be one of this search."""
    known = set(json.loads(ask["params"])) <= set(search["axes"])
    return known and len(json.loads(ask["values"])) in (0, len(search["objectives"]))


def _cell(name: str, points: Iterable[Mapping[str, Scalar]]) -> dict[str, Scalar]:
    """Return the labels that a search's name speaks of, as its trials have them.

    The name is `axis=label,axis=label#digest`; the labels of its trials tell numbers from text.
    """
    said = f",{name.rpartition('#')[0]},"
    known = {(axis, label) for point in points for axis, label in point.items()}
    return {axis: label for axis, label in sorted(known, key=str) if f",{axis}={label}," in said}
