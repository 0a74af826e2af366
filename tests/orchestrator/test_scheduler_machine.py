"""Arbitrary drivers: any order of events, true, late or invented, keeps every rule."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from scheduler_oracle import Oracle

from sensweep.orchestrator.events import (
    Finished,
    NodeDown,
    NodeUp,
    StopAll,
    StopTrial,
    Tick,
    WorkerDied,
    WorkerReady,
)
from sensweep.orchestrator.moves import FINAL, State
from sensweep.orchestrator.nodes import Shape
from sensweep.orchestrator.policy import Group, Policy
from sensweep.orchestrator.scheduler import Scheduler

GB = 10**9
SHAPES = [Shape(1), Shape(2), Shape(1, 0.5), Shape(2, 1), Shape(4, 2, 2 * GB)]
NODES = {"a": (4, 2, 4 * GB), "b": (2, 1, GB), "c": (8, 0, 4 * GB)}
outcomes = st.sampled_from(["done", "done", "done", "stopped", "failed"])


class AnyDriver(RuleBasedStateMachine):
    """A driver that obeys, in any order and at any pace, on a cluster that comes and goes."""

    @initialize(
        shapes=st.lists(st.sampled_from(SHAPES), min_size=1, max_size=3),
        timeout=st.sampled_from([None, 20.0]),
        retries=st.integers(0, 1),
        patience=st.sampled_from([0.0, 5.0]),
        grace=st.sampled_from([0.0, 3.0]),
    )
    def begin(self, shapes, timeout, retries, patience, grace):
        self.now = 0.0
        self.stopped = False
        self.scheduler = Scheduler(Policy(patience, grace, placement_timeout=5.0))
        for index, shape in enumerate(shapes):
            self.scheduler.add_group(Group(f"g{index}", shape, timeout, 2, retries))
        self.oracle = Oracle(self.scheduler, [], [])

    def tell(self, event) -> None:
        self.oracle.observe(event, self.scheduler.handle(event))

    # ---- what a sound driver tells

    @rule(data=st.data(), number=st.integers(1, 4))
    def add(self, data, number):
        first = len(self.oracle.parents)
        parents = [
            tuple(data.draw(st.lists(st.integers(0, first + i - 1), max_size=2)))
            if first + i
            else ()
            for i in range(number)
        ]
        groups = data.draw(
            st.lists(
                st.integers(0, len(self.scheduler.groups) - 1), min_size=number, max_size=number
            )
        )
        entering = data.draw(
            st.lists(
                st.sampled_from([State.WAITING] * 4 + [State.DONE, State.FAILED]),
                min_size=number,
                max_size=number,
            )
        )
        priority = data.draw(st.integers(-2, 2))
        self.oracle.parents += parents
        self.oracle.groups += groups
        self.oracle.settled |= {
            first + i: state for i, state in enumerate(entering) if state != State.WAITING
        }
        commands = self.scheduler.add(self.now, groups, parents, priority, entering)
        self.oracle.observe(None, commands)

    @rule(name=st.sampled_from(sorted(NODES)))
    def node_up(self, name):
        self.tell(NodeUp(self.now, name, *NODES[name]))

    @rule(name=st.sampled_from(sorted(NODES)))
    def node_down(self, name):
        self.tell(NodeDown(self.now, name))

    @precondition(lambda self: self.starting())
    @rule(data=st.data())
    def worker_ready(self, data):
        self.tell(WorkerReady(self.now, data.draw(st.sampled_from(self.starting()))))

    @precondition(lambda self: self.oracle.workers)
    @rule(data=st.data())
    def worker_died(self, data):
        worker = data.draw(st.sampled_from(sorted(self.oracle.workers)))
        self.tell(WorkerDied(self.now, worker, "died"))

    @precondition(lambda self: self.oracle.running)
    @rule(data=st.data(), outcome=outcomes, ok=st.booleans())
    def finished(self, data, outcome, ok):
        trial = data.draw(st.sampled_from(sorted(self.oracle.running)))
        attempt, worker = self.oracle.running[trial]
        self.tell(Finished(self.now, trial, attempt, worker, outcome, ok))

    @rule(seconds=st.sampled_from([0.1, 2.0, 6.0, 25.0]))
    def wait(self, seconds):
        self.now += seconds
        self.tell(Tick(self.now))

    @precondition(lambda self: self.oracle.parents)
    @rule(data=st.data())
    def stop_trial(self, data):
        trial = data.draw(st.integers(0, len(self.oracle.parents) - 1))
        self.tell(StopTrial(self.now, trial))

    @precondition(lambda self: len(self.oracle.parents) > 8)
    @rule()
    def stop_all(self):
        self.stopped = True
        self.tell(StopAll(self.now, "ctrl-c"))

    # ---- what a confused one tells

    @rule(
        trial=st.integers(-1, 20),
        attempt=st.integers(0, 3),
        worker=st.integers(0, 30),
        ok=st.booleans(),
    )
    def invented(self, trial, attempt, worker, ok):
        if self.oracle.running.get(trial) == (attempt, worker):
            return
        event = Finished(self.now, trial, attempt, worker, "done", ok)
        before, stale = self.everything(), self.scheduler.stale
        assert self.scheduler.handle(event) == []
        assert self.scheduler.stale == stale + 1
        assert self.everything() == before

    # ---- the end

    def teardown(self):
        """With every node up and workers that work, all trials settle: nothing is stuck."""
        if not hasattr(self, "scheduler"):
            return
        for name in NODES:
            self.node_up(name)
        for _ in range(40 * len(self.oracle.parents) + 40):
            if self.scheduler.finished:
                break
            self.now += 1.0
            self.tell(Tick(self.now))
            for worker in [n for n, w in self.oracle.workers.items() if w.told_to_go]:
                self.tell(WorkerDied(self.now, worker, "exited"))
            for worker in self.starting():
                self.tell(WorkerReady(self.now, worker))
            for trial, (attempt, worker) in list(self.oracle.running.items()):
                if self.oracle.running.get(trial) == (attempt, worker):
                    self.tell(Finished(self.now, trial, attempt, worker, "done"))
        assert self.scheduler.finished
        states = {State(state) for state in self.scheduler.states().tolist()}
        assert states <= (FINAL | {State.READY, State.WAITING} if self.stopped else FINAL)

    def starting(self) -> list[int]:
        return [n for n, w in self.oracle.workers.items() if not w.ready and not w.told_to_go]

    def everything(self) -> tuple:
        """All that others may know."""
        return (
            self.scheduler.states().tolist(),
            self.scheduler.counts().tolist(),
            self.scheduler.next_deadline(),
            self.scheduler.unplaceable(),
            self.scheduler.finished,
            [self.scheduler.story(trial) for trial in range(len(self.oracle.parents))],
        )


AnyDriver.TestCase.settings = settings(
    max_examples=120, stateful_step_count=40, deadline=None, derandomize=True, database=None
)
TestAnyDriver = AnyDriver.TestCase
