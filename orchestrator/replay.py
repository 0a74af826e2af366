"""Searches on a virtual clock: the real scheduler and the real searches, trials from a recording.

    replay = Replay(
        Searches(ChainPlanner(study), study.axes), study, play, [NodeUp(0.0, "a", 4, 0, 8 * 10**9)]
    )
    while replay.step() is not None and replay.played < 1000:
        ...
    replay.told                    # what became of each point, when, and at what cost

`play(trial)` gives a trial's rows with the seconds between them, wherever they are from: a table of
trainings that were run once, a formula. What the driver does about growth is done here: a search is
asked when less than one ready trial is waiting, a trial that it gives up is cancelled. A cancelled
attempt stops after `Delays.cancel` seconds, wherever it is.
"""

from __future__ import annotations

import heapq
import json
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from sensweep.orchestrator.events import (
    Command,
    Dispatch,
    Ended,
    Event,
    NodeUp,
    Skipped,
    StopTrial,
    Tick,
)
from sensweep.orchestrator.growth import Growth
from sensweep.orchestrator.nodes import Shape
from sensweep.orchestrator.policy import Group, Policy
from sensweep.orchestrator.search_values import Row
from sensweep.orchestrator.searches import Searches
from sensweep.orchestrator.simulator import Delays, Faults, Simulation
from sensweep.orchestrator.study import Study
from sensweep.orchestrator.trial import Trial


@dataclass(frozen=True, slots=True)
class Beat:
    """Rows that a trial yields together, `seconds` after those before; the last beat ends it."""

    seconds: float
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Settled:
    """A point that was told.

    Attributes:
        now: virtual seconds.
        played: beats of all attempts until then, in vain or not.
        search, number: which point.
        state: complete, pruned, failed or duplicate.
        values: one per objective; empty where it failed.
        trial_ids: the trials that answer it.
    """

    now: float
    played: int
    search: str
    number: int
    state: str
    values: tuple[float, ...]
    trial_ids: tuple[str, ...]


# A trial -> its recording, of one beat at least.
Play = Callable[[Trial], Sequence[Beat]]


class Replay(Simulation):
    """The searches of one study; ends when they do, their confirmations included.

    Attributes:
        played: beats so far of all attempts, those of stopped and lost ones included.
        told: points in the order in which they were settled.
    """

    def __init__(
        self,
        searches: Searches,
        study: Study,
        play: Play,
        nodes: Sequence[NodeUp],
        *,
        policy: Policy | None = None,
        delays: Delays | None = None,
        faults: Faults | None = None,
        seed: int = 0,
    ) -> None:
        """Begin the searches; `delays`, `faults` and `seed` are the simulation's."""
        self.played = 0
        self.told: list[Settled] = []
        self._searches = searches
        self._play = play
        self._trials: list[Trial] = []
        self._index: dict[str, int] = {}
        self._recordings: list[Sequence[Beat]] = []
        self._offsets: list[list[float]] = []  # of a recording's beats from its start
        self._running: dict[int, int] = {}  # trial -> the attempt that is running
        self._beats: list[tuple[float, int, int, int]] = []  # when, trial, attempt, which
        chain = study.chain()
        self._stages = {stage: i for i, stage in enumerate(chain)}
        super().__init__(
            [_group(study, stage) for stage in chain],
            group=[],
            seconds=[],
            nodes=nodes,
            policy=policy,
            delays=delays,
            faults=faults,
            seed=seed,
        )
        self._ask_if_idle()

    def step(self) -> tuple[Event, list[Command]] | None:
        """Handle the next event and what the searches make of it."""
        stepped = super().step()
        if stepped is None:
            return None
        event, commands = stepped
        self._beat()
        self._tell(commands)
        self._ask_if_idle()
        return event, commands

    # ---- trials

    def _run(self, command: Dispatch) -> None:
        """Start an attempt: its end is the simulation's business, the beats before it are ours."""
        super()._run(command)
        self._running[command.trial] = command.attempt
        for number, offset in enumerate(self._offsets[command.trial][:-1]):
            when = self.now + offset
            heapq.heappush(self._beats, (when, command.trial, command.attempt, number))
            self.send(Tick(when))  # so that there is a step at that time

    def _beat(self) -> None:
        """Show the searches what running trials have measured by now."""
        while self._beats and self._beats[0][0] <= self.now:
            _, trial, attempt, number = heapq.heappop(self._beats)
            if self._running.get(trial) == attempt:
                self.played += 1
                rows = self._recordings[trial][number].rows
                self._grow(self._searches.measured(self._trials[trial].trial_id, rows))

    def _tell(self, commands: Sequence[Command]) -> None:
        """Tell the searches what has ended."""
        pending = deque(commands)
        while pending:
            match command := pending.popleft():
                case Ended():
                    self._ended(command)
                case Skipped():
                    for trial in command.trials:
                        self._grow(
                            self._searches.ended(self._trials[trial].trial_id, "skipped", ())
                        )

    def _ended(self, command: Ended) -> None:
        self._running.pop(command.trial, None)
        trial = self._trials[command.trial]
        if command.outcome == "done":
            self.played += 1
            rows = [row for beat in self._recordings[command.trial] for row in beat.rows]
            self._grow(self._searches.ended(trial.trial_id, "done", rows))
        elif command.final and command.outcome != "stopped":
            self._grow(self._searches.ended(trial.trial_id, "failed", ()))

    # ---- searches

    def _ask_if_idle(self) -> None:
        while self.scheduler.backlog < 1 and self._searches.can_ask():
            self._grow(self._searches.next())

    def _grow(self, growth: Growth) -> None:
        """Do what a search wants done."""
        for line in growth.asks:
            if line["state"] != "running":
                self.told.append(self._settled(line))
        self._add([trial for trial in growth.add if trial.trial_id not in self._index])
        for trial_id in growth.stop:
            stop = StopTrial(self.now, self._index[trial_id], growth.reason)
            commands = self.scheduler.handle(stop)
            self._obey(commands)
            self._tell(commands)

    def _settled(self, line: dict[str, object]) -> Settled:
        return Settled(
            now=self.now,
            played=self.played,
            search=str(line["search"]),
            number=int(str(line["number"])),
            state=str(line["state"]),
            values=tuple(json.loads(str(line["values"]))),
            trial_ids=tuple(json.loads(str(line["trial_ids"]))),
        )

    def _add(self, trials: Sequence[Trial]) -> None:
        """Plan trials as the driver does: deeper stages first."""
        if not trials:
            return
        for trial in trials:
            recording = self._play(trial)
            self._index[trial.trial_id] = len(self._trials)
            self._trials.append(trial)
            self._recordings.append(recording)
            self._offsets.append(list(accumulate(beat.seconds for beat in recording)))
        groups = [self._stages[trial.stage] for trial in trials]
        lengths = [offsets[-1] for offsets in self._offsets[-len(trials) :]]
        self._groups = np.append(self._groups, groups).astype(int)
        self._seconds = np.append(self._seconds, lengths)
        parents = [tuple(self._index[p.trial_id] for p in trial.parents) for trial in trials]
        commands = self.scheduler.add(self.now, groups, parents, priority=groups)
        self._obey(commands)
        self._tell(commands)


def _group(study: Study, stage: str) -> Group:
    found = study.stages[stage]
    resources = found.resources
    shape = Shape(resources.cpus, resources.gpus, resources.memory or 0)
    return Group(stage, shape, found.timeout, retries=found.retries)
