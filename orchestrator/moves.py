"""What may become of a trial: its states, the table of legal moves, and a million trials in arrays.

A trial is an index. What is known of it lives in numpy columns (some 30 bytes a trial and 10 a
dependency); nothing here knows of workers, time or shapes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

Ints = NDArray[np.int64]
Parents = Sequence[Sequence[int]] | tuple[NDArray[np.integer], NDArray[np.integer]]


class State(IntEnum):
    """Where a trial stands."""

    WAITING = 0  # for a parent to be done
    READY = 1  # every parent is done; may be dispatched
    RUNNING = 2  # an attempt is with a worker
    LOST = 3  # the attempt came to nothing, and may be repeated; passed through within one event
    DONE = 4
    STOPPED = 5  # ended early, on request or of its own accord
    FAILED = 6  # raised, ran out of time, or lost too many workers
    SKIPPED = 7  # a parent failed, was stopped or skipped


MOVES: dict[State, frozenset[State]] = {
    State.WAITING: frozenset({State.READY, State.SKIPPED, State.STOPPED}),
    State.READY: frozenset({State.RUNNING, State.STOPPED}),
    State.RUNNING: frozenset({State.DONE, State.STOPPED, State.FAILED, State.LOST}),
    State.LOST: frozenset({State.READY, State.FAILED}),
    State.DONE: frozenset(),
    State.STOPPED: frozenset(),
    State.FAILED: frozenset(),
    State.SKIPPED: frozenset(),
}
FINAL = frozenset(state for state, after in MOVES.items() if not after)
# Dependants of a trial in one of these can never run.
DEAD = FINAL - {State.DONE}


class IllegalMove(Exception):  # noqa: N818 (as h11 and distributed name theirs, a move)
    """A trial was about to make a move that is not in `MOVES`: a bug, told with its story."""


class Trials:
    """All trials of a sweep in columns, with their dependencies.

    Children are kept in CSR form, one run of edges per (parent, batch): `head[parent]` is the
    parent's latest segment, `segment_next` chains to its earlier ones, so that a search can add
    dependants of old trials at any time.
    """

    def __init__(self) -> None:
        self.size = 0
        self.counts: list[list[int]] = []  # per group, per state
        self.state = np.zeros(0, np.int8)
        self.group = np.zeros(0, np.int32)
        self.priority = np.zeros(0, np.int32)
        self.attempts = np.zeros(0, np.int32)  # dispatched so far; the number of the latest
        self.lost = np.zeros(0, np.int16)  # of these, lost with their worker
        self.raised = np.zeros(0, np.int16)  # of these, raised
        self.pending = np.zeros(0, np.int32)  # parents that are not done
        self._head = np.zeros(0, np.int32)
        self._children = np.zeros(0, np.int32)
        self._edges = 0
        self._segment_start = np.zeros(1, np.int64)
        self._segment_next = np.zeros(0, np.int32)
        self._segments = 0

    def add_group(self) -> int:
        """Make room for one more group in the counts; returns its index."""
        self.counts.append([0] * len(State))
        return len(self.counts) - 1

    def add(
        self,
        group: ArrayLike,
        parents: Parents | None,
        priority: ArrayLike,
        state: ArrayLike,
        attempts: ArrayLike,
    ) -> tuple[Ints, dict[int, list[int]]]:
        """Append trials; `Scheduler.add` documents the columns.

        Returns:
            The added trials that are ready, and those skipped at once, by the parent to blame.

        Raises:
            ValueError: a column's length, a group, a parent or a state is out of range.
        """
        first = self.size
        groups = np.atleast_1d(np.asarray(group, np.int64))
        size = first + len(groups)
        parent, child = _edge_list(parents, first, len(groups))
        states = _column("state", state, len(groups))
        if len(groups) and not 0 <= groups.min() <= groups.max() < len(self.counts):
            raise ValueError(
                f"groups span {groups.min()}..{groups.max()}; {len(self.counts)} are known"
            )
        if not set(np.unique(states).tolist()) <= FINAL | {State.WAITING}:
            raise ValueError("a trial enters as waiting or in a final state")
        columns = {
            "state": states,
            "group": groups,
            "priority": _column("priority", priority, len(groups)),
            "attempts": _column("attempts", attempts, len(groups)),
            "lost": 0,
            "raised": 0,
            "pending": 0,
            "_head": -1,
        }
        for name, values in columns.items():
            grown = _grown(getattr(self, name), size)
            grown[first:size] = values
            setattr(self, name, grown)
        self.size = size
        for index, new in enumerate(_by_group(groups, states, len(self.counts))):
            self.counts[index] = [
                old + more for old, more in zip(self.counts[index], new, strict=True)
            ]
        return self._enter(first, parent, child)

    def _enter(self, first: int, parent: Ints, child: Ints) -> tuple[Ints, dict[int, list[int]]]:
        """Link the new trials to their parents, and find those that are ready or hopeless."""
        alive = (self.state[child] == State.WAITING) & (self.state[parent] != State.DONE)
        parent, child = parent[alive], child[alive]
        self._link(parent, child)
        self.pending[first : self.size] = np.bincount(child - first, minlength=self.size - first)
        hopeless = np.unique(parent[np.isin(self.state[parent], list(DEAD))])
        skipped = {int(blamed): self.skip_dependants(int(blamed)) for blamed in hopeless}
        new = np.arange(first, self.size)
        ready = new[(self.state[new] == State.WAITING) & (self.pending[new] == 0)]
        self.state[ready] = State.READY
        for index, number in enumerate(np.bincount(self.group[ready]).tolist()):
            self.counts[index][State.WAITING] -= number
            self.counts[index][State.READY] += number
        return ready, {blamed: trials for blamed, trials in skipped.items() if trials}

    def _link(self, parent: Ints, child: Ints) -> None:
        """Append edges, sorted by parent, as new segments."""
        if not len(parent):
            return
        edges, first = self._edges + len(parent), self._segments
        self._children = _grown(self._children, edges)
        self._children[self._edges : edges] = child
        starts = np.flatnonzero(np.diff(parent, prepend=-1))
        last = first + len(starts)
        self._segment_start = _grown(self._segment_start, last + 1)
        self._segment_start[first:last] = self._edges + starts
        self._segment_start[last] = edges
        self._segment_next = _grown(self._segment_next, last)
        self._segment_next[first:last] = self._head[parent[starts]]
        self._head[parent[starts]] = np.arange(first, last)
        self._edges, self._segments = edges, last

    def children(self, trial: int) -> Iterator[NDArray[np.int32]]:
        """The dependants of a trial, in runs without repetition."""
        segment = self._head.item(trial)
        while segment >= 0:
            start, end = self._segment_start[segment : segment + 2].tolist()
            yield self._children[start:end]
            segment = self._segment_next.item(segment)

    def move(self, trial: int, to: State) -> None:
        """Make one legal move.

        Raises:
            IllegalMove: the move is not in `MOVES`.
        """
        state = State(self.state.item(trial))
        if to not in MOVES[state]:
            raise IllegalMove(
                f"trial {trial} cannot go from {state.name.lower()} to {to.name.lower()}"
            )
        self.state[trial] = to
        counts = self.counts[self.group.item(trial)]
        counts[state] -= 1
        counts[to] += 1

    def unlock(self, trial: int) -> list[int]:
        """Tell the dependants of a trial that it is done; returns those that are ready now."""
        ready: list[int] = []
        for run in self.children(trial):
            for child in run.tolist():
                pending = self.pending.item(child) - 1
                self.pending[child] = pending
                if pending == 0 and self.state.item(child) == State.WAITING:
                    self.move(child, State.READY)
                    ready.append(child)
        return ready

    def skip_dependants(self, trial: int) -> list[int]:
        """Skip all that waits, directly or not, for a trial that will never be done."""
        skipped: list[int] = []
        stack = [trial]
        while stack:
            for run in self.children(stack.pop()):
                for child in run.tolist():
                    if self.state.item(child) == State.WAITING:
                        self.move(child, State.SKIPPED)
                        stack.append(child)
                        skipped.append(child)
        return skipped


def _edge_list(parents: Parents | None, first: int, number: int) -> tuple[Ints, Ints]:
    """Parents as distinct (parent, child) pairs sorted by parent, then child."""
    if parents is None:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    if isinstance(parents, tuple):
        offsets, flat = (np.asarray(part, np.int64) for part in parents)
    else:
        offsets = np.cumsum([0, *map(len, parents)])
        flat = np.array([parent for row in parents for parent in row], np.int64)
    if len(offsets) != number + 1 or offsets[-1] != len(flat):
        raise ValueError(f"parents are given for {len(offsets) - 1} trials; {number} are added")
    child = np.repeat(np.arange(first, first + number), np.diff(offsets))
    wrong = np.flatnonzero((flat < 0) | (flat >= child))
    if len(wrong):
        raise ValueError(
            f"trial {child[wrong[0]]} names parent {flat[wrong[0]]}; a parent comes before its"
            " dependants in the plan"
        )
    # One number per pair sorts and removes repetitions in a single pass.
    pairs = np.unique(flat << 32 | child)
    return pairs >> 32, pairs & 0xFFFFFFFF


def _column(name: str, values: ArrayLike, number: int) -> Ints:
    """Values as a column of int32 range, one scalar standing for all trials."""
    column = np.asarray(values)
    if column.ndim and len(column) != number:
        raise ValueError(f"{name} has {len(column)} values; {number} trials are added")
    if column.size and (column.dtype.kind not in "iu" or abs(column).max() >= 2**31):
        raise ValueError(f"{name} must be whole numbers of 32 bits")
    return np.broadcast_to(column.astype(np.int64), (number,))


def _by_group(groups: Ints, states: Ints, number: int) -> list[list[int]]:
    """How many of the new trials each group has in each state."""
    flat = np.bincount(groups * len(State) + states, minlength=number * len(State))
    rows: list[list[int]] = flat.reshape(number, len(State)).tolist()
    return rows


def _grown(array: NDArray, size: int) -> NDArray:
    """The array with room for `size` items; doubling makes many small additions linear."""
    if size <= len(array):
        return array
    bigger = np.zeros(max(size, 2 * len(array)), array.dtype)
    bigger[: len(array)] = array
    return bigger
