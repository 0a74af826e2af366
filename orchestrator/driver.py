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
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sensweep.orchestrator import events as ev
from sensweep.orchestrator.attempt import Assignment, Outcome
from sensweep.orchestrator.committer import Committer
from sensweep.orchestrator.executor_events import (
    Died,
    ExecutorEvent,
    Grown,
    Node,
    Observed,
    Ready,
    Returned,
)
from sensweep.orchestrator.growth import Growth
from sensweep.orchestrator.live import Live, Running
from sensweep.orchestrator.moves import State
from sensweep.orchestrator.nodes import Shape
from sensweep.orchestrator.plan import Status
from sensweep.orchestrator.roll import Orders, Roll, label
from sensweep.orchestrator.scheduler import Scheduler
from sensweep.orchestrator.search_values import Row
from sensweep.orchestrator.searching import Searching
from sensweep.orchestrator.trial import Trial, trial_columns
from sensweep.results.errors import Fenced
from sensweep.results.store import Home

LOOK_EVERY = 0.5  # seconds between looks at stop requests, nodes and the clock
OBJECTIVES = ("validation_accuracy", "value")  # what "best so far" shows, the first that occurs


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

    def put(self, event: ExecutorEvent) -> None:
        """Take an event of another thread; `poll` returns it with the others."""

    def poll(self, timeout: float) -> list[ExecutorEvent]:
        """Wait up to `timeout` seconds for events; return all there are."""

    def close(self) -> None:
        """End all workers."""


class Driver:
    """Runs one sweep to its end. `run` blocks; `beat` may be called from other threads."""

    _roll: Roll
    _committer: Committer
    _searching: Searching | None = None

    def __init__(self, orders: Orders, executor: Executor) -> None:
        self.orders = orders
        self.live = Live()
        self._executor = executor
        self._home = Home(orders.home)
        self._study = orders.plan.study
        self._scheduler = Scheduler(orders.policy)
        self._outcomes: dict[tuple[int, int], Outcome] = {}
        self._dispatched: dict[tuple[int, int], _Dispatched] = {}
        self._done_at: dict[int, float] = {}
        self._cancelled: set[tuple[str, int, int]] = set()
        self._nodes: set[str] = set()
        self._stopping: str | None = None
        self._fenced: Exception | None = None

    # ---- called from other threads

    def beat(
        self,
        key: tuple[str, int, int],
        latest: tuple[str, float, int | None] | None,
        observed: tuple[Row, ...] = (),
    ) -> bool:
        """Take a running attempt's sign of life; answer whether it should stop.

        An attempt that this driver does not know (an older driver's, or one given up) should.
        `observed` are its rows since the last beat of the names that it was told to watch.
        """
        running = self.live.running.get(key)
        if running is None:
            return True
        running.latest = latest
        if observed:
            self._executor.put(Observed(key, observed))
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
            self._roll = Roll(self.orders, writer.epoch)
            self._committer = Committer(writer, self._say)
            self._ended_lease = threading.Event()
            threading.Thread(target=self._keep_lease, daemon=True).start()
            try:
                self._begin()
                self._loop()
                self._committer.commit(wait=True)
                self._publish()
                writer.compact()
                writer.collect()
            finally:
                self._executor.close()
                if self._searching is not None:
                    self._searching.close()
                self._committer.close()
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
            if self._is_over():
                return
            for event in self._executor.poll(self._patience(now)):
                self._obey(self._take(event))
                if self._stopping is None and self._trials_spent():
                    self._stop(f"the budget of {self._study.budget.trials} trials is spent")
            if self._committer.due_in(time.monotonic()) == 0.0:
                self._committer.commit(wait=False)
            self._ask_if_idle()

    def _is_over(self) -> bool:
        if not self._scheduler.finished:
            return False
        searching = self._searching
        return self._stopping is not None or searching is None or searching.over

    def _ask_if_idle(self) -> None:
        """Have a search ask before a worker is idle: one ready trial ahead of those that start."""
        if self._searching is None or self._stopping is not None:
            return
        if self._scheduler.backlog < 1:
            self._searching.ask()

    def _say(self, message: str) -> None:
        self.live.message = message

    def _patience(self, now: float) -> float:
        """Seconds to wait for an event before something else is due."""
        deadline = self._scheduler.next_deadline()
        wait = LOOK_EVERY if deadline is None else min(LOOK_EVERY, max(0.0, deadline - now))
        due = self._committer.due_in(now)
        return wait if due is None else min(wait, due)

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

    def _begin(self) -> None:
        """Record the whole plan under this driver's epoch, and hand it to the scheduler."""
        plan = self.orders.plan
        self._roll.groups(self._scheduler)
        self._writer.commit({"trials": trial_columns(plan.trials, plan.code)})
        self._add(plan.trials, plan.status)
        if self._study.search is not None:
            from sensweep.orchestrator.search_resume import continued  # and Optuna with it

            searches = continued(self._study, self._home)
            self._searching = Searching(searches, self._executor.put)
            settled, growth = searches.begin()
            self._grow(settled, settled=True)
            self._take_growth(growth)

    def _add(self, trials: Sequence[Trial], status: Sequence[Status]) -> None:
        columns = self._roll.add(trials, status)
        self._obey(self._scheduler.add(time.monotonic(), **columns))

    def _grow(self, trials: Sequence[Trial], settled: bool = False) -> None:
        """Plan trials of a search: all are recorded, those that are not there yet are added."""
        if not trials or self._searching is None:
            return
        columns = self._searching.searches.columns(trials)
        self._committer.batch.add_search([], columns)
        new, status = self._roll.new(trials, settled)
        self._add(new, status)
        if settled:
            return
        states = self._scheduler.states()
        for trial_id in dict.fromkeys(trial.trial_id for trial in trials):
            state = State(int(states[self._roll.index[trial_id]]))
            if state in (State.FAILED, State.SKIPPED, State.STOPPED):
                self._searching.ended(trial_id, "failed" if state == State.FAILED else "skipped")

    def _take_growth(self, growth: Growth) -> None:
        """Do what a search wants done."""
        self._committer.batch.add_search(growth.asks, {})
        self._grow(growth.add)
        for trial_id in growth.stop:
            stop = ev.StopTrial(time.monotonic(), self._roll.index[trial_id], growth.reason)
            self._obey(self._scheduler.handle(stop))

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
                    self._cancelled.add(self._roll.key(command.trial, command.attempt))
                case ev.Skipped():
                    self._skipped(command)

    def _skipped(self, command: ev.Skipped) -> None:
        """The scheduler's counts show them; a skipped trial has no attempt."""
        if self._searching is not None:
            for trial in command.trials:
                self._searching.ended(self._roll.trials[trial].trial_id, "skipped")

    def _dispatch(self, command: ev.Dispatch) -> None:
        trial, now = self._roll.trials[command.trial], time.monotonic()
        assignment = self._roll.assignment(command.trial, command.attempt)
        parents = self._roll.parents(command.trial)
        ready = max((self._done_at.get(i, 0.0) for i in parents), default=0.0)
        self._dispatched[command.trial, command.attempt] = _Dispatched(
            now, max(ready, self.live.started), command.worker
        )
        running = Running(trial.trial_id, trial.stage, label(trial), now)
        self.live.running[assignment.key] = running
        self._executor.run(command.worker, assignment)

    # ---- what came back

    def _take(self, event: ExecutorEvent) -> list[ev.Command]:
        now = time.monotonic()
        match event:
            case Ready():
                return self._scheduler.handle(ev.WorkerReady(now, event.worker))
            case Died():
                return self._scheduler.handle(ev.WorkerDied(now, event.worker, event.reason))
            case Grown():
                assert self._searching is not None
                self._take_growth(self._searching.taken(event))
                return []
            case Observed():
                if self._searching is not None and event.key in self.live.running:
                    self._searching.measured(event.key[0], event.rows)
                return []
            case Returned():
                trial_id, attempt, epoch = event.outcome.key
                trial = self._roll.index[trial_id]
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
        if command.attempt == 0:  # stopped while it waited
            self._tell_search(command, "stopped")
            return
        trial, now = self._roll.trials[command.trial], time.monotonic()
        key = self._roll.key(command.trial, command.attempt)
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
        if status == "stopped" and self._stopping and command.reason.startswith(self._stopping):
            status = "lost"  # a later run repeats it
        if status == "done" and self._roll.status[command.trial] == "rebuild":
            status = "rebuilt"  # its rows are there already
        if command.reason:
            outcome.error = outcome.error or command.reason
        if status in ("done", "rebuilt"):
            self._roll.artifacts[command.trial] = outcome.artifacts
            self._done_at[command.trial] = now
            self.live.ended(trial.stage, outcome.seconds)
            for name, value, *_ in reversed(outcome.rows):
                if name in OBJECTIVES:
                    self.live.offer(name, value, f"{trial.stage} {label(trial)}")
                    break
        self._committer.batch.add(
            outcome,
            status=status,
            log=self._roll.log(key),
            worker=sent.worker,
            queued=sent.at - sent.ready,
            resources=self._roll.resources[trial.stage],
        )
        self._tell_search(command, status, outcome.rows)

    def _tell_search(self, command: ev.Ended, status: str, rows: Sequence[Row] = ()) -> None:
        if self._searching is None or not command.final:
            return
        trial_id = self._roll.trials[command.trial].trial_id
        if status in ("done", "rebuilt"):
            self._searching.ended(trial_id, "done", rows)
        elif status == "failed":
            self._searching.ended(trial_id, "failed")
        elif status == "stopped":  # points that need it too will not have it
            self._searching.ended(trial_id, "skipped")


@dataclass(frozen=True, slots=True)
class _Dispatched:
    at: float
    ready: float
    worker: int
