"""From a study to its trials, and what of them is left to do. Runs nothing, imports no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sensweep.orchestrator.errors import FieldError, InputError, joined
from sensweep.orchestrator.recorded import Recorded
from sensweep.orchestrator.stage_plan import StagePlan, named
from sensweep.orchestrator.study import Study
from sensweep.orchestrator.trial import Trial

Status = Literal["done", "new", "rebuild", "failed", "skipped", "stopped", "settled"]


@dataclass(frozen=True, slots=True)
class Plan:
    """The trials of a study, each after its parents, and the status of each.

    Attributes:
        study: what was planned.
        stages: the stages in the order of the trials.
        trials: ordered by stage, then seed, then point.
        parents: per trial, the indices of its parents.
        status: per trial: `done` in this home; `new`; `rebuild` (done, but a checkpoint that a
            new dependant needs is gone); `failed` (raised before, and is not to be retried);
            `skipped` (a parent failed); `stopped` (early, by a search of this sweep); `settled`,
            of a search's point that was told, to be left as it is.
        code: per stage, the digests of its code's files (of all trials of the stage).
        searched: trials like those that its searches will run, and how many of each at most.
    """

    study: Study
    stages: tuple[str, ...]
    trials: tuple[Trial, ...]
    parents: tuple[tuple[int, ...], ...]
    status: tuple[Status, ...]
    code: Mapping[str, Mapping[str, str]]
    searched: tuple[tuple[Trial, int], ...] = ()

    @property
    def to_run(self) -> list[int]:
        """The indices of the trials that are new or must be rebuilt."""
        return [i for i, status in enumerate(self.status) if status in ("new", "rebuild")]

    def counts(self) -> dict[str, Counter[Status]]:
        """How many trials of each stage have each status."""
        found: dict[str, Counter[Status]] = {stage: Counter() for stage in self.stages}
        for trial, status in zip(self.trials, self.status, strict=True):
            found[trial.stage][status] += 1
        return found


@dataclass(frozen=True, slots=True)
class Estimate:
    """What is left to run would take, going by the durations of what is done.

    Attributes:
        seconds: of wall time on all of the cluster's cores, were they always busy.
        worker_hours: hours of attempts, summed.
        gpu_hours: hours of attempts, times their GPUs.
        measured: trials to run whose duration was estimated from that of similar ones.
        stated: those for which only the study's own `expected` is there.
        unknown: those with neither, which the figures leave out.
    """

    seconds: float
    worker_hours: float
    gpu_hours: float
    measured: int
    stated: int
    unknown: int


def make_plan(study: Study, recorded: Recorded | None = None, retry_failed: bool = False) -> Plan:
    """Expand a study into its trials and compare them with what a home has.

    Args:
        study: the study, under the profile it was loaded with.
        recorded: what the home has; nothing by default.
        retry_failed: plan trials that failed as new.

    Raises:
        InputError: a task, its params, its code or its data are not usable; or two trials are
            one and the same.
    """
    recorded = recorded or Recorded()
    trials: list[Trial] = []
    parents: list[tuple[int, ...]] = []
    code: dict[str, dict[str, str]] = {}
    of_stage: dict[str, range] = {}
    searched = study.searched()
    try:
        for stage in study.order():
            start = len(trials)
            planned = StagePlan(study, stage)
            if stage in searched:
                of_stage[stage], code[stage] = range(start, start), planned.files
                continue
            for trial, indices in planned.trials(trials, of_stage, study.seeds):
                trials.append(trial)
                parents.append(indices)
            of_stage[stage], code[stage] = range(start, len(trials)), planned.files
        _refuse_twins(trials)
    except FieldError as error:
        raise InputError(f"{study.source}: {joined(error.path)}: {error.message}") from None
    search_trials: tuple[tuple[Trial, int], ...] = ()
    if study.search is not None:
        from sensweep.orchestrator.chain import ChainPlanner

        planner = ChainPlanner(study)
        planner.check()
        code |= planner.code
        search_trials = tuple(planner.expected())
    status = tuple(status_of(trials, recorded, retry_failed))
    return Plan(
        study=study,
        stages=tuple(of_stage),
        trials=tuple(trials),
        parents=tuple(parents),
        status=status,
        code=code,
        searched=search_trials,
    )


def estimate(plan: Plan, recorded: Recorded, cpus: float) -> Estimate:
    """Estimate the time that a plan takes on a cluster of so many CPU cores.

    Of a search all its points are counted, those that are told already too.
    """
    core_seconds = worker_seconds = gpu_seconds = 0.0
    counts: Counter[str] = Counter()
    for trial, count in [*((plan.trials[i], 1) for i in plan.to_run), *plan.searched]:
        stage = plan.study.stages[trial.stage]
        seconds = recorded.expected_seconds(trial.stage, trial.task, trial.params, trial.point)
        known = "measured"
        if seconds is None:
            seconds, known = stage.expected, "stated"
        if seconds is None:
            counts["unknown"] += count
            continue
        counts[known] += count
        worker_seconds += seconds * count
        core_seconds += seconds * count * stage.resources.cpus
        gpu_seconds += seconds * count * stage.resources.gpus
    return Estimate(
        core_seconds / cpus,
        worker_seconds / 3600,
        gpu_seconds / 3600,
        counts["measured"],
        counts["stated"],
        counts["unknown"],
    )


def searched_counts(plan: Plan) -> Counter[str]:
    """How many trials of each stage the searches run at most."""
    found: Counter[str] = Counter()
    for trial, count in plan.searched:
        found[trial.stage] += count
    return found


def _refuse_twins(trials: Sequence[Trial]) -> None:
    """Refuse two places of the study that compute the same: one of them is a mistake."""
    seen: dict[str, Trial] = {}
    for trial in trials:
        twin = seen.setdefault(trial.trial_id, trial)
        if twin is not trial:
            raise FieldError(
                f"at {named(trial.point)}: computes the same as {twin.stage} at "
                f"{named(twin.point)} (task, params, data and seed are equal); drop one of them",
                "stages",
                trial.stage,
            )


def status_of(trials: Sequence[Trial], recorded: Recorded, retry_failed: bool) -> list[Status]:
    """Compare trials, each after its parents, with the record; see `Plan.status`.

    Dependants decide whether a parent is rebuilt. A parent that is not among `trials` is not
    looked at.
    """
    status: list[Status] = [
        "done" if trial.trial_id in recorded.done
        else "stopped" if trial.trial_id in recorded.stopped
        else "failed" if trial.trial_id in recorded.failed and not retry_failed
        else "new"
        for trial in trials
    ]  # fmt: skip
    at = {trial.trial_id: i for i, trial in enumerate(trials)}
    parents = [[(p, at[p.trial_id]) for p in t.parents if p.trial_id in at] for t in trials]
    for i, found in enumerate(parents):
        if status[i] == "new" and any(
            status[j] in ("failed", "skipped", "stopped") for _, j in found
        ):
            status[i] = "skipped"
    for i in reversed(range(len(trials))):
        if status[i] not in ("new", "rebuild"):
            continue
        for parent, j in parents[i]:
            if status[j] == "done" and not recorded.has_checkpoint(parent.trial_id, parent.select):
                status[j] = "rebuild"
    return status
