"""Selected and confirmed: what a search saw of its best point, and what fresh seeds say of it.

The best of many noisy points is partly the luckiest (the winner's curse), so what a search saw of
its winner is too good on average. The confirmation runs the winner, and what it is compared with,
on seeds that no search has seen.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sensweep.results.searched import Searched, Tried, label_text, quantity_titles
from sensweep.results.selector import Scalar
from sensweep.results.summary import mean_and_interval, quantities_of

if TYPE_CHECKING:
    import pandas as pd

CONFIRMED, BEST = "confirmed", "best"
_AGGREGATES: dict[str, Callable[[Any], Any]] = {
    "mean": np.mean,
    "median": np.median,
    "min": np.min,
    "max": np.max,
}


@dataclass(frozen=True, slots=True)
class Quantity:
    """One quantity of a search's winner and of the points that it is compared with.

    Attributes:
        title: its name, with its coordinates where it has several; of what only the confirmation
            measured with its stage.
        goal: minimize, maximize, the bounds of a constraint, or "" of what only the confirmation
            measured.
        selected: name of the point -> what the search saw, aggregated over its seeds as the study
            says; only of points that it tried and was told.
        fresh: name of the point -> seed -> value.
        kept: name of the point -> whether the mean over fresh seeds keeps the bounds; of a
            constraint whose bounds are known.
    """

    title: str
    goal: str
    selected: dict[str, float]
    fresh: dict[str, dict[int, float]]
    kept: dict[str, bool]

    def mean(self, name: str) -> float | None:
        """Return the mean over fresh seeds; None without any."""
        values = list(self.fresh.get(name, {}).values())
        return float(np.mean(values)) if values else None

    def differences(self, name: str) -> list[float]:
        """Return the winner's value minus that of the point, for each fresh seed of both."""
        of, than = self.fresh.get(BEST, {}), self.fresh.get(name, {})
        return [of[seed] - than[seed] for seed in sorted(of.keys() & than.keys())]

    def texts(self, name: str, seeds: int) -> tuple[str, str, str]:
        """Write selected value, confirmed mean and the winner's difference, with 95% intervals."""
        selected = self.selected.get(name)
        confirmed = [value for _, value in sorted(self.fresh.get(name, {}).items())]
        apart = self.differences(name) if name != BEST else []
        return (
            f"{selected:.4g}" if selected is not None else "",
            mean_and_interval(np.array(confirmed), seeds),
            mean_and_interval(np.array(apart), seeds),
        )

    def worse_than_selected(self) -> bool | None:
        """Whether fresh seeds say worse of the winner than the search did, if it is an objective.

        None where one of the two is not there.
        """
        confirmed, selected = self.mean(BEST), self.selected.get(BEST)
        if self.goal not in ("minimize", "maximize") or confirmed is None or selected is None:
            return None
        return bool(confirmed > selected if self.goal == "minimize" else confirmed < selected)


@dataclass(frozen=True, slots=True)
class Confirmation:
    """The confirmation of one search.

    Attributes:
        title: the search's cell.
        points: name -> labels: the winner (`best`) if there is one, then the study's `compare`.
        number: of the winner among the search's points, or None.
        seeds: how many fresh seeds the study asks for.
        quantities: objectives, constraints, and what only the confirmation measured.
        left_out: measurements with too many coordinates for a table.
    """

    title: str
    points: dict[str, dict[str, Scalar]]
    number: int | None
    seeds: int
    quantities: list[Quantity]
    left_out: list[str]

    @property
    def run(self) -> bool:
        """Whether anything of it has been measured."""
        return any(values for one in self.quantities for values in one.fresh.values())


def confirmation(
    searched: Searched,
    study: Mapping[str, Any],
    rows: pd.DataFrame,
    points: Mapping[str, Mapping[str, Scalar]],
) -> Confirmation:
    """Put what a search saw of its winner beside what fresh seeds say of it.

    Args:
        searched: the search.
        study: as the home has it, with a `search` that has a `confirm`.
        rows: the columns of the `rows` view, of one sweep.
        points: the point (axis -> label) of each cell.
    """
    search = study["search"]
    confirm = search["confirm"]
    best = searched.best
    named: dict[str, dict[str, Scalar]] = {BEST: best.labels} if best is not None else {}
    named |= {name: dict(labels) for name, labels in confirm["compare"].items()}
    fresh = {
        name: rows[rows["cell"].isin(_cells(points, searched, name, labels, search["axes"]))]
        for name, labels in named.items()
    }
    tried = {name: searched.at(labels) for name, labels in named.items()}
    objectives, constraints = search["objectives"], search["constraints"]
    titles = quantity_titles([*objectives, *constraints])
    quantities = []
    for i, objective in enumerate(objectives):
        values = {name: by_seed(some, objective, points) for name, some in fresh.items()}
        selected = {name: point.values[i] for name, point in tried.items() if point is not None}
        quantities.append(Quantity(titles[i], objective["direction"], selected, values, {}))
    for title, constraint in zip(titles[len(objectives) :], constraints, strict=True):
        values = {name: by_seed(some, constraint, points) for name, some in fresh.items()}
        selected = _seen(rows, constraint, tried, points)
        kept = _kept(constraint, named, values)
        quantities.append(Quantity(title, _bounds(constraint), selected, values, kept))
    later, left_out = _only_confirmed(fresh, confirm["stages"])
    seeds = confirm["seeds"]
    return Confirmation(
        title=searched.title,
        points=named,
        number=best.number if best is not None else None,
        seeds=seeds if isinstance(seeds, int) else len(seeds),
        quantities=quantities + later,
        left_out=left_out,
    )


def by_seed(
    rows: pd.DataFrame,
    quantity: Mapping[str, Any],
    points: Mapping[str, Mapping[str, Scalar]],
) -> dict[int, float]:
    """Return a quantity of a search for each seed, as the search itself computes it.

    Of each trial's rows that match name, stage, and `where` (coordinates, or labels of its
    point), those of the last step count; the values of a seed are put together by `over`.

    Args:
        rows: the columns of the `rows` view.
        quantity: stage, name, where, over: as the study has them.
        points: the point (axis -> label) of each cell.
    """
    found = rows[(rows["stage"] == quantity["stage"]) & (rows["name"] == quantity["name"])]
    if quantity.get("where"):
        kinds = {key for key, _ in found.groupby(["cell", "coordinates"])}
        admitted = {
            (cell, text)
            for cell, text in kinds
            if _at(quantity["where"], {**points[cell], **json.loads(text)})
        }
        pairs = zip(found["cell"], found["coordinates"], strict=True)
        found = found[[pair in admitted for pair in pairs]]
    if found.empty:
        return {}
    last = found.groupby("trial_id")["step"].transform("max")
    found = found[last.isna() | (found["step"] == last)]
    aggregate = _AGGREGATES[quantity.get("over", "mean")]
    seeds = found.groupby("seed")["value"]
    return {int(seed): float(aggregate(values.to_numpy())) for seed, values in seeds}


def _at(where: Mapping[str, Any], place: Mapping[str, Any]) -> bool:
    return all(
        key in place and place[key] in (wanted if isinstance(wanted, list) else [wanted])
        for key, wanted in where.items()
    )


def _cells(
    points: Mapping[str, Mapping[str, Scalar]],
    searched: Searched,
    name: str,
    labels: Mapping[str, Scalar],
    axes: Sequence[str],
) -> list[str]:
    """List the cells of a point's confirmation within this search.

    A stage's point has the axes that the stage depends on, so not all of a search's.
    """
    wanted = {**searched.cell, **labels}
    known = {*searched.cell, *axes}
    return [
        cell
        for cell, point in points.items()
        if point.get(CONFIRMED) == name
        and all(
            wanted[axis] == label if axis in wanted else axis not in known
            for axis, label in point.items()
            if axis != CONFIRMED
        )
    ]


def _seen(
    rows: pd.DataFrame,
    quantity: Mapping[str, Any],
    tried: Mapping[str, Tried | None],
    points: Mapping[str, Mapping[str, Scalar]],
) -> dict[str, float]:
    """Return what the search saw of a constraint's quantity at each point that it tried."""
    seen = {}
    for name, point in tried.items():
        if point is not None:
            values = by_seed(rows[rows["trial_id"].isin(point.trial_ids)], quantity, points)
            if values:
                how = _AGGREGATES[quantity.get("over_seeds", "mean")]
                seen[name] = float(how(list(values.values())))
    return seen


def _bounds(constraint: Mapping[str, Any]) -> str:
    """Write a constraint's bounds: `at least −0.01, less that of strength 0`."""
    words = {"at_least": "at least", "at_most": "at most"}
    said = " and ".join(
        f"{text} {constraint[key]:g}".replace("-", "−")
        for key, text in words.items()
        if constraint[key] is not None
    )
    if constraint["relative_to"] is None:
        return said
    return f"{said}, after that of {label_text(constraint['relative_to'])} is taken off"


def _kept(
    constraint: Mapping[str, Any],
    named: Mapping[str, Mapping[str, Scalar]],
    values: Mapping[str, Mapping[int, float]],
) -> dict[str, bool]:
    """Say of each point whether its mean over fresh seeds keeps the bounds.

    Bounds relative to a point that was not confirmed are not known.
    """
    means = {name: float(np.mean(list(some.values()))) for name, some in values.items() if some}
    baseline = 0.0
    if constraint["relative_to"] is not None:
        there = [n for n, labels in named.items() if labels == constraint["relative_to"]]
        known = [means[name] for name in there if name in means]
        if not known:
            return {}
        baseline = known[0]
    low, high = (constraint[key] for key in ("at_least", "at_most"))
    return {
        name: bool(
            (low is None or mean - baseline >= low) and (high is None or mean - baseline <= high)
        )
        for name, mean in means.items()
    }


def _only_confirmed(
    fresh: Mapping[str, pd.DataFrame], stages: Sequence[str]
) -> tuple[list[Quantity], list[str]]:
    """Gather what the stages measured that only the confirmation runs."""
    import pandas as pd

    found: list[Quantity] = []
    left_out: list[str] = []
    for stage in stages:
        of_stage = {name: some[some["stage"] == stage] for name, some in fresh.items()}
        every = pd.concat(of_stage.values())
        if every.empty:
            continue
        # A stage may have axes of its own, and then several models for each point of the search.
        models = max(some["cell"].nunique() for some in of_stage.values())
        over = f", mean over {models} models" if models > 1 else ""
        columns, more = quantities_of(every)
        left_out += more
        for (name, coordinates), (title, at) in columns:
            quantity = {"stage": stage, "name": name}
            values = {
                point: by_seed(some[some["coordinates"] == coordinates], quantity, {})
                for point, some in of_stage.items()
            }
            text = f"{stage}: {title}, {at}" if at else f"{stage}: {title}"
            found.append(Quantity(text + over, "", {}, values, {}))
    return found, left_out
