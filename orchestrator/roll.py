"""The trials that a driver knows, numbered as the scheduler numbers them; their assignments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sensweep.orchestrator.attempt import Assignment, Selected
from sensweep.orchestrator.moves import State
from sensweep.orchestrator.needs import choose
from sensweep.orchestrator.nodes import Shape
from sensweep.orchestrator.plan import Plan, Status, status_of
from sensweep.orchestrator.policy import Group, Policy
from sensweep.orchestrator.recorded import Recorded
from sensweep.orchestrator.scheduler import Scheduler
from sensweep.orchestrator.trial import Parent, Trial, canonical_json

Key = tuple[str, int, int]  # trial_id, attempt, driver epoch: the fence of every answer

_STATES = {
    "done": State.DONE,
    "failed": State.FAILED,
    "stopped": State.STOPPED,
    "settled": State.STOPPED,
}


@dataclass(frozen=True, slots=True)
class Orders:
    """What a driver is to do: run this plan as this sweep of this home.

    Attributes:
        study: the resolved study and its provenance, recorded with the driver's epoch.
        recorded: what the home has of the trials that are done or failed.
        retry_failed: whether trials that failed before are run again.
        attempts: attempts that this sweep has recorded of trials that are not done, by trial_id.
    """

    home: str
    sweep: str
    plan: Plan
    study: Mapping[str, object]
    recorded: Recorded = field(default_factory=Recorded)
    retry_failed: bool = False
    attempts: Mapping[str, int] = field(default_factory=dict)
    policy: Policy = field(default_factory=Policy)


class Roll:
    """What a driver must know of each trial to have it executed.

    Attributes:
        trials: by index. It grows where a search adds points.
        status: as they were planned, by index.
        index: of each trial, by trial_id.
        artifacts: of the trials that are done, by index.
        resources: per stage, as canonical JSON.
    """

    def __init__(self, orders: Orders, epoch: int) -> None:
        self._orders = orders
        self._epoch = epoch
        home = Path(orders.home)
        self._recorded = replace(orders.recorded, exists=lambda path: (home / path).is_file())
        self._study = orders.plan.study
        self._shapes = {
            name: Shape(s.resources.cpus, s.resources.gpus, s.resources.memory or 0)
            for name, s in self._study.stages.items()
        }
        self._roots = tuple(str(folder) for folder in self._study.folders)
        self._home = str(home.absolute())
        self._groups: dict[str, int] = {}
        self._parents: list[tuple[int, ...]] = []
        self._made: dict[str, int] = {}  # attempts of this run
        self.trials: list[Trial] = []
        self.status: list[Status] = []
        self.index: dict[str, int] = {}
        self.artifacts: dict[int, Sequence[Mapping[str, Any]]] = {}
        self.resources = {
            name: canonical_json(stage.resources.model_dump(mode="json"))
            for name, stage in self._study.stages.items()
        }

    def groups(self, scheduler: Scheduler) -> None:
        """Register a group per stage; deeper stages have the higher priority."""
        for name in self._orders.plan.stages:
            stage = self._study.stages[name]
            group = Group(name, self._shapes[name], stage.timeout, retries=stage.retries)
            self._groups[name] = scheduler.add_group(group)

    def new(self, trials: Sequence[Trial], settled: bool) -> tuple[list[Trial], list[Status]]:
        """Return those of a search's trials that are to be taken up, with their status.

        They are those that are not here yet, and before them the parents whose checkpoints were
        freed: these run again. Trials of points that are `settled` are not to be run, whatever
        became of them.
        """
        new = list({t.trial_id: t for t in trials if t.trial_id not in self.index}.values())
        status = status_of(new, self._recorded, self._orders.retry_failed)
        if settled:
            return new, ["settled" if each != "done" else each for each in status]
        again: dict[str, Trial] = {}
        waiting = [trial for trial, each in zip(new, status, strict=True) if each == "new"]
        while waiting:
            for parent in waiting.pop().parents:
                index = self.index.get(parent.trial_id)
                if index is None or parent.trial_id in again or self._is_there(index, parent):
                    continue
                again[parent.trial_id] = self.trials[index]
                waiting.append(self.trials[index])
        rebuilt = list(reversed(again.values()))
        rebuild: list[Status] = ["rebuild"] * len(rebuilt)
        return [*rebuilt, *new], [*rebuild, *status]

    def _is_there(self, index: int, parent: Parent) -> bool:
        """Whether a trial is not done yet, or what is selected of its checkpoints still exists."""
        if index not in self.artifacts:
            return True
        chosen = choose(self.artifacts[index], parent.select)
        return all(self._recorded.exists(str(a["path"])) for a in chosen)

    def add(self, trials: Sequence[Trial], status: Sequence[Status]) -> dict[str, Any]:
        """Take up trials, each after its parents; returns the columns for `Scheduler.add`."""
        first = len(self.trials)
        for i, (trial, each) in enumerate(zip(trials, status, strict=True), start=first):
            self.index[trial.trial_id] = i
            self._parents.append(tuple(self.index[p.trial_id] for p in trial.parents))
            # What is to be rebuilt has nothing to offer yet, whatever is recorded of it.
            if each == "done" or (each == "settled" and trial.trial_id in self._recorded.done):
                self.artifacts[i] = self._recorded.artifacts(trial.trial_id)
        self.trials += trials
        self.status += status
        groups = [self._groups[trial.stage] for trial in trials]
        return {
            "group": groups,
            "parents": self._parents[first:],
            "priority": groups,
            "state": [_STATES.get(each, State.WAITING) for each in status],
            "attempts": [
                self._made.get(trial.trial_id, self._orders.attempts.get(trial.trial_id, 0))
                for trial in trials
            ],
        }

    def parents(self, trial: int) -> tuple[int, ...]:
        """Return the indices of a trial's parents."""
        return self._parents[trial]

    def key(self, trial: int, attempt: int) -> Key:
        """Return what fences an attempt."""
        return self.trials[trial].trial_id, attempt, self._epoch

    def log(self, key: Key) -> str:
        """Return the path of an attempt's log, relative to the home."""
        trial_id, attempt, epoch = key
        return f"logs/{self._orders.sweep}/{trial_id}.{epoch}.{attempt}.log"

    def assignment(self, index: int, attempt: int) -> Assignment:
        """Put together what a worker needs to execute an attempt."""
        trial, key = self.trials[index], self.key(index, attempt)
        self._made[trial.trial_id] = attempt
        shape = self._shapes[trial.stage]
        return Assignment(
            key=key,
            task=trial.task,
            params=trial.params,
            seed=trial.seed,
            sweep=self._orders.sweep,
            home=self._home,
            log=self.log(key),
            roots=self._roots,
            parents=tuple(
                Selected(p.stage, p.select, choose(self.artifacts.get(parent, ()), p.select))
                for p, parent in zip(trial.parents, self._parents[index], strict=True)
            ),
            keep=self._study.keeps(trial.stage),
            threads=max(1, int(shape.cpus)),
            gpus=shape.gpus,
            watch=self._watched(trial.stage),
        )

    def _watched(self, stage: str) -> tuple[str, ...]:
        """The measurements by which a search may stop an attempt of this stage early."""
        search = self._study.search
        if search is None or search.stop is None or search.stop.rungs != "steps":
            return ()
        return tuple(o.name for o in search.objectives if o.stage == stage)


def label(trial: Trial) -> str:
    """Name a trial for people: its labels and its seed."""
    return " ".join([*map(str, trial.point.values()), f"s{trial.seed}"])
