"""An independent account of what a scheduler did, from its events and commands alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from sensweep.orchestrator.events import (
    Cancel,
    Command,
    Dispatch,
    Ended,
    Event,
    KillWorker,
    NodeDown,
    NodeUp,
    RetireWorker,
    Skipped,
    StartWorker,
    WorkerDied,
    WorkerReady,
)
from sensweep.orchestrator.moves import DEAD, FINAL, State
from sensweep.orchestrator.scheduler import Scheduler


@dataclass
class OracleNode:
    """A node with its resources kept as Ray keeps them: gpus one by one, fractions best-fit."""

    cpus: float
    memory: int
    devices: list[float]

    def take(self, shape) -> list[tuple[int, float]]:
        self.cpus = round(self.cpus - shape.cpus, 4)
        self.memory -= shape.memory
        taken = []
        if shape.gpus >= 1:
            whole = [d for d, free in enumerate(self.devices) if free == 1.0]
            taken = [(d, 1.0) for d in whole[: int(shape.gpus)]]
            assert len(taken) == shape.gpus, "not enough whole gpus"
        elif shape.gpus:
            fits = [(free, d) for d, free in enumerate(self.devices) if free >= shape.gpus]
            assert fits, "no gpu with that fraction free"
            taken = [(min(fits)[1], shape.gpus)]
        for device, amount in taken:
            self.devices[device] = round(self.devices[device] - amount, 4)
        assert self.cpus >= 0, "cpus over-committed"
        assert self.memory >= 0, "memory over-committed"
        return taken

    def give_back(self, shape, taken) -> None:
        self.cpus = round(self.cpus + shape.cpus, 4)
        self.memory += shape.memory
        for device, amount in taken:
            self.devices[device] = round(self.devices[device] + amount, 4)


@dataclass
class OracleWorker:
    node: str
    shape: object
    taken: list[tuple[int, float]]
    ready: bool = False
    told_to_go: bool = False
    running: tuple[int, int] | None = None  # (trial, attempt)


@dataclass
class Oracle:
    """Checks every rule that a driver relies on; `observe` after each event."""

    scheduler: Scheduler
    parents: list[tuple[int, ...]]
    groups: list[int]
    nodes: dict[str, OracleNode] = field(default_factory=dict)
    workers: dict[int, OracleWorker] = field(default_factory=dict)
    attempts: dict[int, int] = field(default_factory=dict)
    running: dict[int, tuple[int, int]] = field(default_factory=dict)  # trial -> attempt, worker
    settled: dict[int, State] = field(default_factory=dict)
    ended: list[Ended] = field(default_factory=list)
    worked_on: dict[int, int] = field(default_factory=dict)  # worker -> dispatches

    def observe(self, event: Event | None, commands: Sequence[Command]) -> None:
        match event:
            case NodeUp():
                if event.node not in self.nodes:
                    self.nodes[event.node] = OracleNode(
                        event.cpus, event.memory, [1.0] * int(event.gpus)
                    )
            case NodeDown():
                if self.nodes.pop(event.node, None):
                    for number in [n for n, w in self.workers.items() if w.node == event.node]:
                        del self.workers[number]
            case WorkerDied():
                worker = self.workers.pop(event.worker, None)
                if worker:
                    self.nodes[worker.node].give_back(worker.shape, worker.taken)
            case WorkerReady():
                if event.worker in self.workers:
                    self.workers[event.worker].ready = True
        for command in commands:
            self.obey(command)
        self.check_states()

    def obey(self, command: Command) -> None:
        match command:
            case StartWorker():
                assert command.worker not in self.worked_on, "worker id used twice"
                self.worked_on[command.worker] = 0
                taken = self.nodes[command.node].take(command.shape)
                self.workers[command.worker] = OracleWorker(command.node, command.shape, taken)
            case RetireWorker():
                worker = self.workers[command.worker]
                assert worker.running is None, "retired while it ran a trial"
                assert not worker.told_to_go, "told to go twice"
                worker.told_to_go = True
            case KillWorker():
                worker = self.workers[command.worker]
                assert not worker.told_to_go, "told to go twice"
                assert worker.running, "killed without cause"
                worker.told_to_go = True
            case Dispatch():
                self.dispatched(command)
            case Cancel():
                assert self.running[command.trial] == (command.attempt, command.worker)
            case Ended():
                self.end(command)
            case Skipped():
                assert command.trials
                for trial in command.trials:
                    assert trial not in self.attempts, "skipped after it had run"
                    assert trial not in self.settled, "skipped though settled"
                    self.settled[trial] = State.SKIPPED
                    assert any(self.settled.get(p) in DEAD for p in self.parents[trial])
                assert self.settled[command.because] in DEAD

    def dispatched(self, command: Dispatch) -> None:
        worker, trial = self.workers[command.worker], command.trial
        assert worker.ready, "dispatched to a worker that is not ready"
        assert not worker.told_to_go, "dispatched to a worker that was told to go"
        assert worker.running is None, "dispatched to a busy worker"
        assert worker.shape == self.scheduler.groups[self.groups[trial]].shape
        assert trial not in self.running, "two attempts at once"
        assert trial not in self.settled, "dispatched though settled"
        assert command.attempt == self.attempts.get(trial, 0) + 1
        for parent in self.parents[trial]:
            assert self.settled.get(parent) == State.DONE, "dispatched before a parent was done"
        self.attempts[trial] = command.attempt
        self.running[trial] = command.attempt, command.worker
        worker.running = trial, command.attempt
        self.worked_on[command.worker] += 1

    def end(self, command: Ended) -> None:
        self.ended.append(command)
        if command.attempt:
            attempt, number = self.running.pop(command.trial)
            assert attempt == command.attempt
            if number in self.workers:
                self.workers[number].running = None
        else:
            assert command.trial not in self.running
            assert command.outcome == "stopped"
        if command.final:
            assert command.trial not in self.settled
            end = "failed" if command.outcome == "lost" else command.outcome
            self.settled[command.trial] = State[end.upper()]
        else:
            assert command.outcome in ("lost", "failed")
            group = self.scheduler.groups[self.groups[command.trial]]
            assert command.outcome == "lost" or group.retries

    def check_states(self) -> None:
        """The arrays say what the commands said, and the counts say what the arrays say."""
        states = self.scheduler.states()
        assert len(states) == len(self.parents)
        counts = np.zeros_like(self.scheduler.counts())
        np.add.at(counts, (self.groups, states), 1)
        assert np.array_equal(counts, self.scheduler.counts())
        for trial, state in enumerate(states.tolist()):
            assert state == self.settled.get(trial, state)
            assert (state in FINAL) == (trial in self.settled)
            assert (state == State.RUNNING) == (trial in self.running)
            assert state != State.LOST
            if state == State.READY:
                assert all(self.settled.get(p) == State.DONE for p in self.parents[trial])
