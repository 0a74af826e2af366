"""One search: Optuna is asked and told, and every ask and tell is an event that can be committed.

    search = Search("arch=cnn", spec, axes, cell={"arch": "cnn"})
    proposal = search.ask()
    search.tell(proposal.number, "complete", values=[0.12, 0.9])
    rows = search.drain()                       # lines of the table `asks`
    again = Search("arch=cnn", spec, axes, cell={"arch": "cnn"}, events=rows)

The search is a function of its events: `again` proposes what `search` would. Nothing else of
Optuna is kept, in particular no storage of its own; `search_export.py` writes one on request.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import optuna

from sensweep.orchestrator.axes import Axis, Point
from sensweep.orchestrator.errors import FieldError, InputError, joined
from sensweep.orchestrator.search_proposal import Proposal, State, Told, read_event
from sensweep.orchestrator.search_sampler import (
    Space,
    kind,
    make_pruner,
    make_sampler,
    quiet,
    seed_of,
)
from sensweep.orchestrator.search_spec import SearchSpec
from sensweep.orchestrator.search_stop import Halving
from sensweep.orchestrator.trial import canonical_json
from sensweep.results import pareto

# A proposal that repeats one under way is asked again so often, before it is accepted.
ASK_AGAIN = 10
# Optuna's attributes that are not kept: pickles (their samplers are rebuilt by replay), and
# constraints, which have a place of their own.
_NOT_KEPT = ("cma:", "constraint")


class ReplayError(Exception):
    """Optuna does not repeat what a search has recorded; the message is one line."""


class Search:
    """Proposes points of one cell. Not thread-safe; ask it from one thread.

    Attributes:
        name: within the study.
        proposals: all asks, by number; duplicates that were asked again included.
    """

    def __init__(
        self,
        name: str,
        spec: SearchSpec,
        axes: Mapping[str, Axis],
        cell: Point,
        events: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Make a search, or continue one from its `events`: its lines of `asks`, in their order.

        Raises:
            FieldError: the sampler's or the rule's options are wrong.
            ReplayError: this version of Optuna does not repeat what was recorded.
        """
        self.name = name
        self.spec = spec
        self.proposals: list[Proposal] = []
        self._running: dict[int, Proposal] = {}
        self._told: dict[str, Proposal] = {}  # by labels
        self._counted = 0
        self._space = Space(axes, spec.axes, cell)
        self._kind = kind(spec.sampler.name)
        self._directions = [objective.direction for objective in spec.objectives]
        self._halving = Halving(spec.stop, self._directions) if _halves(spec) else None
        self._pruner = make_pruner(spec.stop)
        self._sampler = make_sampler(spec, self._space.axes, seed_of(spec.seed, name))
        self._trials: dict[int, optuna.Trial] = {}  # those that are running
        self._shown: list[int] = []  # numbers that the sampler sees, where there is a window
        self._events = 0
        self._undrained: list[dict[str, object]] = []
        self._study = self._new_study()
        if events:
            self._replay(events)

    # ---- asking and telling

    @property
    def asked(self) -> int:
        """Points that count towards `spec.trials`."""
        return self._counted

    @property
    def running(self) -> list[Proposal]:
        """Points that were asked and not told."""
        return list(self._running.values())

    @property
    def finished(self) -> bool:
        """Whether all its points were asked and told."""
        return self.asked >= self.spec.trials and not self._running

    def told(self, labels: Point) -> Proposal | None:
        """Return the first point that was told with these labels, if there is one."""
        return self._told.get(canonical_json(labels))

    def ask(
        self, labels: Point | None = None, given: Literal["enqueued", "warm"] = "enqueued"
    ) -> Proposal:
        """Return the next point: Optuna's proposal, or `labels` if they are given.

        A proposal that repeats a point under way is told as a duplicate and asked again.
        """
        for again in range(ASK_AGAIN, -1, -1):
            point = self._ask(labels, given if labels is not None else "")
            under_way = [p.labels for p in self.running if p is not point]
            if labels is not None or again == 0 or point.labels not in under_way:
                break
            self._settle(point, "duplicate", optuna.trial.TrialState.FAIL)
        return point

    def report(self, number: int, rung: int, values: Sequence[float]) -> bool:
        """Take a running point's values at a rung (1, 2, ...); answer whether to stop it.

        A rung that it has passed stays passed, also if it comes by again after an interruption.
        """
        point = self.proposals[number]
        if rung in point.reports:
            return False
        stop = self._judge(point, rung, [float(value) for value in values])
        if not stop:
            self._note(point)
            self._record(point)
        return stop

    def _judge(self, point: Proposal, rung: int, values: list[float]) -> bool:
        point.reports[rung] = values
        trial = self._trials.get(point.number)
        if trial is not None and len(values) == 1:  # with several, Optuna takes no reports
            trial.report(values[0], rung)
        if self._halving is not None:
            return self._halving.report(point.number, rung, values)
        with quiet():
            return trial is not None and trial.should_prune()

    def tell(
        self,
        number: int,
        state: Told,
        values: Sequence[float] = (),
        violations: Sequence[float] = (),
        reason: str = "",
    ) -> None:
        """Settle a point. Values that are not finite make it a failure."""
        point = self.proposals[number]
        if state != "failed" and not all(map(math.isfinite, [*values, *violations])):
            state, reason = "failed", "an objective or a constraint is not finite"
        point.reason = reason
        states = optuna.trial.TrialState
        told = states.FAIL
        if state != "failed":
            point.values = [float(value) for value in values]
            point.violations = [float(value) for value in violations]
            # With several objectives Optuna knows no pruned trials. What the point had reached
            # when it was stopped is then its value: for rungs of seeds an estimate as good as
            # that many seeds give. It counts for the sampler alone: its state says `pruned`.
            single = len(self._directions) == 1
            told = states.PRUNED if state == "pruned" and single else states.COMPLETE
        self._settle(point, state, told)

    def _ask(self, labels: Point | None, given: Literal["", "enqueued", "warm"]) -> Proposal:
        number = len(self.proposals)
        if self._kind.stateless:
            self._forget_old()
            self._study.sampler = self._seeded(number)
        if labels is not None:
            self._study.enqueue_trial(self._space.parameters(labels)[0])
        try:
            with quiet():
                trial = self._study.ask()
                chosen = self._space.suggest(trial)
        except FieldError as error:
            raise InputError(f"{joined(('axes', *error.path))}: {error.message}") from None
        except (TypeError, ValueError, AttributeError) as error:
            what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            raise InputError(
                f"search.sampler: {self.spec.sampler.name} cannot propose a point with these "
                f"options: {what}"
            ) from None
        point = Proposal(number, chosen, dict(trial.params), given)
        self._enter(point)
        self._trials[number] = trial
        return point

    def _enter(self, point: Proposal) -> None:
        self.proposals.append(point)
        self._shown.append(point.number)
        self._running[point.number] = point
        self._counted += point.given != "warm"

    def _leave(self, point: Proposal) -> None:
        """Take note that a point is settled: `point` is what became of it."""
        self.proposals[point.number] = point
        del self._running[point.number]
        if point.state == "duplicate":
            self._counted -= 1
        else:
            self._told.setdefault(canonical_json(point.labels), point)

    def _settle(self, point: Proposal, state: State, told: optuna.trial.TrialState) -> None:
        self._tell_optuna(point, told)
        point.state = state
        self._leave(point)
        self._record(point)

    def _tell_optuna(self, point: Proposal, told: optuna.trial.TrialState) -> None:
        self._note(point)
        trial = self._trials.pop(point.number)
        complete = told == optuna.trial.TrialState.COMPLETE
        with quiet():
            if told != optuna.trial.TrialState.FAIL:
                for key, violation in zip(self._constraints(), point.violations, strict=True):
                    trial.set_constraint(key, violation)
            self._study.tell(trial, point.values if complete else None, state=told)

    def _note(self, point: Proposal) -> None:
        """Keep what Optuna noted of a running trial: others are proposed in its light."""
        trial = self._trials[point.number]
        noted = self._study._storage.get_trial_system_attrs(trial._trial_id)
        point.optuna = {k: v for k, v in noted.items() if not k.startswith(_NOT_KEPT)}

    def _constraints(self) -> list[str]:
        return [str(i) for i in range(len(self.spec.constraints))]

    # ---- the history that the sampler sees

    def _new_study(self) -> optuna.Study:
        with quiet():
            return optuna.create_study(
                study_name=self.name,
                sampler=self._sampler,
                pruner=self._pruner,
                directions=self._directions,
            )

    def _seeded(self, number: int) -> optuna.samplers.BaseSampler:
        seed = seed_of(self.spec.seed, f"{self.name}/{number}")
        return make_sampler(self.spec, self._space.axes, seed)

    def _forget_old(self) -> None:
        """Show the sampler a new study when it sees half as much again as its window holds."""
        window = self._kind.window
        if window is not None and len(self._shown) > 1.5 * window:
            self._show(self._best_and_latest(self._shown, window))

    def _best_and_latest(self, numbers: Sequence[int], window: int) -> list[int]:
        """Choose the points that are kept: a quarter of the window for the best, running ones."""
        told = [n for n in numbers if self.proposals[n].state in ("complete", "pruned")]
        complete = [n for n in told if self.proposals[n].feasible]
        kept = {n for n in numbers if self.proposals[n].state == "running"}
        if complete:
            values = [self.proposals[n].values for n in complete]
            ranked = pareto.order(pareto.minimised(values, self._directions))
            kept |= {complete[i] for i in ranked[: window // 4]}
        for number in reversed(told):
            if len(kept) >= window:
                break
            kept.add(number)
        return sorted(kept)

    def _show(self, numbers: Sequence[int]) -> None:
        """Make a study of these points."""
        self._shown = list(numbers)
        self._study = self._new_study()
        self._trials = {n: t for n, t in self._trials.items() if n in self._shown}
        # A running trial, made anew, asks its sampler for parameters, which it has already.
        self._study.sampler = optuna.samplers.RandomSampler(seed=0)
        for number in numbers:
            self._show_one(self.proposals[number])

    def _show_one(self, point: Proposal) -> None:
        states = optuna.trial.TrialState
        single = len(self._directions) == 1
        state = {"running": states.RUNNING, "complete": states.COMPLETE}.get(
            point.state, states.FAIL
        )
        if point.state == "pruned":
            state = states.PRUNED if single else states.COMPLETE
        known = state in (states.COMPLETE, states.PRUNED)
        trial = optuna.trial.create_trial(
            state=state,
            params=point.suggested,
            distributions=self._space.parameters(point.labels)[1],
            values=point.values if state == states.COMPLETE else None,
            system_attrs=dict(point.optuna),
            intermediate_values={r: v[0] for r, v in point.reports.items()} if single else None,
            constraints=(
                dict(zip(self._constraints(), point.violations, strict=True)) if known else None
            ),
        )
        with quiet():
            self._study.add_trial(trial)
            if state == states.RUNNING:
                added = self._study.get_trials(deepcopy=False)[-1]
                self._trials[point.number] = optuna.Trial(self._study, added._trial_id)

    # ---- events

    def begin(self, point: Proposal, trial_ids: Sequence[str]) -> None:
        """Record an ask, with the trials that answer it."""
        point.trial_ids = list(trial_ids)
        self._note(point)
        self._record(point)

    def drain(self) -> list[dict[str, object]]:
        """Return the lines of the table `asks` that were not returned before."""
        rows, self._undrained = self._undrained, []
        return rows

    def _record(self, point: Proposal) -> None:
        optional: dict[str, object] = {
            "given": point.given,
            "optuna": point.optuna,
            "violations": point.violations,
            "reports": {str(rung): values for rung, values in point.reports.items()},
            "reason": point.reason,
        }
        attributes: dict[str, object] = {"suggested": point.suggested}
        attributes |= {key: value for key, value in optional.items() if value}
        self._undrained.append(
            {
                "search": self.name,
                "event": self._events,
                "number": point.number,
                "trial_ids": canonical_json(point.trial_ids),
                "params": canonical_json(point.labels),
                "attributes": canonical_json(attributes),
                "state": point.state,
                "values": canonical_json(point.values),
            }
        )
        self._events += 1

    def _replay(self, events: Sequence[Mapping[str, Any]]) -> None:
        for event in events:
            recorded = read_event(event)
            if recorded.state == "running" and recorded.number == len(self.proposals):
                self._replay_ask(recorded)
            elif recorded.state == "running":
                self._replay_reports(recorded)
            else:
                self._replay_tell(recorded)
            self._events = int(event["event"]) + 1
        if self._kind.stateless:
            self._show(self._shown)
        self._undrained.clear()

    def _replay_ask(self, recorded: Proposal) -> None:
        if self._kind.stateless:  # the sampler will be shown what is there at the end
            window = self._kind.window
            if window is not None and len(self._shown) > 1.5 * window:
                self._shown = self._best_and_latest(self._shown, window)
            self._enter(recorded)
            return
        labels = recorded.labels if recorded.given else None
        point = self._ask(labels, recorded.given)
        if (point.number, point.labels) != (recorded.number, recorded.labels):
            raise ReplayError(
                f"search {self.name}: ask {recorded.number} was {recorded.labels}, and this Optuna "
                f"({optuna.__version__}) proposes {point.labels}; use the version that began the "
                "search (see the provenance in the report), or another `search.seed`"
            )
        point.trial_ids = recorded.trial_ids

    def _replay_reports(self, recorded: Proposal) -> None:
        """Take up the rungs that a point had passed; what was decided there is not judged again."""
        point = self.proposals[recorded.number]
        for rung, values in recorded.reports.items():
            if rung not in point.reports:
                self._judge(point, rung, values)
        point.optuna, point.trial_ids = recorded.optuna, recorded.trial_ids

    def _replay_tell(self, recorded: Proposal) -> None:
        number = recorded.number
        if number == len(self.proposals):  # a duplicate has one event, which is both
            self._replay_ask(recorded)
        point = self.proposals[number]
        self._replay_reports(recorded)
        if self._kind.stateless:
            recorded.given = point.given
            self._leave(recorded)
            return
        point.trial_ids = recorded.trial_ids
        if recorded.state == "duplicate":
            self._settle(point, "duplicate", optuna.trial.TrialState.FAIL)
        else:
            self.tell(
                number,
                recorded.state,  # type: ignore[arg-type]
                recorded.values,
                recorded.violations,
                recorded.reason,
            )


def _halves(spec: SearchSpec) -> bool:
    return spec.stop is not None and spec.stop.by == "halving"
