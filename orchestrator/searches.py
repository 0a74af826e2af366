"""All searches of a study: which of them asks next, and what becomes of its points' trials.

    searches = Searches(ChainPlanner(study), recorded=rows_of_asks)
    settled, open_ = searches.begin()          # trials of the asks of earlier runs
    growth = searches.next()                   # a point of the search that is furthest behind
    growth = searches.ended(trial_id, "done", rows)   # more trials, trials to stop, lines of `asks`

No I/O and no clock: the driver runs it on the cluster, the simulator on virtual time. There is no
barrier anywhere: each search asks when there is room, and its confirmation starts when it is over.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sensweep.orchestrator import search_values
from sensweep.orchestrator.axes import Axis, Point
from sensweep.orchestrator.chain import ChainPlanner
from sensweep.orchestrator.growth import Growth, Outcome
from sensweep.orchestrator.search import TOLD, Proposal, Search, Told, best
from sensweep.orchestrator.search_spec import BEST, Quantity, SearchSpec
from sensweep.orchestrator.search_values import Row
from sensweep.orchestrator.trial import Trial, canonical_json, trial_columns

Lookup = Callable[[str], Sequence[Row] | None]


@dataclass(slots=True)
class _Open:
    """A point that is under way: its trials by seed, and what they gave so far.

    Attributes:
        waiting: trials that have not ended, by seed.
        trials: those that were planned for it.
        numbers: per seed, the values of each quantity.
        steps: per seed, per objective, values by step.
    """

    proposal: Proposal
    seeds: list[int]
    trials: dict[str, Trial] = field(default_factory=dict)
    waiting: dict[int, set[str]] = field(default_factory=dict)
    numbers: dict[int, dict[int, list[float]]] = field(default_factory=dict)
    steps: dict[int, list[dict[int, float]]] = field(default_factory=dict)
    reported: int = 0


class _Cell:
    """One search with its open points."""

    def __init__(self, cell: Point, search: Search) -> None:
        self.cell = cell
        self.search = search
        self.open: dict[int, _Open] = {}
        self.queue: list[tuple[Point, Literal["enqueued", "warm"]]] = []
        self.baselines: dict[int, float] = {}  # constraint -> value of the point it refers to
        self.held: list[int] = []  # proposals that wait for a baseline
        self.confirmed = False


class Searches:
    """The searches of a study, one per cell. Not thread-safe: one thread calls it.

    Args:
        planner: plans their trials.
        axes: the study's.
        recorded: lines of the table `asks` of this sweep, in the order of their events.
        lookup: trial_id -> rows of a trial that the home has, or None.
        warm: labels of points that the home may have, to be told first if it has all their rows.
    """

    def __init__(
        self,
        planner: ChainPlanner,
        axes: Mapping[str, Axis],
        recorded: Sequence[Mapping[str, Any]] = (),
        lookup: Lookup = lambda _: None,
        warm: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.spec: SearchSpec = planner.spec
        self._planner = planner
        self._lookup = lookup
        self._cells: list[_Cell] = []
        self._by_trial: dict[str, list[tuple[_Cell, int]]] = {}
        # Rows of the trials that ended in this run, as far as a search looks at them.
        self._seen: dict[str, list[Row]] = {}
        self._names = {q.name for q in self.spec.quantities()} | {"diverged"}
        by_name: dict[str, list[Mapping[str, Any]]] = {}
        for row in recorded:
            by_name.setdefault(str(row["search"]), []).append(row)
        for point in planner.cells():
            name = self._name(point)
            search = Search(name, self.spec, axes, point, by_name.get(name, ()))
            cell = _Cell(point, search)
            cell.queue = self._queue(cell, warm)
            self._cells.append(cell)

    def columns(self, trials: Sequence[Trial]) -> dict[str, list[object]]:
        """Return trials as columns of the `trials` table."""
        return trial_columns(trials, self._planner.code)

    # ---- what an earlier run left

    def begin(self) -> tuple[list[Trial], Growth]:
        """Take up what was recorded: trials of points that are settled, and what is to go on."""
        settled: list[Trial] = []
        growth = Growth()
        for cell in self._cells:
            for proposal in cell.search.proposals:
                if proposal.state in TOLD:
                    settled += self._settled_trials(cell, proposal)
                    if proposal.state == "complete":
                        self._note_baseline(cell, proposal, None)
            for proposal in cell.search.running:
                growth += self._open(cell, proposal)
            growth += self._confirm_if_over(cell)
        return settled, growth

    def _settled_trials(self, cell: _Cell, proposal: Proposal) -> list[Trial]:
        chain = self._planner.chain(cell.cell, proposal.labels, self._planner.seeds())
        known = set(proposal.trial_ids)
        return [trial for trial in chain if trial.trial_id in known]

    # ---- asking

    @property
    def finished(self) -> bool:
        """Whether every search is over, its confirmation aside."""
        return all(cell.search.finished for cell in self._cells)

    def can_ask(self) -> bool:
        """Whether some search would ask if there was room for its trials."""
        return any(self._may_ask(cell) for cell in self._cells)

    def next(self) -> Growth:
        """Ask the search that is furthest behind; the answer may be there already, at no cost."""
        ready = [cell for cell in self._cells if self._may_ask(cell)]
        if not ready:
            return Growth()
        cell = min(ready, key=lambda c: c.search.asked)
        if cell.queue:
            labels, given = cell.queue.pop(0)
            proposal = cell.search.ask(labels, given)
        else:
            proposal = cell.search.ask()
        twin = next((p for p in cell.search.proposals if _is_twin(p, proposal)), None)
        if twin is None:
            return self._open(cell, proposal, ask=True)
        cell.search.begin(proposal, twin.trial_ids)
        told = _told(twin)
        cell.search.tell(proposal.number, told, twin.values, twin.violations, twin.reason)
        return Growth(asks=cell.search.drain()) + self._confirm_if_over(cell)

    def _may_ask(self, cell: _Cell) -> bool:
        if cell.queue and cell.queue[0][1] == "warm":
            return True
        limit = self.spec.parallel
        room = limit is None or len(cell.search.running) < limit
        return room and cell.search.asked < self.spec.trials

    def _queue(
        self, cell: _Cell, warm: Sequence[Mapping[str, Any]]
    ) -> list[tuple[Point, Literal["enqueued", "warm"]]]:
        """List the points that are given: what the home has, baselines, what the study lists."""
        asked = [p.labels for p in cell.search.proposals]
        queue: list[tuple[Point, Literal["enqueued", "warm"]]] = []
        for given in warm:
            found = self._whole(cell, given)
            if found is not None and found not in asked:
                queue.append((found, "warm"))
                asked.append(found)
        baselines = [c.relative_to for c in self.spec.constraints if c.relative_to is not None]
        for labels in [*baselines, *self.spec.enqueue]:
            point = self._planner.labels(cell.cell, labels)
            if point not in asked:
                queue.append((point, "enqueued"))
                asked.append(point)
        return queue

    def _whole(self, cell: _Cell, given: Mapping[str, Any]) -> Point | None:
        """Return the labels of a point that the home has every row of, in this cell."""
        if any(given.get(axis) != label for axis, label in cell.cell.items()):
            return None
        labels = {axis: given[axis] for axis in self.spec.axes if axis in given}
        try:
            point = self._planner.labels(cell.cell, labels)
            chain = self._planner.chain(cell.cell, point, self._planner.seeds())
        except ValueError:
            return None
        return point if all(self._lookup(t.trial_id) is not None for t in chain) else None

    # ---- a point's trials

    def _open(self, cell: _Cell, proposal: Proposal, ask: bool = False) -> Growth:
        """Plan a point's trials: of all seeds, or of the first where seeds are rungs."""
        seeds = self._planner.seeds()
        stepwise = self.spec.stop is not None and self.spec.stop.rungs == "seeds"
        opened = _Open(proposal, list(seeds))
        cell.open[proposal.number] = opened
        growth = Growth()
        first = seeds[:1] if stepwise else seeds
        trials = self._plan_seeds(cell, opened, first)
        growth.add += trials
        if ask:
            cell.search.begin(proposal, [trial.trial_id for trial in trials])
            growth.asks += cell.search.drain()
        for trial in trials:
            growth += self._take_known(trial.trial_id)
        return growth

    def _plan_seeds(self, cell: _Cell, opened: _Open, seeds: Sequence[int]) -> list[Trial]:
        trials = self._planner.chain(cell.cell, opened.proposal.labels, seeds)
        for trial in trials:
            opened.trials[trial.trial_id] = trial
            opened.waiting.setdefault(trial.seed, set()).add(trial.trial_id)
            self._by_trial.setdefault(trial.trial_id, []).append((cell, opened.proposal.number))
        known = opened.proposal.trial_ids
        known += [t.trial_id for t in trials if t.trial_id not in known]
        return trials

    def _take_known(self, trial_id: str) -> Growth:
        rows = self._rows(trial_id)
        return self.ended(trial_id, "done", rows) if rows is not None else Growth()

    def _rows(self, trial_id: str) -> Sequence[Row] | None:
        return self._seen[trial_id] if trial_id in self._seen else self._lookup(trial_id)

    def measured(self, trial_id: str, rows: Sequence[Row]) -> Growth:
        """Take rows of a trial that is running; it may be one to stop."""
        growth = Growth()
        for cell, number in list(self._by_trial.get(trial_id, ())):
            opened = cell.open.get(number)
            if opened is not None:
                self._note_steps(opened, trial_id, rows)
                growth += self._judge_steps(cell, opened)
        return growth

    def ended(self, trial_id: str, outcome: Outcome, rows: Sequence[Row]) -> Growth:
        """Take a trial's end: its point may be told, given another seed, or stopped."""
        growth = Growth()
        if outcome == "done":
            self._seen[trial_id] = [row for row in rows if row[0] in self._names]
        for cell, number in self._by_trial.pop(trial_id, ()):
            opened = cell.open.get(number)
            if opened is None:
                continue
            trial = opened.trials[trial_id]
            seed, stage = trial.seed, trial.stage
            opened.waiting[seed].discard(trial_id)
            if outcome != "done" or any(r[0] == "diverged" and r[1] == 1 for r in rows):
                why = "diverged" if outcome == "done" else outcome
                growth += self._fail(cell, opened, f"{stage} of seed {seed} {why}")
                continue
            self._note_steps(opened, trial_id, rows)
            numbers = opened.numbers.setdefault(seed, {})
            for i, quantity in enumerate(self.spec.quantities()):
                if quantity.stage == stage:
                    found = search_values.of_trial(quantity, rows, trial.point)
                    numbers.setdefault(i, []).extend(found)
            growth += self._judge_steps(cell, opened, live=False)
            if not opened.waiting[seed]:
                growth += self._seed_ended(cell, opened, seed)
        return growth

    def _seed_ended(self, cell: _Cell, opened: _Open, seed: int) -> Growth:
        """All trials of a seed are there: judge the point, go on to the next seed, or tell it."""
        for i, quantity in enumerate(self.spec.quantities()):
            if not opened.numbers[seed].get(i):
                what = f"seed {seed} gave no {quantity.name} (stage {quantity.stage})"
                return self._fail(cell, opened, what)
        done = [s for s in opened.waiting if not opened.waiting[s]]
        if len(done) < len(opened.waiting):
            return Growth()
        by_seeds = self.spec.stop is not None and self.spec.stop.rungs == "seeds"
        if by_seeds and len(done) < len(opened.seeds):
            assert self.spec.stop is not None
            paired = self.spec.stop.by == "wilcoxon"  # it compares points seed by seed
            values = self._objectives(opened, done[-1:] if paired else done)
            if cell.search.report(opened.proposal.number, len(done), values):
                return self._settle(cell, opened, "pruned")
            growth = Growth()
            growth.add = self._plan_seeds(cell, opened, opened.seeds[len(done) : len(done) + 1])
            for trial in growth.add:
                growth += self._take_known(trial.trial_id)
            return growth
        return self._settle(cell, opened, "complete")

    def _objectives(self, opened: _Open, seeds: Sequence[int]) -> list[float]:
        return [
            self._over_seeds(opened, objective, i, seeds)
            for i, objective in enumerate(self.spec.objectives)
        ]

    def _over_seeds(
        self, opened: _Open, quantity: Quantity, index: int, seeds: Sequence[int]
    ) -> float:
        of_seeds = [search_values.of_seed(quantity, opened.numbers[s][index]) for s in seeds]
        return search_values.over_seeds(quantity, of_seeds)

    # ---- rungs of steps

    def _note_steps(self, opened: _Open, trial_id: str, rows: Sequence[Row]) -> None:
        if self.spec.stop is None or self.spec.stop.rungs != "steps":
            return
        trial = opened.trials[trial_id]
        seed, stage = trial.seed, trial.stage
        steps = opened.steps.setdefault(seed, [{} for _ in self.spec.objectives])
        for i, objective in enumerate(self.spec.objectives):
            if objective.stage == stage:
                steps[i] |= search_values.by_step(objective, rows)

    def _judge_steps(self, cell: _Cell, opened: _Open, live: bool = True) -> Growth:
        """Report the steps that every seed has reached with every objective, each once."""
        if len(opened.steps) < len(opened.seeds) or opened.proposal.state != "running":
            return Growth()
        common = set.intersection(
            *(set(values) for steps in opened.steps.values() for values in steps)
        )
        for step in sorted(s for s in common if s > opened.reported):
            opened.reported = step
            values = [
                search_values.over_seeds(o, [steps[i][step] for steps in opened.steps.values()])
                for i, o in enumerate(self.spec.objectives)
            ]
            stop = cell.search.report(opened.proposal.number, step, values)
            if stop and live and any(opened.waiting.values()):
                return self._settle(cell, opened, "pruned", values)
        return Growth()

    # ---- telling

    def _fail(self, cell: _Cell, opened: _Open, reason: str) -> Growth:
        return self._close(cell, opened, "failed", reason=reason)

    def _settle(
        self,
        cell: _Cell,
        opened: _Open,
        state: Told,
        values: Sequence[float] | None = None,
    ) -> Growth:
        """Tell a point; one whose constraint refers to a point that is not told yet is held."""
        done = [seed for seed, waiting in opened.waiting.items() if not waiting]
        number = opened.proposal.number
        if values is None:
            values = self._objectives(opened, done)
        violations: list[float] = []
        if state == "complete":
            self._note_baseline(cell, opened.proposal, opened)
        for i, constraint in enumerate(self.spec.constraints):
            if state == "pruned" and not done:
                violations.append(0.0)  # stopped before it was measured
                continue
            if constraint.relative_to is not None and i not in cell.baselines:
                if self._baseline_failed(cell, constraint.relative_to):
                    return self._fail(cell, opened, "the point that a constraint refers to failed")
                cell.held.append(number)
                return Growth()
            index = len(self.spec.objectives) + i
            value = self._over_seeds(opened, constraint, index, done)
            baseline = cell.baselines.get(i, 0.0)
            violations.append(search_values.violation(constraint, value, baseline))
        return self._close(cell, opened, state, values, violations)

    def _close(
        self,
        cell: _Cell,
        opened: _Open,
        state: Told,
        values: Sequence[float] = (),
        violations: Sequence[float] = (),
        reason: str = "",
    ) -> Growth:
        proposal = opened.proposal
        cell.open.pop(proposal.number, None)
        cell.search.tell(proposal.number, state, values, violations, reason)
        growth = Growth(asks=cell.search.drain())
        if state != "complete":
            left = [trial for waiting in opened.waiting.values() for trial in waiting]
            growth.stop = [trial for trial in left if not self._wanted(trial)]
            rule = self.spec.stop.by if self.spec.stop is not None else ""
            growth.reason = f"stopped early ({rule})" if state == "pruned" else reason
        growth += self._release(cell)
        growth += self._confirm_if_over(cell)
        return growth

    def _wanted(self, trial_id: str) -> bool:
        """Whether another open point waits for this trial."""
        return any(n in cell.open for cell, n in self._by_trial.get(trial_id, ()))

    # ---- constraints that refer to another point

    def _note_baseline(self, cell: _Cell, proposal: Proposal, opened: _Open | None) -> None:
        for i, constraint in enumerate(self.spec.constraints):
            if constraint.relative_to is None or proposal.labels != self._planner.labels(
                cell.cell, constraint.relative_to
            ):
                continue
            index = len(self.spec.objectives) + i
            if opened is not None:
                cell.baselines[i] = self._over_seeds(opened, constraint, index, opened.seeds)
                continue
            values: dict[int, list[float]] = {}  # it was told by an earlier run
            for trial in self._settled_trials(cell, proposal):
                if trial.stage == constraint.stage:
                    rows = self._rows(trial.trial_id) or ()
                    found = search_values.of_trial(constraint, rows, trial.point)
                    values.setdefault(trial.seed, []).extend(found)
            if values and all(values.values()):
                of_seeds = [search_values.of_seed(constraint, found) for found in values.values()]
                cell.baselines[i] = search_values.over_seeds(constraint, of_seeds)

    def _baseline_failed(self, cell: _Cell, given: Mapping[str, Any]) -> bool:
        labels = self._planner.labels(cell.cell, given)
        states = [p.state for p in cell.search.proposals if p.labels == labels]
        return bool(states) and all(state in ("failed", "pruned") for state in states)

    def _release(self, cell: _Cell) -> Growth:
        """Tell the points that were held, now that another one was told."""
        growth = Growth()
        held, cell.held = cell.held, []
        for number in held:
            opened = cell.open.get(number)
            if opened is not None:
                growth += self._settle(cell, opened, "complete")
        return growth

    # ---- confirmation

    def _confirm_if_over(self, cell: _Cell) -> Growth:
        """Run the winner, and what it is compared with, on fresh seeds."""
        spec = self.spec.confirm
        if spec is None or cell.confirmed or not cell.search.finished:
            return Growth()
        cell.confirmed = True
        directions = [objective.direction for objective in self.spec.objectives]
        winner = best(cell.search.proposals, directions)
        points = {BEST: winner.labels} if winner is not None else {}
        for name, given in spec.compare.items():
            points[name] = self._planner.labels(cell.cell, given)
        growth = Growth()
        for name, labels in points.items():
            growth.add += self._planner.confirmation(cell.cell, labels, name)
        return growth

    # ---- names

    def _name(self, point: Point) -> str:
        """Name a search: its cell, and a digest of all that its proposals depend on.

        A change of the space, the objectives or the tasks begins another search.
        """
        readable = ",".join(f"{axis}={label}" for axis, label in sorted(point.items())) or "all"
        spec = self.spec.model_dump(mode="json", exclude={"trials", "confirm", "parallel"})
        sample = [trial.trial_id for trial in self._planner.sample(point)]
        text = canonical_json([spec, self._planner.space(), sample])
        digest = hashlib.blake2b(text.encode(), digest_size=3).hexdigest()
        return f"{readable}#{digest}"


def _is_twin(told: Proposal, proposal: Proposal) -> bool:
    """Whether a point is settled that has the same labels: its rows serve both."""
    return told is not proposal and told.state in TOLD and told.labels == proposal.labels


def _told(twin: Proposal) -> Told:
    assert twin.state in TOLD
    return twin.state
