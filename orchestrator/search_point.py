"""A point of a search that is under way: its trials, and what they have given so far."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sensweep.orchestrator import search_values
from sensweep.orchestrator.search_proposal import Proposal
from sensweep.orchestrator.search_spec import Quantity, SearchSpec
from sensweep.orchestrator.search_values import Row
from sensweep.orchestrator.trial import Trial


class PointUnderWay:
    """What is known of a point before it is told.

    Attributes:
        proposal: the ask.
        seeds: those that it is to be given, in their order.
        trials: those that were planned for it, by id.
        waiting: per seed that was planned, the trials that have not ended.
    """

    def __init__(
        self,
        proposal: Proposal,
        spec: SearchSpec,
        seeds: Sequence[int],
        per_step: dict[int, int] | None = None,
    ) -> None:
        """Begin; `per_step` has, by objective, the values of a step, as trials that ended had."""
        self.proposal = proposal
        self.seeds = tuple(seeds)
        self.trials: dict[str, Trial] = {}
        self.waiting: dict[int, set[str]] = {}
        self._spec = spec
        self._by_steps = spec.stop is not None and spec.stop.rungs == "steps"
        self._numbers: dict[int, dict[int, list[float]]] = {}  # seed -> quantity -> values
        # trial -> objective -> step -> coordinates -> value; and the steps that were yielded.
        self._steps: dict[str, list[dict[int, dict[str, float]]]] = {}
        self._yielded: set[int] = set()
        self._per_step = per_step if per_step is not None else {}

    @property
    def done(self) -> list[int]:
        """The seeds all of whose trials have ended."""
        return [seed for seed, waiting in self.waiting.items() if not waiting]

    @property
    def left(self) -> list[str]:
        """The trials that have not ended."""
        return [trial_id for waiting in self.waiting.values() for trial_id in waiting]

    def plan(self, trials: Sequence[Trial]) -> None:
        """Take up trials of another seed."""
        for trial in trials:
            self.trials[trial.trial_id] = trial
            self.waiting.setdefault(trial.seed, set()).add(trial.trial_id)
            if trial.trial_id not in self.proposal.trial_ids:
                self.proposal.trial_ids.append(trial.trial_id)

    def end(self, trial_id: str, rows: Sequence[Row]) -> None:
        """Take the rows of a trial that is done."""
        trial = self.trials[trial_id]
        self.waiting[trial.seed].discard(trial_id)
        numbers = self._numbers.setdefault(trial.seed, {})
        for i, quantity in enumerate(self._spec.quantities()):
            if quantity.stage == trial.stage:
                found = search_values.of_trial(quantity, rows, trial.point)
                numbers.setdefault(i, []).extend(found)
        self.note_steps(trial_id, rows)
        for i, steps in enumerate(self._steps.get(trial_id, ())):
            most = max(map(len, steps.values()), default=0)
            self._per_step[i] = max(self._per_step.get(i, 0), most)

    def missing(self, seed: int) -> str:
        """Say what a seed that is done has not measured; "" if nothing is missing."""
        for i, quantity in enumerate(self._spec.quantities()):
            if not self._numbers[seed].get(i):
                return f"seed {seed} gave no {quantity.name} (stage {quantity.stage})"
        return ""

    def objectives(self, seeds: Sequence[int]) -> list[float]:
        """Return the objectives over some of the seeds that are done."""
        return [
            self.value(objective, i, seeds) for i, objective in enumerate(self._spec.objectives)
        ]

    def value(self, quantity: Quantity, index: int, seeds: Sequence[int]) -> float:
        """Return the quantity of that index (of `SearchSpec.quantities`) over some seeds."""
        of_seeds = [search_values.of_seed(quantity, self._numbers[s][index]) for s in seeds]
        return search_values.over_seeds(quantity, of_seeds)

    def note_steps(self, trial_id: str, rows: Sequence[Row]) -> None:
        """Take rows with steps, where these are rungs; the trial may still run."""
        if not self._by_steps:
            return
        trial = self.trials[trial_id]
        steps = self._steps.setdefault(trial_id, [{} for _ in self._spec.objectives])
        for i, objective in enumerate(self._spec.objectives):
            if objective.stage == trial.stage:
                for step, values in search_values.by_step(objective, rows, trial.point).items():
                    steps[i].setdefault(step, {}).update(values)

    def new_steps(self) -> Iterator[tuple[int, list[float]]]:
        """Yield, once each, the steps that all trials have passed, with the objectives there.

        Rows of one step may come by in two beats. A trial that runs has passed a step when it has
        shown as many values there as other trials had, or a later step.
        """
        stage = self._spec.objectives[0].stage
        trials = [trial for trial in self.trials.values() if trial.stage == stage]
        if not self._by_steps or len({trial.seed for trial in trials}) < len(self.seeds):
            return
        passed = [self._passed(trial) for trial in trials]
        for step in sorted(set.intersection(*passed) - self._yielded):
            self._yielded.add(step)
            yield step, [self._at(i, step, trials) for i in range(len(self._spec.objectives))]

    def _passed(self, trial: Trial) -> set[int]:
        steps = self._steps.get(trial.trial_id)
        if steps is None:
            return set()
        reached = set.intersection(*map(set, steps))
        if trial.trial_id not in self.waiting[trial.seed] or not reached:
            return reached
        last = max(reached)
        whole = all(
            len(values[last]) >= self._per_step.get(i, len(values[last]) + 1)
            for i, values in enumerate(steps)
        )
        return reached if whole else reached - {last}

    def _at(self, index: int, step: int, trials: Sequence[Trial]) -> float:
        objective = self._spec.objectives[index]
        of_seeds: dict[int, list[float]] = {}
        for trial in trials:
            values = self._steps[trial.trial_id][index][step].values()
            of_seeds.setdefault(trial.seed, []).extend(values)
        return search_values.over_seeds(
            objective, [search_values.of_seed(objective, values) for values in of_seeds.values()]
        )
