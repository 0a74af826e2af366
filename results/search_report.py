"""What the report tells of a sweep's searches, as the variables of its template `search.html`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sensweep.results.search_confirmed import BEST, Confirmation, confirmation
from sensweep.results.search_figures import search_figures
from sensweep.results.searched import OUTCOMES, Searched, Tried, label_text, read_searches
from sensweep.results.selector import Scalar

if TYPE_CHECKING:
    import pandas as pd

    from sensweep.results.search_figures import SearchFigure


def search_contents(
    study: Mapping[str, Any],
    asks: Sequence[Mapping[str, Any]],
    rows: pd.DataFrame,
    trial_points: Mapping[str, Mapping[str, Scalar]],
    cell_points: Mapping[str, Mapping[str, Scalar]],
    importance: Sequence[Mapping[str, Any]],
) -> dict[str, Any] | None:
    """Gather what the page tells of the searches; None for a sweep without any.

    Args:
        study: as the home has it.
        asks: lines of the view `asks`, of this sweep.
        rows: the columns of the `rows` view, of this sweep.
        trial_points, cell_points: the point (axis -> label) of each trial of the last plan, and
            of each of its cells.
        importance: lines of `sensweep.orchestrator.search_importance`; none without that.
    """
    if not study.get("search"):
        return None
    found, earlier = read_searches(study, asks, trial_points)
    if not found:
        return None
    confirmed = {}
    if study["search"]["confirm"] is not None:
        confirmed = {s.name: confirmation(s, study, rows, cell_points) for s in found}
    run = {name: one for name, one in confirmed.items() if one.run}
    return {
        "sampler": study["search"]["sampler"]["name"],
        "objectives": list(zip(found[0].objectives, found[0].directions, strict=True)),
        "outcomes": OUTCOMES,
        "lines": [_line(searched, study["search"]["trials"]) for searched in found],
        "earlier": earlier,
        "confirmations": [_confirmation(one) for one in confirmed.values()],
        "curse": winners_curse(list(run.values())),
        "importance": _importance(found, importance),
        "figures": list(search_figures(found, run, importance, study["axes"])),
    }


def winners_curse(confirmed: Sequence[Confirmation]) -> str:
    """Say how often fresh seeds say worse of a winner than its search did; "" without any."""
    said = [
        worse
        for one in confirmed
        for quantity in one.quantities
        if (worse := quantity.worse_than_selected()) is not None
    ]
    if not said:
        return ""
    return (
        f"Of {len(said)} objective value{'s' if len(said) > 1 else ''} of the best points, fresh "
        f"seeds say worse than the search did of {sum(said)}."
    )


def _line(searched: Searched, wanted: int) -> dict[str, Any]:
    """Sum up a search: its counts, its best point, and all its points."""
    best = searched.best
    front = {point.number for point in searched.front} if len(searched.directions) > 1 else set()
    return {
        "title": searched.title or "all",
        "asked": sum(point.given != "warm" for point in searched.tried),
        "wanted": wanted,
        "warm": sum(point.given == "warm" for point in searched.tried),
        "repeated": searched.repeated,
        "counts": searched.counts,
        "front": len(front),
        "best": f"point {best.number}: {label_text(best.labels)}" if best is not None else "",
        "values": [f"{value:.4g}" for value in best.values] if best is not None else [],
        "points": [_point(point, point is best, point.number in front) for point in searched.tried],
    }


def _point(point: Tried, best: bool, front: bool) -> dict[str, Any]:
    said = [point.outcome, *(["on the front"] if front else []), *(["best"] if best else [])]
    return {
        "number": point.number,
        "labels": label_text(point.labels),
        "what": ", ".join([*said, *([point.given] if point.given else [])]),
        "values": [f"{value:.4g}" for value in point.values],
        "violations": ", ".join(f"{value:.3g}" for value in point.violations if value > 0),
        "reason": point.reason,
    }


def _confirmation(one: Confirmation) -> dict[str, Any]:
    names = list(one.points)
    twins = [name for name in names if name != BEST and one.points[name] == one.points.get(BEST)]
    return {
        "title": one.title,
        "points": [
            (name, label_text(labels) + " (the best point itself)" * (name in twins))
            for name, labels in one.points.items()
        ],
        "names": names,
        "has_best": BEST in names,
        "number": one.number,
        "seeds": one.seeds,
        "run": one.run,
        "left_out": one.left_out,
        "quantities": [
            {
                "title": quantity.title.replace("_", " "),
                "goal": quantity.goal,
                "kept": quantity.kept,
                "texts": {name: quantity.texts(name, one.seeds) for name in names},
            }
            for quantity in one.quantities
        ],
    }


def _importance(
    found: Sequence[Searched], importance: Sequence[Mapping[str, Any]]
) -> list[tuple[str, str, str, str, str]]:
    """List importance as texts: search, objective, axis, where, share."""
    titles = {searched.name: searched.title or "all" for searched in found}
    return [
        (
            titles[line["search"]],
            line["objective"],
            line["axis"],
            line["where"],
            f"{line['importance']:.2f}",
        )
        for line in importance
        if line["search"] in titles
    ]


def save(figure: SearchFigure, folder: Path) -> Path:
    """Draw a figure as FOLDER/NAME.png; the same searches give the same bytes.

    Raises:
        ValueError: it has more panels than can be read.
    """
    import matplotlib as mpl

    from sensweep.results import drawing

    path = folder / f"{figure.name}.png"
    with mpl.rc_context(drawing.STYLE):
        figure.make().savefig(path, metadata={"Software": None})
    return path
