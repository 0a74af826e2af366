"""How much each searched axis mattered: Optuna's PED-ANOVA over the points that are complete.

PED-ANOVA (Watanabe et al., IJCAI 2023) compares where the best tenth of the points lie with where
all of them do. An axis that does not apply at every point is handled by its conditional form
(condPED-ANOVA, 2026), so that no axis must be shared by all points; one with several blocks (a
range for each intervention) has a line for each, for their labels are not comparable.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import optuna

from sensweep.orchestrator.search_sampler import quiet
from sensweep.orchestrator.search_trials import RecordedSearch
from sensweep.results.searched import label_text

Direction = Literal["minimize", "maximize"]

LEAST_POINTS = 10  # fewer have no best tenth of two points
FRONT = "the front"


def importances(searches: Iterable[RecordedSearch]) -> list[dict[str, Any]]:
    """Evaluate the importance of the searched axes for each objective of each search.

    Args:
        searches: those of one study. Points that are stopped or failed do not count; infeasible
            ones do, for their values are known.

    Returns:
        mappings with `search`, `objective` (with several objectives also `the front`: reaching it
        without a preference), `axis`, `where` (the condition of the axis's block, where it has
        several), and `importance`, a share: those of one search and objective sum to 1. A search
        of fewer than `LEAST_POINTS` complete points has none, nor has an objective that is the
        same for all of them.
    """
    found = []
    for search in searches:
        complete = [t for t in search.trials() if t.state == optuna.trial.TrialState.COMPLETE]
        if len(complete) < LEAST_POINTS:
            continue
        directions = search.searched.directions
        wanted: list[tuple[str, list[int]]] = [
            (title, [i]) for i, title in enumerate(search.searched.objectives)
        ]
        if len(directions) > 1:
            wanted.append((FRONT, list(range(len(directions)))))
        for objective, columns in wanted:
            shares = _shares(complete, columns, directions)
            for parameter, share in shares.items():
                axis, where = _block(search, parameter)
                found.append(
                    {
                        "search": search.searched.name,
                        "objective": objective,
                        "axis": axis,
                        "where": where,
                        "importance": share,
                    }
                )
    return found


def _shares(
    complete: Sequence[optuna.trial.FrozenTrial],
    columns: Sequence[int],
    directions: Sequence[Direction],
) -> dict[str, float]:
    """Return the importance of each parameter for the objectives of these columns, by name.

    None where the best tenth is no other than all points: then nothing mattered.
    """
    with quiet():
        study = optuna.create_study(directions=[directions[i] for i in columns])
        for trial in complete:
            study.add_trial(
                optuna.trial.create_trial(
                    params=trial.params,
                    distributions=trial.distributions,
                    values=[trial.values[i] for i in columns],
                    constraints=trial.constraints,
                )
            )
        found = optuna.importance.get_param_importances(
            study, evaluator=optuna.importance.PedAnovaImportanceEvaluator(), normalize=False
        )
    total = sum(found.values())
    return {name: float(found[name] / total) for name in sorted(found)} if total > 0 else {}


def _block(search: RecordedSearch, parameter: str) -> tuple[str, str]:
    """Return the axis of an Optuna parameter, and the condition of its block if there are more."""
    for name, axis in search.space.axes.items():
        for i, block in enumerate(axis.blocks):
            if len(axis.blocks) > 1 and parameter == f"{name}[{i}]":
                when: Mapping[str, Any] = {
                    on: " or ".join(map(str, labels)) for on, labels in block.when.items()
                }
                return name, label_text(when)
    return parameter, ""
