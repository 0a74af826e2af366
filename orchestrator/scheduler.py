"""The scheduler: events in, commands out; no I/O, no clock of its own, no Ray.

    scheduler = Scheduler(Policy())
    train = scheduler.add_group(Group("train", Shape(cpus=1)))
    score = scheduler.add_group(Group("score", Shape(cpus=2), timeout_s=600))
    commands = scheduler.add(0.0, group=[train, score], parents=[(), (0,)], priority=[0, 1])
    commands += scheduler.handle(NodeUp(0.0, "laptop", cpus=2, gpus=0, memory=8 * 10**9))
    # StartWorker(worker=0, ...) -> the driver starts it, and later:
    commands = scheduler.handle(WorkerReady(1.5, worker=0))  # [Dispatch(trial=0, attempt=1, ...)]

The words are defined in `events.py`, `Group` and `Policy` in `policy.py`; what may become of a
trial in `moves.py`; which workers exist, and why, in `placement.py`. The public surface is what
this example uses, and `next_deadline`, `finished`, `counts`, `states`, `story`, `groups`,
`unplaceable` and `stale`.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import assert_never

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sensweep.orchestrator.events import (
    Cancel,
    Command,
    Dispatch,
    Ended,
    Ending,
    Event,
    Finished,
    KillWorker,
    NodeDown,
    NodeUp,
    Skipped,
    StopAll,
    StopTrial,
    Tick,
    WorkerDied,
    WorkerReady,
)
from sensweep.orchestrator.moves import FINAL, IllegalMove, Parents, State, Trials
from sensweep.orchestrator.nodes import Slot
from sensweep.orchestrator.placement import Placement
from sensweep.orchestrator.policy import Group, Policy

STORY_LENGTH = 8  # moves of a live trial that are remembered


@dataclass(slots=True)
class _Live:
    """An attempt that is with a worker."""

    attempt: int
    slot: Slot
    cancelled: tuple[Ending, str] | None = None  # what "stopped" will mean, and why


class Scheduler:
    """Decides what runs where. Not thread-safe: one owner calls it with one event at a time."""

    def __init__(self, policy: Policy | None = None):
        self.policy = policy or Policy()
        self.stale = 0  # events dropped because they were late, repeated or unknown
        self.groups: list[Group] = []
        self._now = float("-inf")
        self._stopping = False
        self._trials = Trials()
        self._placement = Placement(self.policy.patience)
        self._shape_of: list[int] = []  # group -> shape
        self._queues: list[list[int]] = []  # per shape, a heap of (-priority, trial) in one int
        self._live: dict[int, _Live] = {}
        self._stories: dict[int, deque[tuple[float, State, int, int]]] = {}
        # Timeouts of one group, and grace, are constant, so that order of entry is order of expiry.
        self._timeouts: list[OrderedDict[int, float]] = []
        self._kills: OrderedDict[int, float] = OrderedDict()
        self._out: list[Command] = []

    # ---- the plan

    def add_group(self, group: Group) -> int:
        """Register a group; returns the index by which `add` and `counts` name it."""
        shape = self._placement.add_shape(group.shape)
        if shape == len(self._queues):
            self._queues.append([])
        self.groups.append(group)
        self._shape_of.append(shape)
        self._timeouts.append(OrderedDict())
        return self._trials.add_group()

    def add(
        self,
        now: float,
        group: ArrayLike,
        parents: Parents | None = None,
        priority: ArrayLike = 0,
        state: ArrayLike = State.WAITING,
        attempts: ArrayLike = 0,
    ) -> list[Command]:
        """Append trials to the plan, at any time. They are numbered on from the last ones.

        Each column has one value per trial; all but `group` may be one scalar for all.

        Args:
            now: as in events.
            group: indices that `add_group` returned.
            parents: a list of each trial's parents, or CSR arrays (offsets [n + 1], indices).
                A parent comes before its dependants in the plan; repetitions count once.
            priority: int32; the highest goes first among ready trials of a shape, then plan order.
            state: WAITING, or the final state that a trial already has from an earlier run.
            attempts: made by earlier runs; the next attempt is numbered one higher.

        Raises:
            ValueError: a column's length, a group, a parent or a state is out of range.
        """
        ready, skipped = self._trials.add(group, parents, priority, state, attempts)
        self._begin(now)
        for because, trials in skipped.items():
            self._out.append(Skipped(tuple(trials), because))
        shapes = np.asarray(self._shape_of)[self._trials.group[ready]]
        keys = (-self._trials.priority[ready].astype(np.int64) << 32) + ready
        for shape in np.unique(shapes).tolist():
            self._enqueue(shape, keys[shapes == shape].tolist())
        return self._settle()

    # ---- what happened

    def handle(self, event: Event) -> list[Command]:
        """Take one event; returns what is to be done, in order."""
        self._begin(event.now)
        match event:
            case Finished():
                self._finished(event)
            case WorkerReady():
                self._worker_ready(event)
            case WorkerDied():
                self._worker_died(event)
            case NodeUp():
                self._node_up(event)
            case NodeDown():
                self._node_down(event)
            case StopTrial():
                self._stop_trial(event)
            case StopAll():
                self._stop_all(event)
            case Tick():
                pass
            case _:
                assert_never(event)
        return self._settle()

    def _begin(self, now: float) -> None:
        self._now = max(self._now, now)
        self._out = []

    def _settle(self) -> list[Command]:
        """Everything that follows from an event: deadlines, dispatches, workers."""
        self._expire()
        if not self._stopping:
            for shape, queue in enumerate(self._queues):
                while self._placement.ready[shape] and (slot := self._placement.take(shape)):
                    self._dispatch(self._pop(queue), slot)
            self._placement.settle(self._now, self._out)
        return self._out

    def _finished(self, event: Finished) -> None:
        live = self._live.get(event.trial)
        if live is None or (live.attempt, live.slot.worker) != (event.attempt, event.worker):
            self.stale += 1
            return
        outcome: Ending = event.outcome
        reason = ""
        if event.outcome == "stopped" and live.cancelled:
            outcome, reason = live.cancelled
        self._end(event.trial, outcome, reason)
        if event.worker_ok:
            self._placement.offer(live.slot, self._now, self._out)
        else:
            self._placement.retire(live.slot, self._out)

    def _worker_ready(self, event: WorkerReady) -> None:
        slot = self._placement.slots.get(event.worker)
        if slot is None or slot.phase != Slot.STARTING:
            self.stale += 1
            return
        self._placement.worker_ready(slot, self._now, self._out)

    def _worker_died(self, event: WorkerDied) -> None:
        slot = self._placement.slots.get(event.worker)
        if slot is None:
            self.stale += 1
            return
        trial = slot.trial
        self._placement.worker_died(slot, self._now)
        if trial >= 0:
            self._lose(trial, f"worker died: {event.reason}")

    def _node_up(self, event: NodeUp) -> None:
        if event.node in self._placement.nodes.by_name:
            self.stale += 1
            return
        self._placement.node_up(event.node, event.cpus, event.gpus, event.memory)

    def _node_down(self, event: NodeDown) -> None:
        node = self._placement.nodes.by_name.get(event.node)
        if node is None:
            self.stale += 1
            return
        for slot in self._placement.node_down(node):
            if slot.trial >= 0:
                self._lose(slot.trial, f"node {event.node} went down")

    def _stop_trial(self, event: StopTrial) -> None:
        known = 0 <= event.trial < self._trials.size
        if not known or State(self._trials.state.item(event.trial)) in FINAL:
            self.stale += 1
        elif event.trial in self._live:
            self._cancel(event.trial, "stopped", event.reason)
        else:
            if self._trials.state.item(event.trial) == State.READY:
                self._placement.ready[self._shape(event.trial)] -= 1  # its key is dropped by _pop
            self._move(event.trial, State.STOPPED)
            self._out.append(Ended(event.trial, 0, "stopped", True, event.reason))
            self._skip_dependants(event.trial)

    def _stop_all(self, event: StopAll) -> None:
        self._stopping = True
        for trial in list(self._live):
            self._cancel(trial, "stopped", event.reason)

    # ---- trials

    def _shape(self, trial: int) -> int:
        return self._shape_of[self._trials.group.item(trial)]

    def _push(self, trial: int) -> None:
        """Put one ready trial in the queue of its shape."""
        key = (-self._trials.priority.item(trial) << 32) + trial
        self._enqueue(self._shape(trial), [key])

    def _enqueue(self, shape: int, keys: list[int]) -> None:
        queue = self._queues[shape]
        if len(keys) > len(queue) // 16:  # then rebuilding the heap is the cheaper way
            queue += keys
            heapq.heapify(queue)
        else:
            for key in keys:
                heapq.heappush(queue, key)
        self._placement.ready[shape] += len(keys)

    def _pop(self, queue: list[int]) -> int:
        """The next ready trial; one that was stopped while it waited is passed over."""
        while True:
            trial = heapq.heappop(queue) & 0xFFFFFFFF
            if self._trials.state.item(trial) == State.READY:
                return trial

    def _dispatch(self, trial: int, slot: Slot) -> None:
        attempt = self._trials.attempts.item(trial) + 1
        self._trials.attempts[trial] = attempt
        self._placement.ready[slot.shape] -= 1
        slot.trial = trial
        self._live[trial] = _Live(attempt, slot)
        self._move(trial, State.RUNNING)
        group = self._trials.group.item(trial)
        timeout = self.groups[group].timeout_s
        if timeout is not None:
            self._timeouts[group][trial] = self._now + timeout
        self._out.append(Dispatch(trial, attempt, slot.worker))

    def _cancel(self, trial: int, outcome: Ending, reason: str) -> None:
        """Ask a running attempt to stop; the first reason to do so is the one that counts."""
        live = self._live[trial]
        if live.cancelled:
            return
        live.cancelled = outcome, reason
        self._timeouts[self._trials.group.item(trial)].pop(trial, None)
        self._kills[trial] = self._now + self.policy.grace
        self._out.append(Cancel(trial, live.attempt, live.slot.worker, reason))

    def _expire(self) -> None:
        """Cancel what ran too long; kill what was cancelled and did not stop."""
        for group, timeouts in zip(self.groups, self._timeouts, strict=True):
            while timeouts and timeouts[trial := next(iter(timeouts))] <= self._now:
                self._cancel(trial, "failed", f"timeout: ran longer than {group.timeout_s:g} s")
        while self._kills and self._kills[trial := next(iter(self._kills))] <= self._now:
            live = self._live[trial]
            outcome, reason = live.cancelled or ("stopped", "")
            self._placement.leave(live.slot)
            self._out.append(KillWorker(live.slot.worker, reason))
            self._end(trial, outcome, f"{reason}; killed {self.policy.grace:g} s later")

    def _lose(self, trial: int, reason: str) -> None:
        """A trial's worker is gone; one that was told to stop has then stopped."""
        outcome, reason = self._live[trial].cancelled or ("lost", reason)
        self._end(trial, outcome, reason)

    def _end(self, trial: int, outcome: Ending, reason: str) -> None:
        """An attempt is over; what that means for its trial and the trial's dependants."""
        live = self._live.pop(trial)
        live.slot.trial = -1
        group = self._trials.group.item(trial)
        self._timeouts[group].pop(trial, None)
        self._kills.pop(trial, None)
        if outcome == "lost":
            self._trials.lost[trial] += 1
            lost, most = self._trials.lost.item(trial), self.groups[group].max_lost
            self._move(trial, State.LOST)
            self._move(trial, State.READY if lost < most else State.FAILED)
            reason = f"{reason} (attempt lost {lost} of {most})"
        elif outcome == "failed" and not live.cancelled and self._may_retry(trial, group):
            self._move(trial, State.LOST)
            self._move(trial, State.READY)
        else:
            self._move(trial, _STATES[outcome])
        state = State(self._trials.state.item(trial))
        self._out.append(Ended(trial, live.attempt, outcome, state in FINAL, reason))
        if state == State.READY:
            self._push(trial)
        elif state == State.DONE:
            for ready in self._trials.unlock(trial):
                self._push(ready)
        elif not (self._stopping and state == State.STOPPED):
            # What StopAll ended is not given up: a later run repeats it, and then its dependants.
            self._skip_dependants(trial)

    def _may_retry(self, trial: int, group: int) -> bool:
        """Count an attempt that raised; whether its group lets it be repeated."""
        self._trials.raised[trial] += 1
        return self._trials.raised.item(trial) <= self.groups[group].retries

    def _skip_dependants(self, trial: int) -> None:
        skipped = self._trials.skip_dependants(trial)
        if skipped:
            self._out.append(Skipped(tuple(skipped), trial))

    def _move(self, trial: int, to: State) -> None:
        """Make one move, and remember it while the trial is alive."""
        try:
            self._trials.move(trial, to)
        except IllegalMove as error:
            raise IllegalMove(f"{error}; {self.story(trial)}") from None
        if to in FINAL:
            self._stories.pop(trial, None)
            return
        live = self._live.get(trial)
        worker = live.slot.worker if live else -1
        story = self._stories.setdefault(trial, deque(maxlen=STORY_LENGTH))
        story.append((self._now, to, self._trials.attempts.item(trial), worker))

    # ---- what others may know

    @property
    def finished(self) -> bool:
        """Whether nothing runs, and nothing will unless trials are added."""
        if self._live:
            return False
        counts = self._trials.counts
        return self._stopping or not any(row[State.WAITING] or row[State.READY] for row in counts)

    @property
    def backlog(self) -> int:
        """Ready trials beyond those that workers which are starting will take."""
        return self._placement.backlog

    def counts(self) -> NDArray[np.int64]:
        """Trials by group (rows, as registered) and state (columns, as in `State`)."""
        return np.array(self._trials.counts, np.int64).reshape(-1, len(State))

    def states(self) -> NDArray[np.int8]:
        """The `State` of every trial, a read-only view that is valid until the next call."""
        view = self._trials.state[: self._trials.size]
        view.flags.writeable = False
        return view

    def story(self, trial: int) -> str:
        """The last moves of a live trial, in one line."""
        moves = [
            f"{now:.3f} s {state.name.lower()}"
            + (f" (attempt {attempt}, worker {worker})" if worker >= 0 else "")
            for now, state, attempt, worker in self._stories.get(trial, ())
        ]
        return f"story of trial {trial}: {', '.join(moves) or 'nothing yet, or settled'}"

    def unplaceable(self) -> list[int]:
        """Groups with ready trials that no node is large enough for, and has not been for a while.

        They stay ready, and run if a large enough node joins. "A while" is
        `Policy.placement_timeout`.
        """
        return [
            index
            for index, shape in enumerate(self._shape_of)
            if self._trials.counts[index][State.READY]
            and self._placement.unplaceable(shape)
            and self._now >= self._placement.wanting[shape] + self.policy.placement_timeout
        ]

    def next_deadline(self) -> float | None:
        """When a `Tick` is due if nothing else happens before; None if never."""
        times = [next(iter(queue.values())) for queue in (*self._timeouts, self._kills) if queue]
        if not self._stopping:
            times += self._placement.deadlines()
            times += [
                report
                for shape, since in self._placement.wanting.items()
                if (report := since + self.policy.placement_timeout) > self._now
                and self._placement.unplaceable(shape)
            ]
        return min(times, default=None)


_STATES: dict[Ending, State] = {
    "done": State.DONE,
    "stopped": State.STOPPED,
    "failed": State.FAILED,
}
