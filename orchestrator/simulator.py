"""The real scheduler on a virtual clock: durations are given, faults are drawn from a seed.

    run = Simulation(
        [Group("train", Shape(cpus=1))], group=[0] * 100, seconds=[60.0] * 100,
        nodes=[NodeUp(0.0, "a", cpus=8, gpus=0, memory=32 * 10**9)],
    ).run()
    run.makespan, run.utilisation["cpus"], run.mean_wait["train"]

The same arguments and seed give the same `log_hash`. Workers that died or were killed still report
what they ran, as a frozen node does when it wakes up: the scheduler must not believe them.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from sensweep.orchestrator.events import (
    Cancel,
    Command,
    Dispatch,
    Ended,
    Event,
    Finished,
    KillWorker,
    NodeDown,
    NodeUp,
    RetireWorker,
    StartWorker,
    Tick,
    WorkerDied,
    WorkerReady,
)
from sensweep.orchestrator.moves import Parents, State
from sensweep.orchestrator.policy import Group, Policy
from sensweep.orchestrator.scheduler import Scheduler


@dataclass(frozen=True, slots=True)
class Delays:
    """Seconds that a worker takes to start, to exit, and to see that its trial is cancelled."""

    start: float = 5.0
    exit: float = 0.1
    cancel: float = 0.1


@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong, at random.

    Attributes:
        worker_deaths: per worker and hour, exponential.
        node_losses: per node and hour, exponential; it is back after `node_away` seconds.
        raising, hanging, dirty: fractions of attempts that fail, that never end by themselves and
            ignore `Cancel` (their groups need a timeout), and that leave their worker changed.
    """

    worker_deaths: float = 0.0
    node_losses: float = 0.0
    node_away: float = 60.0
    raising: float = 0.0
    hanging: float = 0.0
    dirty: float = 0.0


@dataclass(frozen=True, slots=True)
class Run:
    """How a simulated sweep went.

    Attributes:
        makespan: seconds until the last trial was settled.
        utilisation: fraction of the cpus and gpus that were up during which trials held them.
        mean_wait: seconds from ready to dispatched, by group (Little's law: the mean number
            of ready trials, times the makespan, by the number of dispatches).
        longest_starved: longest stretch, in seconds and by group, in which it had ready trials
            and none running.
        events: how many were handled.
        log_hash: digest of all events and commands.
    """

    makespan: float
    utilisation: dict[str, float]
    mean_wait: dict[str, float]
    longest_starved: dict[str, float]
    events: int
    log_hash: str


class Simulation:
    """One simulated sweep; `scheduler` may be inspected between two calls of `step`."""

    def __init__(
        self,
        groups: Sequence[Group],
        group: ArrayLike,
        seconds: ArrayLike,
        nodes: Sequence[NodeUp],
        *,
        parents: Parents | None = None,
        priority: ArrayLike = 0,
        policy: Policy | None = None,
        delays: Delays | None = None,
        faults: Faults | None = None,
        seed: int = 0,
    ):
        """Plan the trials; `nodes` join at their `now`. Columns are as in `Scheduler.add`."""
        self.scheduler = Scheduler(policy)
        self.now = 0.0
        self._seconds = np.asarray(seconds, float)
        self._delays = delays or Delays()
        self._faults = faults or Faults()
        self._random = random.Random(seed)
        self._agenda: list[tuple[float, int, Event]] = []
        self._scheduled = 0
        self._handled = 0
        self._log = hashlib.blake2b(digest_size=16)
        self._hanging: set[tuple[int, int]] = set()  # (trial, attempt)
        self._up: dict[str, NodeUp] = {}
        self._present = np.zeros(2)  # cpus and gpus that are up
        self._dispatched = np.zeros(len(groups))
        self._ready_time = np.zeros(len(groups))  # integral of the number of ready trials
        self._starved = np.zeros(len(groups))
        self._longest_starved = np.zeros(len(groups))
        self._busy_time = np.zeros(2)  # integrals of held and of present (cpus, gpus)
        self._present_time = np.zeros(2)
        for each in groups:
            self.scheduler.add_group(each)
        self._amounts = np.array([(each.shape.cpus, each.shape.gpus) for each in groups])
        for node in nodes:
            self._at(node.now, node)
        self._groups = np.broadcast_to(np.asarray(group), self._seconds.shape)
        self._obey(self.scheduler.add(0.0, self._groups, parents, priority))

    def step(self) -> tuple[Event, list[Command]] | None:
        """Handle the next event; returns it and what followed, None when all is over.

        A sweep is over when it is finished, or when nothing can happen any more.
        """
        deadline = self.scheduler.next_deadline()
        if self.scheduler.finished or (not self._agenda and deadline is None):
            return None
        if self._agenda and (deadline is None or self._agenda[0][0] <= deadline):
            event = heapq.heappop(self._agenda)[2]
        else:
            event = Tick(max(deadline or 0.0, self.now))
        self._pass_time(event.now)
        self._follow(event)
        commands = self.scheduler.handle(event)
        self._handled += 1
        self._log.update(repr((event, commands)).encode())
        self._obey(commands)
        return event, commands

    def run(self) -> Run:
        """Step to the end."""
        while self.step() is not None:
            pass
        names = [group.name for group in self.scheduler.groups]
        busy = self._busy_time / np.maximum(self._present_time, 1e-12)
        waits = self._ready_time / np.maximum(self._dispatched, 1)
        return Run(
            makespan=self.now,
            utilisation={"cpus": float(busy[0]), "gpus": float(busy[1])},
            mean_wait=dict(zip(names, waits.tolist(), strict=True)),
            longest_starved=dict(zip(names, self._longest_starved.tolist(), strict=True)),
            events=self._handled,
            log_hash=self._log.hexdigest(),
        )

    def send(self, event: Event) -> None:
        """Put an event of the caller's own on the agenda, such as `StopAll`."""
        self._at(event.now, event)

    def _at(self, when: float, event: Event) -> None:
        self._scheduled += 1  # events of one instant keep their order
        heapq.heappush(self._agenda, (when, self._scheduled, event))

    def _pass_time(self, now: float) -> None:
        """Account for what was held, present and waiting since the last event."""
        passed, self.now = now - self.now, now
        counts = self.scheduler.counts()
        ready, running = counts[:, State.READY], counts[:, State.RUNNING]
        self._ready_time += passed * ready
        self._starved = np.where((ready > 0) & (running == 0), self._starved + passed, 0.0)
        self._longest_starved = np.maximum(self._longest_starved, self._starved)
        self._busy_time += passed * (running @ self._amounts)
        self._present_time += passed * self._present

    def _follow(self, event: Event) -> None:
        """Let nodes come and go."""
        if isinstance(event, NodeUp):
            self._up[event.node] = event
            self._present += event.cpus, event.gpus
            if self._faults.node_losses:
                lost = event.now + self._random.expovariate(self._faults.node_losses / 3600)
                self._at(lost, NodeDown(lost, event.node))
        elif isinstance(event, NodeDown) and event.node in self._up:
            node, back = self._up.pop(event.node), event.now + self._faults.node_away
            self._present -= node.cpus, node.gpus
            self._at(back, NodeUp(back, node.node, node.cpus, node.gpus, node.memory))

    def _obey(self, commands: list[Command]) -> None:
        """Do what the scheduler says, as the driver and the workers would."""
        for command in commands:
            match command:
                case StartWorker():
                    ready = self.now + self._delays.start
                    self._at(ready, WorkerReady(ready, command.worker))
                    if self._faults.worker_deaths:
                        lived = self._random.expovariate(self._faults.worker_deaths / 3600)
                        end = self.now + lived
                        self._at(end, WorkerDied(end, command.worker, "died"))
                case RetireWorker() | KillWorker():
                    end = self.now + self._delays.exit
                    self._at(end, WorkerDied(end, command.worker, "exited"))
                case Dispatch():
                    self._run(command)
                case Cancel():
                    if (command.trial, command.attempt) not in self._hanging:
                        seen = self.now + self._delays.cancel
                        stopped = Finished(
                            seen, command.trial, command.attempt, command.worker, "stopped"
                        )
                        self._at(seen, stopped)
                case Ended():
                    self._hanging.discard((command.trial, command.attempt))

    def _run(self, command: Dispatch) -> None:
        """Draw how an attempt goes, and when it ends."""
        self._dispatched[self._groups[command.trial]] += 1
        draw, dirty = self._random.random(), self._random.random() < self._faults.dirty
        if draw < self._faults.hanging:
            self._hanging.add((command.trial, command.attempt))
            return
        raises = draw < self._faults.hanging + self._faults.raising
        end = self.now + float(self._seconds[command.trial])
        self._at(
            end,
            Finished(
                end,
                command.trial,
                command.attempt,
                command.worker,
                "failed" if raises else "done",
                worker_ok=not dirty,
            ),
        )
