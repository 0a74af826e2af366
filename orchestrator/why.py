"""Why a trial is to be run: the field or file that sets it apart from the nearest recorded one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sensweep.orchestrator.errors import shown
from sensweep.orchestrator.plan import Plan
from sensweep.orchestrator.recorded import Recorded, RecordedTrial
from sensweep.orchestrator.trial import Trial, comparable


@dataclass(frozen=True, slots=True)
class Reason:
    """Why some trials of one stage are to be run.

    Attributes:
        stage: the stage.
        text: one line, such as ``params.lr 0.001 -> 0.002``.
        trials: indices into the plan.
    """

    stage: str
    text: str
    trials: tuple[int, ...]


def why(plan: Plan, recorded: Recorded) -> list[Reason]:
    """Explain each trial that is to be run; those of one stage and reason come together."""
    search = _Search(plan, recorded)
    groups: dict[tuple[str, str], list[int]] = {}
    for i in plan.to_run:
        groups.setdefault((plan.trials[i].stage, search.reason(i)), []).append(i)
    return [
        Reason(stage, search.with_parent(text, trials), tuple(trials))
        for (stage, text), trials in groups.items()
    ]


class _Search:
    """Finds the nearest recorded trial: same stage, point and seed; else same stage and point."""

    def __init__(self, plan: Plan, recorded: Recorded) -> None:
        self._plan, self._recorded = plan, recorded
        self._known: set[str] = set()
        self._by_cell: dict[str, list[RecordedTrial]] = {}
        self._labels: dict[str, dict[str, set[object]]] = {}
        for trial in recorded.rows:
            self._known.add(trial.trial_id)
            self._by_cell.setdefault(trial.cell, []).append(trial)
            labels = self._labels.setdefault(trial.stage, {})
            for axis, label in trial.point.items():
                labels.setdefault(axis, set()).add(label)
        self._reasons: dict[int, str] = {}
        self._blamed: dict[int, str] = {}

    def reason(self, i: int) -> str:
        """Return one line without ids, so that the trials of one cause have one reason."""
        if i not in self._reasons:
            self._reasons[i] = self._find(i)
        return self._reasons[i]

    def with_parent(self, text: str, trials: list[int]) -> str:
        """Name the parent where all of the trials blame one and the same."""
        blamed = {self._blamed.get(i) for i in trials}
        if len(blamed) != 1 or (parent := blamed.pop()) is None:
            return text
        stage, _, trial_id = parent.partition("/")
        return text.replace(f"parent {stage} is", f"parent {stage} {trial_id[:8]} is", 1)

    def _find(self, i: int) -> str:
        trial = self._plan.trials[i]
        if self._plan.status[i] == "rebuild":
            return "done, but a checkpoint that new trials need is gone"
        if trial.trial_id in self._recorded.failed:
            return "failed before, to be tried again"
        if trial.trial_id in self._known:
            return "planned before, not finished"
        if trial.stage not in self._labels:
            return "first run of this stage"
        twins = self._by_cell.get(trial.cell)
        if not twins:
            return self._new_point(trial)
        same_seed = [twin for twin in twins if twin.seed == trial.seed]
        if not same_seed:
            return f"seed {trial.seed} is new"
        differences = min((list(self._differences(i, twin)) for twin in same_seed), key=len)
        return "; ".join(differences) or "its identity is computed differently now"

    def _new_point(self, trial: Trial) -> str:
        labels = self._labels[trial.stage]
        if added := [axis for axis in trial.point if axis not in labels]:
            return f"the axis {', '.join(added)} is new"
        new = [
            f"{axis} {label} is new"
            for axis, label in trial.point.items()
            if label not in labels[axis]
        ]
        here = ", ".join(f"{axis} {label}" for axis, label in trial.point.items())
        return "; ".join(new) or f"the point is new: {here}"

    def _differences(self, i: int, old: RecordedTrial) -> Iterator[str]:
        trial = self._plan.trials[i]
        if trial.task != old.task:
            yield f"task {old.task} -> {trial.task}"
        if trial.params != old.params:
            by_content = trial.data.keys() & old.data.keys()
            yield from _changes(
                "params", _without(old.params, by_content), _without(trial.params, by_content)
            )
        if trial.code != old.code:
            files = self._plan.code[trial.stage]
            changed = sorted(
                name
                for name in files.keys() | old.code_files.keys()
                if files.get(name) != old.code_files.get(name)
            )
            yield f"code: {', '.join(changed)} changed"
        for name in sorted(trial.data.keys() | old.data.keys()):
            if trial.data.get(name) != old.data.get(name):
                yield f"{name} content changed"
        yield from self._parents(i, old)

    def _parents(self, i: int, old: RecordedTrial) -> Iterator[str]:
        trial = self._plan.trials[i]
        needs = [f"{parent.stage}@{parent.select}" for parent in trial.parents]
        before = [f"{parent['stage']}@{parent['select']}" for parent in old.parents]
        if needs != before:
            yield f"needs {', '.join(before) or 'nothing'} -> {', '.join(needs) or 'nothing'}"
            return
        indices = self._plan.parents[i]
        for parent, index, earlier in zip(trial.parents, indices, old.parents, strict=True):
            if parent.trial_id == earlier["trial_id"]:
                continue
            self._blamed[i] = f"{parent.stage}/{parent.trial_id}"
            if self._plan.status[index] == "done":
                yield f"parent {parent.stage} is another one than before"
            else:
                yield f"parent {parent.stage} is new (because {self.reason(index)})"


def _without(params: Mapping[str, object], names: set[str]) -> dict[str, object]:
    return {name: value for name, value in params.items() if name not in names}


def _changes(path: str, old: object, new: object) -> Iterator[str]:
    """Say where two values differ, key by key."""
    if comparable(old) == comparable(new):
        return
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        yield f"{path} {shown(old)} -> {shown(new)}"
        return
    for key in dict.fromkeys([*new, *old]):
        if key not in old:
            yield f"{path}.{key} {shown(new[key])} is new"
        elif key not in new:
            yield f"{path}.{key} is gone (was {shown(old[key])})"
        else:
            yield from _changes(f"{path}.{key}", old[key], new[key])
