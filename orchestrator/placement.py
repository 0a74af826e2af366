"""Which workers exist: started where there is room, kept warm, retired for what waits longer.

Every shape has its own warm workers and its own ready trials. A shape *wants* workers while it has
more ready trials than idle and starting workers. The rules, in the order in which they apply:

1. Room is given first to the wanting shape that holds the smallest dominant share of the cluster.
2. An idle worker has no ready trial of its own shape (else it would not be idle): it is retired at
   once where that makes room for a shape that wants.
3. A shape that has wanted for `patience` seconds may take room from a busy shape that would still
   hold no less than it afterwards; one that holds nothing may always. It is given the workers
   that fall idle, each of which has served a trial and `patience` seconds, or has an empty queue.

Rules 2 and 3 put a `Claim` on a node: nothing else is started there until the claimed room is
free, however many narrow workers must first finish their trials for a wide one. A node has
one claim at a time and waits for nothing outside itself, so claims cannot deadlock.
Resources count as held until the driver says that the process is gone (`WorkerDied`).
"""

from __future__ import annotations

from dataclasses import dataclass

from sensweep.orchestrator.events import Command, RetireWorker, StartWorker
from sensweep.orchestrator.nodes import Need, Node, Nodes, Shape, Slot

# A node on which workers die before they are ready rests 1, 2, 4, ... up to this many seconds.
LONGEST_REST = 60.0


@dataclass(slots=True)
class Claim:
    """Room on one node that is being cleared for `count` workers of a shape."""

    shape: int
    count: int


class Placement:
    """The workers of all shapes; `ready` counts are the scheduler's to keep."""

    def __init__(self, patience: float):
        self.patience = patience
        self.nodes = Nodes()
        self.slots: dict[int, Slot] = {}
        self.shapes: list[Shape] = []
        self.ready: list[int] = []  # ready trials of each shape
        self.wanting: dict[int, float] = {}  # shape -> since when it wants and cannot be placed
        self._needs: list[Need] = []
        self._idle: list[dict[int, Slot]] = []  # the most recently used one last
        self._starting: list[int] = []
        self._held: list[int] = []  # workers that are starting, idle or busy
        self._claimed: list[int] = []  # workers' worth of room that is being cleared
        self._claims: dict[int, Claim] = {}  # by node row
        self._resting: dict[int, float] = {}  # node row -> when it may be tried again
        self._offered: list[Slot] = []  # fell idle during this event
        self._touched: dict[int, None] = {}  # rows of nodes where there may be new room
        self._share: list[float] = []  # dominant share of one worker
        self._fits: list[bool] = []  # whether some node is large enough
        self._started = 0

    # ---- shapes and nodes

    def add_shape(self, shape: Shape) -> int:
        """The index of a shape, new or known."""
        if shape in self.shapes:
            return self.shapes.index(shape)
        self.shapes.append(shape)
        self._needs.append(Need.of(shape))
        self._share.append(self.nodes.share(self._needs[-1]))
        self._fits.append(self.nodes.ever_fits(self._needs[-1]))
        self._idle.append({})
        for counts in (self.ready, self._starting, self._held, self._claimed):
            counts.append(0)
        return len(self.shapes) - 1

    def node_up(self, name: str, cpus: float, gpus: float, memory: int) -> None:
        """Take a node that was not up into use."""
        self._touched[self.nodes.up(name, cpus, gpus, memory).index] = None
        self._measure()

    def node_down(self, node: Node) -> list[Slot]:
        """Forget a node; returns the workers that went with it."""
        self._drop_claim(node)
        self._resting.pop(node.index, None)
        gone = list(node.slots.values())
        for slot in gone:
            self._forget(slot)
        self.nodes.down(node)
        self._touched.pop(node.index, None)
        self._measure()
        return gone

    def _measure(self) -> None:
        """Compare the shapes with the cluster as it is now."""
        self._share = [self.nodes.share(need) for need in self._needs]
        self._fits = [self.nodes.ever_fits(need) for need in self._needs]

    def unplaceable(self, shape: int) -> bool:
        """Whether a shape wants a worker and fits no node that is up."""
        return shape in self.wanting and not self._fits[shape]

    def deadlines(self) -> list[float]:
        """When resting nodes open again, if a shape wants room."""
        return list(self._resting.values()) if self.wanting else []

    # ---- one worker's life

    def worker_ready(self, slot: Slot, now: float, out: list[Command]) -> None:
        """A starting worker came up."""
        self._starting[slot.shape] -= 1
        slot.node.failures = 0
        slot.ready_at = now
        self.offer(slot, now, out)

    def worker_died(self, slot: Slot, now: float) -> None:
        """A process is gone; what it held is free."""
        node = slot.node
        if slot.phase == Slot.STARTING:
            self._resting[node.index] = now + min(LONGEST_REST, 2.0**node.failures)
            node.failures += 1
        self._forget(slot)
        self._touch(node)

    def offer(self, slot: Slot, now: float, out: list[Command]) -> None:
        """A worker has nothing to do: it makes way for a claim, or waits to be taken."""
        slot.phase, slot.trial = Slot.IDLE, -1
        self._idle[slot.shape][slot.worker] = slot
        self._make_way(slot, now, out)
        if slot.phase == Slot.IDLE:
            self._offered.append(slot)

    def take(self, shape: int) -> Slot | None:
        """The most recently used idle worker of a shape, now busy."""
        if not self._idle[shape]:
            return None
        slot = self._idle[shape].popitem()[1]
        slot.phase, slot.served = Slot.BUSY, True
        return slot

    def retire(self, slot: Slot, out: list[Command]) -> None:
        """Ask a worker that runs nothing to exit."""
        self.leave(slot)
        out.append(RetireWorker(slot.worker))

    def leave(self, slot: Slot) -> None:
        """A worker was told to go: it holds its resources, and takes no more trials."""
        self._idle[slot.shape].pop(slot.worker, None)
        self._held[slot.shape] -= 1
        self._touched[slot.node.index] = None
        slot.phase = Slot.LEAVING

    def _forget(self, slot: Slot) -> None:
        if slot.phase == Slot.STARTING:
            self._starting[slot.shape] -= 1
        if slot.phase != Slot.LEAVING:
            self.leave(slot)
        slot.node.release(slot)
        del self.slots[slot.worker]

    # ---- placing

    def settle(self, now: float, out: list[Command]) -> None:
        """Start and retire workers until no rule applies; called after each event."""
        for slot in self._offered:
            if slot.phase == Slot.IDLE:
                self._touched[slot.node.index] = None
        self._offered.clear()
        for node in [self.nodes.rows[row] for row, end in self._resting.items() if end <= now]:
            del self._resting[node.index]
            self._touch(node)
        self._fill_claims(out)
        # A shape that wants was refused by every node; only touched nodes can have changed since.
        touched = list(self._touched)
        fresh: dict[int, list[int] | None] = {}  # shape -> rows to look at, None for all
        for shape in range(len(self.shapes)):
            missing = self._demand(shape) - self._claimed[shape]
            if missing > 0 and (touched or shape not in self.wanting):
                fresh[shape] = touched if shape in self.wanting else None
        while fresh:
            shape = min(
                fresh, key=lambda index: (self._holding(index), self.wanting.get(index, now))
            )
            room = self.nodes.best(self._needs[shape], fresh[shape])
            if room is not None:
                self._start(shape, room, out)
            else:
                self._clear_idle(shape, fresh[shape], out)
                if self._demand(shape) > self._claimed[shape]:
                    self.wanting.setdefault(shape, now)
            if room is None or self._demand(shape) <= self._claimed[shape]:
                del fresh[shape]
        for shape in [shape for shape in self.wanting if self._demand(shape) <= 0]:
            del self.wanting[shape]
        self._touched.clear()

    @property
    def backlog(self) -> int:
        """Ready trials of all shapes beyond the workers that are idle or starting."""
        return sum(max(0, self._demand(shape)) for shape in range(len(self.ready)))

    def _demand(self, shape: int) -> int:
        """How many more workers a shape could use."""
        return self.ready[shape] - len(self._idle[shape]) - self._starting[shape]

    def _holding(self, shape: int) -> float:
        """A shape's dominant share of the cluster, claimed room included."""
        return (self._held[shape] + self._claimed[shape]) * self._share[shape]

    def _start(self, shape: int, node: Node, out: list[Command]) -> None:
        slot = Slot(self._started, node, shape, self._needs[shape])
        self._started += 1
        self.slots[slot.worker] = slot
        node.hold(slot)
        self._starting[shape] += 1
        self._held[shape] += 1
        self._update(node)
        out.append(StartWorker(slot.worker, node.name, self.shapes[shape]))

    def _touch(self, node: Node) -> None:
        self._update(node)
        self._touched[node.index] = None

    def _update(self, node: Node) -> None:
        """Show the search what is free here: nothing while the node is claimed or rests."""
        closed = node.index in self._claims or node.index in self._resting
        self.nodes.update(node, closed)

    # ---- claims

    def _clear_idle(self, shape: int, among: list[int] | None, out: list[Command]) -> None:
        """Rule 2: retire idle workers of other shapes where that makes room."""
        if among is None:
            idle = (slot for workers in self._idle for slot in workers.values())
            among = list({slot.node.index: None for slot in idle})
        for row in among:
            missing = self._demand(shape) - self._claimed[shape]
            node = self.nodes.rows[row]
            if missing <= 0:
                return
            if row in self._claims or row in self._resting:
                continue
            free = [
                slot
                for slot in node.slots.values()
                if slot.phase == Slot.LEAVING or (slot.phase == Slot.IDLE and slot.shape != shape)
            ]
            count = min(missing, *node.copies(self._needs[shape], without=free))
            if count > 0:
                self._claim(node, shape, count, out)

    def _claim(self, node: Node, shape: int, count: int, out: list[Command]) -> None:
        """Claim room for `count` more workers, beginning with what the idle ones hold."""
        claim = self._claims.setdefault(node.index, Claim(shape, 0))
        claim.count += count
        self._claimed[shape] += count
        self._update(node)
        for slot in list(node.slots.values()):
            if slot.phase == Slot.IDLE and self._helps(slot, claim):
                self.retire(slot, out)

    def _drop_claim(self, node: Node, count: int | None = None) -> None:
        """Give up a claim, or part of it."""
        claim = self._claims.get(node.index)
        if claim is None:
            return
        count = claim.count if count is None else min(count, claim.count)
        claim.count -= count
        self._claimed[claim.shape] -= count
        if claim.count == 0:
            del self._claims[node.index]
            self._touch(node)

    def _fill_claims(self, out: list[Command]) -> None:
        """Start what cleared room was claimed for; drop claims that nothing needs any more."""
        for row in [row for row in self._touched if row in self._claims]:
            node, shape = self.nodes.rows[row], self._claims[row].shape
            while row in self._claims and row not in self._resting and self._demand(shape) > 0:
                if min(node.copies(self._needs[shape])) < 1:
                    break
                self._start(shape, node, out)
                self._drop_claim(node, 1)
        for shape in range(len(self.shapes)):
            needed = max(self._demand(shape), 0)
            if self._claimed[shape] > needed:
                rows = [row for row, claim in self._claims.items() if claim.shape == shape]
                while self._claimed[shape] > needed:
                    surplus = self._claimed[shape] - needed
                    self._drop_claim(self.nodes.rows[rows.pop()], surplus)

    def _make_way(self, slot: Slot, now: float, out: list[Command]) -> None:
        """Rule 3: retire a worker that falls idle if a claim, old or new, has use for its room."""
        busy = self.ready[slot.shape] > 0
        if busy and (not slot.served or now - slot.ready_at < self.patience):
            return
        claim = self._claims.get(slot.node.index)
        if claim is not None and self._helps(slot, claim):
            self.retire(slot, out)
            return
        for shape, since in self.wanting.items():
            if now - since >= self.patience and self._may_take(shape, slot):
                self._claim(slot.node, shape, 1, out)
                return

    def _may_take(self, shape: int, slot: Slot) -> bool:
        """Whether a shape may claim room, or more of it, on the node of another shape's worker."""
        other, claim = slot.shape, self._claims.get(slot.node.index)
        if shape == other or (claim is not None and claim.shape != shape):
            return False
        if self._demand(shape) <= self._claimed[shape]:
            return False
        freed = max(self._share[shape], self._share[other])
        if self._holding(shape) > 0 and (
            self._holding(shape) + self._share[shape] > self._holding(other) - freed
        ):
            return False
        node = slot.node
        others = [held for held in node.slots.values() if held.shape != shape]
        room = min(node.copies(self._needs[shape], without=others))
        return room > (claim.count if claim else 0)

    def _helps(self, slot: Slot, claim: Claim) -> bool:
        """Whether a worker holds something that a claim on its node still lacks."""
        if slot.shape == claim.shape or slot.phase == Slot.LEAVING:
            return False
        node, need = slot.node, slot.need
        leaving = [held for held in node.slots.values() if held.phase == Slot.LEAVING]
        copies = node.copies(self._needs[claim.shape], without=leaving)
        return any(
            amount > 0 and room < claim.count for amount, room in zip(need, copies, strict=True)
        )
