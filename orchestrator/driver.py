"""The driver: it tells the scheduler what happens, does what it says, and commits what comes back.

It is the only writer of its sweep. One loop:

    events of the executor -> scheduler -> commands -> executor
                                      '-> attempts that ended -> batch -> commit

Dependants may start before their parents' rows are committed; a crash in between runs both again.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from sensweep.orchestrator import events as ev
from sensweep.orchestrator.attempt import Assignment, Outcome, Selected
from sensweep.orchestrator.batch import Batch
from sensweep.orchestrator.executor_events import Died, ExecutorEvent, Node, Ready, Returned
from sensweep.orchestrator.live import Live, Running
from sensweep.orchestrator.moves import State
from sensweep.orchestrator.needs import choose
from sensweep.orchestrator.nodes import Shape
from sensweep.orchestrator.plan import Plan
from sensweep.orchestrator.scheduler import Group, Policy, Scheduler
from sensweep.orchestrator.study import Stage
from sensweep.orchestrator.trial import Trial, canonical_json
from sensweep.results.errors import Fenced
from sensweep.results.store import Home

COMMIT_EVERY = 1.0  # seconds of finished trials that one commit groups, at most
COMPACT_EVERY = 200  # commits after which the small parts are merged
LOOK_EVERY = 0.5  # seconds between looks at stop requests, nodes and the clock
OBJECTIVES = ("validation_accuracy", "value")  # what "best so far" shows, the first that occurs


@dataclass(frozen=True, slots=True)
class Orders:
    """What a driver is to do: run this plan as this sweep of this home.

    Attributes:
        study: the resolved study and its provenance, recorded with the driver's epoch.
        artifacts: what the home has of the plan's trials that are done, by trial_id.
        attempts: attempts that this sweep has recorded of trials that are not done, by trial_id.
    """

    home: str
    sweep: str
    plan: Plan
    study: Mapping[str, object]
    artifacts: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    attempts: Mapping[str, int] = field(default_factory=dict)
    policy: Policy = field(default_factory=Policy)


class Executor(Protocol):
    """What runs attempts; `RayExecutor` is the real one."""

    def nodes(self) -> dict[str, Node]:
        """List the live nodes by name."""

    def start(self, worker: int, node: str, shape: Shape) -> None:
        """Start a worker process; `Ready` or `Died` follows."""

    def run(self, worker: int, assignment: Assignment) -> None:
        """Execute an attempt on a ready worker; `Returned` or `Died` follows."""

    def end(self, worker: int) -> None:
        """End a worker's process at once."""

    def poll(self, timeout: float) -> list[ExecutorEvent]:
        """Wait up to `timeout` seconds for events; return all there are."""

    def close(self) -> None:
        """End all workers."""


class Driver:
    """Runs one sweep to its end. `run` blocks; `beat` may be called from other threads."""

    def __init__(self, orders: Orders, executor: Executor) -> None:
        self.orders = orders
        self.live = Live()
        self._executor = executor
        self._home = Home(orders.home)
        self._trials: tuple[Trial, ...] = orders.plan.trials
        self._study = orders.plan.study
        self._shapes = {name: _shape(stage) for name, stage in self._study.stages.items()}
        self._resources = {
            name: canonical_json(stage.resources.model_dump(mode="json"))
            for name, stage in self._study.stages.items()
        }
        self._roots = tuple(str(folder) for folder in self._study.folders)
        self._folder = str(Path(orders.home).absolute())
        self._scheduler = Scheduler(orders.policy)
        self._index = {trial.trial_id: i for i, trial in enumerate(self._trials)}
        self._artifacts: dict[int, Sequence[Mapping[str, Any]]] = {
            self._index[trial_id]: saved for trial_id, saved in orders.artifacts.items()
        }
        self._outcomes: dict[tuple[int, int], Outcome] = {}
        self._dispatched: dict[tuple[int, int], _Dispatched] = {}
        self._done_at: dict[int, float] = {}
        self._cancelled: set[tuple[str, int, int]] = set()
        self._nodes: set[str] = set()
        self._batch = Batch()
        self._committing: Future[int] | None = None
        self._committer = ThreadPoolExecutor(1, "sensweep-commit")
        self._stopping: str | None = None
        self._fenced: Exception | None = None

    # ---- called from other threads

    def beat(self, key: tuple[str, int, int], latest: tuple[str, float, int | None] | None) -> bool:
        """Take a running attempt's sign of life; answer whether it should stop.

        An attempt that this driver does not know (an older driver's, or one given up) should.
        """
        running = self.live.running.get(key)
        if running is None:
            return True
        running.latest = latest
        return key in self._cancelled

    def _keep_lease(self) -> None:
        """Beat for the lease, whatever the loop and the commits are waiting for."""
        while not self._ended_lease.wait(self._writer.heartbeat_interval):
            try:
                self._writer.heartbeat()
            except Fenced as error:
                self._fenced = error
                return
            except OSError as error:  # a full or unreachable disk may recover before the lease ends
                self.live.message = f"cannot write the lease: {error}"

    # ---- the loop

    def run(self) -> dict[str, object]:
        """Run the sweep to its end.

        Returns:
            stages (trials by stage and state), executed (trials that ended in this run) and
            stopped (why it ended early, or None).

        Raises:
            SweepBusy: another driver runs it.
            Fenced: another driver has taken it over.
        """
        with self._home.open_sweep(self.orders.sweep, study=self.orders.study) as writer:
            self._writer = writer
            self._ended_lease = threading.Event()
            threading.Thread(target=self._keep_lease, daemon=True).start()
            try:
                planned = self.orders.plan.columns(range(len(self._trials)))
                writer.commit({"trials": planned})
                self._obey(self._add_trials())
                self._loop()
                self._commit(wait=True)
                self._publish()
                writer.compact()
                writer.collect()
            finally:
                self._executor.close()
                self._committer.shutdown(wait=True)
                self._ended_lease.set()
        return {
            "stages": self._counts(),
            "executed": self.live.finished,
            "stopped": self._stopping,
        }

    def _loop(self) -> None:
        looked = -LOOK_EVERY
        while True:
            now = time.monotonic()
            if now - looked >= LOOK_EVERY:
                looked = now
                self._look(now)
            if self._scheduler.finished:
                return
            for event in self._executor.poll(self._patience(now)):
                self._obey(self._take(event))
                if self._stopping is None and self._trials_spent():
                    self._stop(f"the budget of {self._study.budget.trials} trials is spent")
            if self._batch and time.monotonic() - self._batch.since >= COMMIT_EVERY:
                self._commit(wait=False)

    def _patience(self, now: float) -> float:
        """Seconds to wait for an event before something else is due."""
        deadline = self._scheduler.next_deadline()
        wait = LOOK_EVERY if deadline is None else min(LOOK_EVERY, max(0.0, deadline - now))
        if self._batch:
            wait = min(wait, max(0.0, self._batch.since + COMMIT_EVERY - now))
        return wait

    def _look(self, now: float) -> None:
        """Look at everything that does not announce itself."""
        if self._fenced is not None:
            raise self._fenced
        if self._stopping is None and (reason := self._reason_to_stop(now)):
            self._stop(reason)
        self._see_nodes(now)
        self._obey(self._scheduler.handle(ev.Tick(now)))
        unplaceable = [self._scheduler.groups[i] for i in self._scheduler.unplaceable()]
        if unplaceable:
            wanted = ", ".join(f"{group.name} ({group.shape})" for group in unplaceable)
            self.live.message = f"no node is large enough for {wanted}; waiting for one to join"
        self._publish()

    def _reason_to_stop(self, now: float) -> str | None:
        budget = self._study.budget
        if budget.wall_time is not None and now - self.live.started > budget.wall_time:
            return f"the budget of {budget.wall_time:g} s of wall time is spent"
        return self._writer.stop_requested()

    def _trials_spent(self) -> bool:
        limit = self._study.budget.trials
        return limit is not None and self.live.finished >= limit

    def _stop(self, reason: str) -> None:
        self._stopping = reason
        self._obey(self._scheduler.handle(ev.StopAll(time.monotonic(), reason)))

    def _see_nodes(self, now: float) -> None:
        nodes = self._executor.nodes()
        for name in self._nodes - nodes.keys():
            self._obey(self._scheduler.handle(ev.NodeDown(now, name)))
        for name in sorted(nodes.keys() - self._nodes):
            node = nodes[name]
            up = ev.NodeUp(now, name, node.cpus, node.gpus, node.memory)
            self._obey(self._scheduler.handle(up))
        self._nodes = set(nodes)
        self.live.slots = max(1, int(sum(node.cpus for node in nodes.values())))

    def _counts(self) -> dict[str, dict[str, int]]:
        table = self._scheduler.counts()
        return {
            group.name: {state.name.lower(): int(row[state]) for state in State if row[state]}
            for group, row in zip(self._scheduler.groups, table, strict=True)
        }

    def _publish(self) -> None:
        status = self.live.snapshot(self._counts()) | {"epoch": self._writer.epoch}
        try:
            self._writer.write_live(status)
        except OSError as error:  # for display only: the sweep goes on without it
            self.live.message = f"cannot write the status: {error}"

    # ---- commands

    def _add_trials(self) -> list[ev.Command]:
        """Hand the plan to the scheduler: a group per stage, deeper stages first."""
        plan = self.orders.plan
        group = {
            name: self._scheduler.add_group(
                Group(
                    name,
                    self._shapes[name],
                    self._study.stages[name].timeout,
                    retries=self._study.stages[name].retries,
                )
            )
            for name in plan.stages
        }
        groups = [group[trial.stage] for trial in self._trials]
        states = {"done": State.DONE, "failed": State.FAILED}
        return self._scheduler.add(
            time.monotonic(),
            group=groups,
            parents=list(plan.parents),
            priority=groups,
            state=[states.get(status, State.WAITING) for status in plan.status],
            attempts=[self.orders.attempts.get(trial.trial_id, 0) for trial in self._trials],
        )

    def _obey(self, commands: list[ev.Command]) -> None:
        pending = deque(commands)
        while pending:
            match command := pending.popleft():
                case ev.Dispatch():
                    self._dispatch(command)
                case ev.Ended():
                    self._ended(command)
                case ev.StartWorker():
                    self._executor.start(command.worker, command.node, command.shape)
                case ev.RetireWorker() | ev.KillWorker():
                    self._executor.end(command.worker)
                    gone = ev.WorkerDied(time.monotonic(), command.worker, "ended by the driver")
                    pending.extend(self._scheduler.handle(gone))
                case ev.Cancel():
                    self._cancelled.add(self._key(command.trial, command.attempt))
                case ev.Skipped():
                    pass  # the scheduler's counts show them; a skipped trial has no attempt

    def _key(self, trial: int, attempt: int) -> tuple[str, int, int]:
        return self._trials[trial].trial_id, attempt, self._writer.epoch

    def _dispatch(self, command: ev.Dispatch) -> None:
        trial, now = self._trials[command.trial], time.monotonic()
        key = self._key(command.trial, command.attempt)
        shape = self._shapes[trial.stage]
        parents = self.orders.plan.parents[command.trial]
        ready = max((self._done_at.get(i, 0.0) for i in parents), default=0.0)
        self._dispatched[command.trial, command.attempt] = _Dispatched(
            now, max(ready, self.live.started), command.worker
        )
        self.live.running[key] = Running(trial.trial_id, trial.stage, label(trial), now)
        self._executor.run(
            command.worker,
            Assignment(
                key=key,
                task=trial.task,
                params=trial.params,
                seed=trial.seed,
                sweep=self.orders.sweep,
                home=self._folder,
                log=self._log(key),
                roots=self._roots,
                parents=tuple(
                    Selected(p.stage, p.select, choose(self._artifacts.get(index, ()), p.select))
                    for p, index in zip(trial.parents, parents, strict=True)
                ),
                keep=self._study.keeps(trial.stage),
                threads=max(1, int(shape.cpus)),
                gpus=shape.gpus,
            ),
        )

    def _log(self, key: tuple[str, int, int]) -> str:
        trial_id, attempt, epoch = key
        return f"logs/{self.orders.sweep}/{trial_id}.{epoch}.{attempt}.log"

    # ---- what came back

    def _take(self, event: ExecutorEvent) -> list[ev.Command]:
        now = time.monotonic()
        match event:
            case Ready():
                return self._scheduler.handle(ev.WorkerReady(now, event.worker))
            case Died():
                return self._scheduler.handle(ev.WorkerDied(now, event.worker, event.reason))
            case Returned():
                trial_id, attempt, epoch = event.outcome.key
                trial = self._index[trial_id]
                if epoch != self._writer.epoch or (trial, attempt) not in self._dispatched:
                    self._scheduler.stale += 1  # of an older driver, or given up
                    return []
                self._outcomes[trial, attempt] = event.outcome
                finished = ev.Finished(
                    now,
                    trial,
                    attempt,
                    event.worker,
                    event.outcome.status,
                    worker_ok=event.outcome.changed is None,
                )
                return self._scheduler.handle(finished)

    def _ended(self, command: ev.Ended) -> None:
        """An attempt is over: its rows, if it has any to give, go into the next commit."""
        if command.attempt == 0:
            return
        trial, now = self._trials[command.trial], time.monotonic()
        key = self._key(command.trial, command.attempt)
        sent = self._dispatched.pop((command.trial, command.attempt))
        self.live.running.pop(key, None)
        self._cancelled.discard(key)
        outcome = self._outcomes.pop((command.trial, command.attempt), None)
        if outcome is None:  # its worker is gone
            outcome = Outcome(key, "failed", started=time.time() - (now - sent.at))
            outcome.seconds = now - sent.at
        status: str = command.outcome
        if status == "lost" and command.final:
            status = "failed"
        if status == "stopped" and self._stopping:
            status = "lost"  # a later run repeats it
        if status == "done" and self.orders.plan.status[command.trial] == "rebuild":
            status = "rebuilt"  # its rows are there already
        if command.reason:
            outcome.error = outcome.error or command.reason
        if status in ("done", "rebuilt"):
            self._artifacts[command.trial] = outcome.artifacts
            self._done_at[command.trial] = now
            self.live.ended(trial.stage, outcome.seconds)
            for name, value, *_ in reversed(outcome.rows):
                if name in OBJECTIVES:
                    self.live.offer(name, value, f"{trial.stage} {label(trial)}")
                    break
        self._batch.add(
            outcome,
            status=status,
            log=self._log(key),
            worker=sent.worker,
            queued=sent.at - sent.ready,
            resources=self._resources[trial.stage],
        )

    def _commit(self, wait: bool) -> None:
        """Hand the batch to the committer, one commit at a time; `wait` for all to be there."""
        while True:
            if self._committing is not None and (wait or self._committing.done()):
                self._committing.result()
                self._committing = None
            if self._committing is None and self._batch:
                tables, self._batch = self._batch.tables(), Batch()
                self._committing = self._committer.submit(self._commit_at_last, tables)
            if not wait or self._committing is None:
                return

    def _commit_at_last(self, tables: dict[str, dict[str, list[object]]]) -> int:
        """Commit, however often it takes: a full disk loses nothing that finished."""
        while True:
            try:
                generation = self._writer.commit(tables)
            except OSError as error:
                self.live.message = f"cannot commit, will try again: {error}"
                time.sleep(COMMIT_EVERY)
                continue
            if self.live.message.startswith("cannot commit"):
                self.live.message = ""
            if generation % COMPACT_EVERY == 0:
                self._writer.compact()
                self._writer.collect()
            return generation


@dataclass(frozen=True, slots=True)
class _Dispatched:
    at: float
    ready: float
    worker: int


def _shape(stage: Stage) -> Shape:
    resources = stage.resources
    return Shape(resources.cpus, resources.gpus, resources.memory or 0)


def label(trial: Trial) -> str:
    """Name a trial for people: its labels and its seed."""
    return " ".join([*map(str, trial.point.values()), f"s{trial.seed}"])
