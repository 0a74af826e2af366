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
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from sensweep.orchestrator import search_values
from sensweep.orchestrator.axes import Axis, Point
from sensweep.orchestrator.chain import ChainPlanner
from sensweep.orchestrator.errors import FieldError, joined
from sensweep.orchestrator.growth import Growth, Outcome
from sensweep.orchestrator.search import Search
from sensweep.orchestrator.search_point import PointUnderWay
from sensweep.orchestrator.search_proposal import TOLD, Proposal, Told, best
from sensweep.orchestrator.search_spec import BEST, SearchSpec
from sensweep.orchestrator.search_values import Row
from sensweep.orchestrator.trial import Trial, canonical_json, trial_columns

EARLY = "stopped early"
Lookup = Callable[[str], Sequence[Row] | None]


class _Cell:
    """One search with its open points."""

    def __init__(self, cell: Point, search: Search) -> None:
        self.cell = cell
        self.search = search
        self.open: dict[int, PointUnderWay] = {}
        self.queue: list[tuple[Point, Literal["enqueued", "warm"]]] = []
        self.baselines: dict[int, float] = {}  # constraint -> value of the point it refers to
        # Points that wait for a baseline, and what they will be told, by number.
        self.held: dict[int, tuple[PointUnderWay, Told, Sequence[float]]] = {}
        self.confirmed = False

    def has_failed(self, labels: Point) -> bool:
        """Whether a point was tried and gave nothing."""
        told = self.search.told(labels)
        return told is not None and told.state == "failed"


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
        self._per_step: dict[int, int] = {}
        self._names = {q.name for q in self.spec.quantities()} | {"diverged"}
        by_name: dict[str, list[Mapping[str, Any]]] = {}
        for row in recorded:
            by_name.setdefault(str(row["search"]), []).append(row)
        for point in planner.cells():
            name = self._name(point)
            search = Search(name, self.spec, axes, point, by_name.get(name, ()))
            cell = _Cell(point, search)
            begun = any(proposal.given != "warm" for proposal in search.proposals)
            cell.queue = self._queue(cell, () if begun else warm)
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
                    trials = self._settled_trials(cell, proposal)
                    settled += trials
                    if proposal.state == "complete":
                        self._remember_baseline(cell, proposal, trials)
            for proposal in cell.search.running:
                growth += self._open(cell, proposal)
            growth += self._confirm_if_over(cell)
        return settled, growth

    def _settled_trials(self, cell: _Cell, proposal: Proposal) -> list[Trial]:
        known = set(proposal.trial_ids)
        if not known:  # its labels were refused
            return []
        chain = self._planner.chain(cell.cell, proposal.labels, self._planner.seeds())
        return [trial for trial in chain if trial.trial_id in known]

    def _remember_baseline(self, cell: _Cell, proposal: Proposal, trials: list[Trial]) -> None:
        """Take up the values of a point that was told by an earlier run."""
        point = PointUnderWay(proposal, self.spec, self._planner.seeds())
        if all(
            self._baseline(cell, i) != proposal.labels for i in range(len(self.spec.constraints))
        ):
            return
        point.plan(trials)
        for trial in trials:
            point.end(trial.trial_id, self._rows(trial.trial_id) or ())
        if point.done and not any(map(point.missing, point.done)):
            self._note_baseline(cell, point)

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
        twin = cell.search.told(proposal.labels)
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
        # Points that wait for a baseline run nothing, and must not keep it from being asked.
        room = limit is None or len(cell.search.running) - len(cell.held) < limit
        wanted = cell.search.asked < self.spec.trials or (bool(cell.queue) and bool(cell.held))
        return room and wanted

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
        point = PointUnderWay(proposal, self.spec, seeds, self._per_step)
        cell.open[proposal.number] = point
        trials, refused = list[Trial](), ""
        try:
            trials = self._plan_seeds(cell, point, seeds[:1] if stepwise else seeds)
        except FieldError as error:  # labels that a task's params do not allow together
            refused = f"{joined(error.path)}: {error.message}"
        growth = Growth(add=trials)
        if ask:
            cell.search.begin(proposal, [trial.trial_id for trial in trials])
            growth.asks += cell.search.drain()
        if not trials:
            return growth + self._fail(cell, point, refused or "no stage of the search has a trial")
        return growth + self._take_known(trials)

    def _plan_seeds(self, cell: _Cell, point: PointUnderWay, seeds: Sequence[int]) -> list[Trial]:
        trials = self._planner.chain(cell.cell, point.proposal.labels, seeds)
        point.plan(trials)
        for trial in trials:
            self._by_trial.setdefault(trial.trial_id, []).append((cell, point.proposal.number))
        return trials

    def _take_known(self, trials: Sequence[Trial]) -> Growth:
        growth = Growth()
        for trial in trials:
            rows = self._rows(trial.trial_id)
            if rows is not None:
                growth += self.ended(trial.trial_id, "done", rows)
        return growth

    def _rows(self, trial_id: str) -> Sequence[Row] | None:
        return self._seen[trial_id] if trial_id in self._seen else self._lookup(trial_id)

    def measured(self, trial_id: str, rows: Sequence[Row]) -> Growth:
        """Take rows of a trial that is running; it may be one to stop."""
        growth = Growth()
        for cell, number in list(self._by_trial.get(trial_id, ())):
            point = cell.open.get(number)
            if point is not None:
                point.note_steps(trial_id, rows)
                growth += self._judge_steps(cell, point)
                growth += Growth(asks=cell.search.drain())  # rungs that it has passed
        return growth

    def ended(self, trial_id: str, outcome: Outcome, rows: Sequence[Row]) -> Growth:
        """Take a trial's end: its point may be told, given another seed, or stopped."""
        growth = Growth()
        if outcome == "done":
            self._seen[trial_id] = [row for row in rows if row[0] in self._names]
        for cell, number in self._by_trial.pop(trial_id, ()):
            point = cell.open.get(number)
            if point is not None:
                growth += self._trial_ended(cell, point, trial_id, outcome, rows)
                growth += Growth(asks=cell.search.drain())
        return growth

    def _trial_ended(
        self,
        cell: _Cell,
        point: PointUnderWay,
        trial_id: str,
        outcome: Outcome,
        rows: Sequence[Row],
    ) -> Growth:
        trial = point.trials[trial_id]
        if point.proposal.number in cell.held:  # its values are known
            point.waiting[trial.seed].discard(trial_id)
            return Growth()
        diverged = any(name == "diverged" and value == 1 for name, value, *_ in rows)
        if outcome != "done" or diverged:
            point.waiting[trial.seed].discard(trial_id)
            why = "diverged" if diverged else outcome
            return self._fail(cell, point, f"{trial.stage} of seed {trial.seed} {why}")
        point.end(trial_id, rows)
        growth = self._judge_steps(cell, point, live=False)
        if point.waiting[trial.seed]:
            return growth
        if missing := point.missing(trial.seed):
            return growth + self._fail(cell, point, missing)
        return growth if point.left else growth + self._judge_seeds(cell, point)

    def _judge_seeds(self, cell: _Cell, point: PointUnderWay) -> Growth:
        """All planned seeds are there: judge the point, give it the next seed, or tell it."""
        stop, done = self.spec.stop, point.done
        if stop is None or stop.rungs != "seeds" or len(done) == len(point.seeds):
            return self._settle(cell, point, "complete", point.objectives(done))
        paired = stop.by == "wilcoxon"  # it compares points seed by seed
        values = point.objectives(done[-1:] if paired else done)
        if cell.search.report(point.proposal.number, len(done), values) and self._may_stop(
            cell, point
        ):
            return self._settle(cell, point, "pruned", point.objectives(done))
        trials = self._plan_seeds(cell, point, point.seeds[len(done) : len(done) + 1])
        return Growth(add=trials) + self._take_known(trials)

    def _judge_steps(self, cell: _Cell, point: PointUnderWay, live: bool = True) -> Growth:
        """Report the steps that the point has newly reached; it may be stopped while it runs."""
        for step, values in point.new_steps():
            stop = cell.search.report(point.proposal.number, step, values)
            if stop and live and point.left and self._may_stop(cell, point):
                return self._settle(cell, point, "pruned", values)
        return Growth()

    def _may_stop(self, cell: _Cell, point: PointUnderWay) -> bool:
        """Whether a point may be stopped early: one that a constraint refers to may not."""
        labels = point.proposal.labels
        return all(self._baseline(cell, i) != labels for i in range(len(self.spec.constraints)))

    # ---- telling

    def _fail(self, cell: _Cell, point: PointUnderWay, reason: str) -> Growth:
        return self._close(cell, point, "failed", reason=reason)

    def _settle(
        self, cell: _Cell, point: PointUnderWay, state: Told, values: Sequence[float]
    ) -> Growth:
        """Tell a point; one whose constraint refers to a point that is not told yet is held."""
        if point.proposal.number in cell.held:
            return Growth()
        if not all(map(math.isfinite, values)):
            return self._fail(cell, point, "an objective is not finite")
        violations: list[float] = []
        if state == "complete":
            self._note_baseline(cell, point)
        for i, constraint in enumerate(self.spec.constraints):
            if not point.done:
                violations.append(0.0)  # stopped before it was measured
                continue
            baseline = self._baseline(cell, i)
            if baseline is not None and i not in cell.baselines:
                if cell.has_failed(baseline) or baseline == point.proposal.labels:
                    return self._fail(cell, point, "the point that a constraint refers to failed")
                cell.held[point.proposal.number] = point, state, values
                return self._stop_rest(cell, point, state)
            value = point.value(constraint, len(self.spec.objectives) + i, point.done)
            against = cell.baselines.get(i, 0.0)
            violations.append(search_values.violation(constraint, value, against))
        return self._close(cell, point, state, values, violations)

    def _close(
        self,
        cell: _Cell,
        point: PointUnderWay,
        state: Told,
        values: Sequence[float] = (),
        violations: Sequence[float] = (),
        reason: str = "",
    ) -> Growth:
        cell.open.pop(point.proposal.number, None)
        cell.search.tell(point.proposal.number, state, values, violations, reason)
        growth = Growth(asks=cell.search.drain()) + self._stop_rest(cell, point, state, reason)
        held, cell.held = cell.held, {}
        for other, its_state, its_values in held.values():
            growth += self._settle(cell, other, its_state, its_values)
        return growth + self._confirm_if_over(cell)

    def _stop_rest(
        self, cell: _Cell, point: PointUnderWay, state: Told, reason: str = ""
    ) -> Growth:
        """Stop what is left of a point that needs it no more, unless others may need it.

        Others may need a trial that has not all of the searched labels: a static parent, or the
        first of two searched stages. And a repeated point shares all of its trials.
        """
        if state == "complete":
            return Growth()
        labels, number = point.proposal.labels, point.proposal.number
        rest = [
            trial_id
            for trial_id in point.left
            if self._planner.stoppable(point.trials[trial_id], labels)
            and not any(n in c.open and n != number for c, n in self._by_trial.get(trial_id, ()))
        ]
        rule = self.spec.stop.by if self.spec.stop is not None else ""
        return Growth(stop=rest, reason=f"{EARLY} ({rule})" if state == "pruned" else reason)

    # ---- constraints that refer to another point

    def _baseline(self, cell: _Cell, index: int) -> Point | None:
        """Return the labels of the point that a constraint refers to, if it does."""
        given = self.spec.constraints[index].relative_to
        return None if given is None else self._planner.labels(cell.cell, given)

    def _note_baseline(self, cell: _Cell, point: PointUnderWay) -> None:
        for i, constraint in enumerate(self.spec.constraints):
            if self._baseline(cell, i) == point.proposal.labels:
                index = len(self.spec.objectives) + i
                value = point.value(constraint, index, point.done)
                if math.isfinite(value):
                    cell.baselines[i] = value

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
        samples = [trial.trial_id for trial in self._planner.samples(point)]
        seeds = self._planner.seeds()
        text = canonical_json([spec, self._planner.space(), seeds, samples])
        digest = hashlib.blake2b(text.encode(), digest_size=3).hexdigest()
        return f"{readable}#{digest}"


def _told(twin: Proposal) -> Told:
    assert twin.state in TOLD
    return twin.state
