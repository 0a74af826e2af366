"""Several objectives at once: fronts of dominance, hypervolume, the knee of a front.

Values are arrays [points, objectives], all to be minimised; `minimised` turns the others around.
"""

from __future__ import annotations

from collections.abc import Sequence

import moocore
import numpy as np
from numpy.typing import ArrayLike, NDArray

Values = NDArray[np.float64]


def minimised(values: ArrayLike, directions: Sequence[str]) -> Values:
    """Negate the columns of `values` [points, objectives] whose direction is `maximize`."""
    signs = np.array([-1.0 if direction == "maximize" else 1.0 for direction in directions])
    return np.asarray(values, float).reshape(-1, len(directions)) * signs


def front(values: Values) -> list[int]:
    """Return the indices of the points that no other dominates, equal ones all, in their order."""
    if len(values) == 0:
        return []
    return np.flatnonzero(moocore.is_nondominated(values, keep_weakly=True)).tolist()


def reference(values: Values) -> Values:
    """Return a reference point for the hypervolume: a tenth of the range beyond the worst."""
    worst, best = values.max(axis=0), values.min(axis=0)
    spread = np.where(worst > best, worst - best, np.maximum(np.abs(worst), 1.0))
    return np.asarray(worst + 0.1 * spread)


def hypervolume(values: Values, ref: Values) -> float:
    """Return the volume that the points dominate below `ref`; 0 without points."""
    return float(moocore.hypervolume(values, ref=ref)) if len(values) else 0.0


def order(values: Values) -> list[int]:
    """Rank the points, the best first.

    By the number of their front of dominance (Deb et al., 2002), and within a front by the
    hypervolume that would be lost without the point (Emmerich et al., 2005). One objective is
    simply sorted.
    """
    if values.shape[1] == 1:
        return np.argsort(values[:, 0], kind="stable").tolist()
    ranks = np.asarray(moocore.pareto_rank(values))
    ref, ranked = reference(values), list[int]()
    for rank in np.unique(ranks):
        members = np.flatnonzero(ranks == rank)
        lost = np.asarray(moocore.hv_contributions(values[members], ref=ref))
        ranked += members[np.argsort(-lost, kind="stable")].tolist()
    return ranked


def knee(values: Values) -> int:
    """Return the index of the best compromise; 0 for a single point.

    It is the point of the front nearest to the ideal (the best of each objective), after each
    objective was scaled to [0, 1] over the front.
    """
    members = front(values)
    found = values[members]
    spread = found.max(axis=0) - found.min(axis=0)
    scaled = (found - found.min(axis=0)) / np.where(spread > 0, spread, 1.0)
    return members[int(np.argmin(np.linalg.norm(scaled, axis=1)))]
