"""A recorded search as Optuna's trials: what its importance and its export are made of."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna

from sensweep.orchestrator.axes import parse_axis
from sensweep.orchestrator.search_sampler import Space
from sensweep.orchestrator.search_spec import SearchSpec
from sensweep.results.searched import Searched, quantity_titles, read_searches
from sensweep.results.store import Home

_STATES = {
    "complete": optuna.trial.TrialState.COMPLETE,
    "pruned": optuna.trial.TrialState.PRUNED,
    "running": optuna.trial.TrialState.RUNNING,
}


@dataclass(frozen=True, slots=True)
class RecordedSearch:
    """One search of a sweep as the home has recorded it.

    Attributes:
        searched: its points, without proposals that were repeated and asked again.
        asks: the last line of each ask, by number, with those.
        spec: the study's search.
        space: the searched axes at the search's cell.
        violated: the titles of its constraints.
    """

    searched: Searched
    asks: list[Mapping[str, Any]]
    spec: SearchSpec
    space: Space
    violated: list[str]

    def trials(self) -> list[optuna.trial.FrozenTrial]:
        """Return an Optuna trial for each ask, so that the numbers of both agree."""
        return [self._trial(ask) for ask in self.asks]

    def _trial(self, ask: Mapping[str, Any]) -> optuna.trial.FrozenTrial:
        """Return an ask as a trial; without its times, which the caller may set.

        With several objectives Optuna has no place for values at a rung: they are an attribute.
        """
        attributes, labels = json.loads(ask["attributes"]), json.loads(ask["params"])
        values = json.loads(ask["values"])
        state = _STATES.get(ask["state"], optuna.trial.TrialState.FAIL)
        reports = attributes.get("reports", {})
        violations = attributes.get("violations", [])
        known = {
            "labels": labels,
            "trial_ids": json.loads(ask["trial_ids"]),
            "given": attributes.get("given", ""),
            "reason": "repeats a point under way" * (ask["state"] == "duplicate")
            or attributes.get("reason", ""),
            "values": dict(zip(self.searched.objectives, values, strict=False)),
            "reports": reports,
        }
        single = len(self.spec.objectives) == 1
        return optuna.trial.create_trial(
            state=state,
            params=attributes["suggested"],
            distributions=self.space.parameters(labels)[1],
            values=values if state == optuna.trial.TrialState.COMPLETE else None,
            user_attrs={key: value for key, value in known.items() if value},
            intermediate_values={int(r): v[0] for r, v in reports.items()} if single else None,
            constraints=dict(zip(self.violated, violations, strict=True)) if violations else None,
        )


def recorded_searches(home: Home, sweep: str) -> list[RecordedSearch]:
    """Read the searches of a sweep's present study; none of a study without a search.

    Raises:
        UnknownSweep: the home has no such sweep.
        StoreError: a file of the home is not what was committed.
    """
    study: Mapping[str, Any] = home.study(sweep)["study"]  # type: ignore[assignment]
    if not study.get("search"):
        return []
    planned = home.read("trials", [sweep], ["trial_id", "epoch", "point"]).to_pylist()
    epoch = home.manifest(sweep).epoch  # an edited study without its plan has no searches yet
    points = {t["trial_id"]: json.loads(t["point"]) for t in planned if t["epoch"] == epoch}
    return searches_of(study, home.read("asks", [sweep]).to_pylist(), points)


def searches_of(
    study: Mapping[str, Any],
    events: Iterable[Mapping[str, Any]],
    points: Mapping[str, Mapping[str, Any]],
) -> list[RecordedSearch]:
    """Put together the searches of a study.

    Args:
        study: as a home has it, with a `search`.
        events: lines of the table `asks`, of one sweep.
        points: the point (axis -> label) of each trial of the sweep's last plan.
    """
    last: dict[tuple[str, int], Mapping[str, Any]] = {}
    for event in sorted(events, key=lambda line: line["event"]):
        last[event["search"], event["number"]] = event
    spec = SearchSpec.model_validate(study["search"])
    axes = {name: parse_axis(plain) for name, plain in study["axes"].items()}
    violated = _distinct(quantity_titles(study["search"]["constraints"]))
    return [
        RecordedSearch(
            searched=searched,
            asks=[last[key] for key in sorted(last) if key[0] == searched.name],
            spec=spec,
            space=Space(axes, spec.axes, searched.cell),
            violated=violated,
        )
        for searched in read_searches(study, last.values(), points)[0]
    ]


def _distinct(titles: Sequence[str]) -> list[str]:
    """Number titles that are not: two constraints may bound one quantity."""
    return [f"{t} [{i}]" if titles.count(t) > 1 else t for i, t in enumerate(titles)]
