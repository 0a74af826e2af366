"""What a worker occupies (`Shape`), what a node has, and which node has room.

Amounts are integers inside (cpus and gpus in ten-thousandths, as in Ray; memory in bytes), so that
ten workers of 0.1 fill a cpu exactly. A fraction of a gpu lies on one device, and whole gpus are
whole devices: two devices with a quarter free each have no room for a half.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

UNIT = 10_000  # one cpu, or one gpu
PLENTY = 2**31  # copies that fit where a shape asks for none of a resource
CLOSED = -1  # free cpus of a node on which nothing may be started


@dataclass(frozen=True, slots=True)
class Shape:
    """The resources that one worker holds for as long as it lives.

    Attributes:
        cpus: > 0, in steps of 0.0001.
        gpus: 0, a fraction below 1, or a whole number.
        memory: bytes, >= 0.

    Raises:
        ValueError: an amount out of these ranges.
    """

    cpus: float
    gpus: float = 0
    memory: int = 0

    def __post_init__(self) -> None:
        if not round(self.cpus * UNIT) > 0:
            raise ValueError(f"cpus is {self.cpus!r}; a worker needs more than 0, at least 0.0001")
        if self.gpus < 0 or (self.gpus > 1 and self.gpus != int(self.gpus)):
            raise ValueError(
                f"gpus is {self.gpus!r}; give 0, a fraction of one gpu, or a whole number of them"
            )
        if self.memory < 0:
            raise ValueError(f"memory is {self.memory!r}; give bytes, 0 or more")

    def __str__(self) -> str:
        parts = [f"{self.cpus:g} cpus"]
        if self.gpus:
            parts.append(f"{self.gpus:g} gpus")
        if self.memory:
            parts.append(f"{self.memory / 1e9:g} GB")
        return ", ".join(parts)


class Need(NamedTuple):
    """A shape in integer amounts."""

    cpus: int
    gpus: int
    memory: int

    @classmethod
    def of(cls, shape: Shape) -> Need:
        """Round a shape's amounts to integers."""
        return cls(round(shape.cpus * UNIT), round(shape.gpus * UNIT), int(shape.memory))


class Copies(NamedTuple):
    """How many workers of one shape each resource of a node has room for."""

    cpus: int
    gpus: int
    memory: int


class Node:
    """One node: what is free on it, and the workers that hold the rest."""

    __slots__ = ("cpus", "devices", "failures", "index", "memory", "name", "slots")

    def __init__(self, name: str, index: int, cpus: int, gpus: int, memory: int):
        self.name = name
        self.index = index  # row in `Nodes`
        self.cpus = cpus
        self.memory = memory
        self.devices = [UNIT] * gpus  # free part of each gpu
        self.slots: dict[int, Slot] = {}
        self.failures = 0  # workers in a row that died before they were ready

    def copies(self, need: Need, without: Iterable[Slot] = ()) -> Copies:
        """Count the workers of a shape that would fit if those in `without` were gone."""
        cpus, memory, devices = self.cpus, self.memory, self.devices
        for slot in without:
            cpus += slot.need.cpus
            memory += slot.need.memory
            if slot.devices:
                devices = list(devices)
                for device, amount in slot.devices:
                    devices[device] += amount
        if need.gpus == 0:
            gpus = PLENTY
        elif need.gpus < UNIT:
            gpus = sum(free // need.gpus for free in devices)
        else:
            gpus = devices.count(UNIT) * UNIT // need.gpus
        return Copies(cpus // need.cpus, gpus, memory // need.memory if need.memory else PLENTY)

    def hold(self, slot: Slot) -> None:
        """Give a worker its share; the caller has made sure that it fits."""
        need = slot.need
        self.cpus -= need.cpus
        self.memory -= need.memory
        if need.gpus >= UNIT:
            whole = [device for device, free in enumerate(self.devices) if free == UNIT]
            slot.devices = tuple((device, UNIT) for device in whole[: need.gpus // UNIT])
        elif need.gpus:
            # Ray puts a fraction where it leaves the smallest rest, and so must this account.
            fits = [(free, device) for device, free in enumerate(self.devices) if free >= need.gpus]
            slot.devices = ((min(fits)[1], need.gpus),)
        for device, amount in slot.devices:
            self.devices[device] -= amount
        self.slots[slot.worker] = slot

    def release(self, slot: Slot) -> None:
        """Take back what a worker held."""
        self.cpus += slot.need.cpus
        self.memory += slot.need.memory
        for device, amount in slot.devices:
            self.devices[device] += amount
        del self.slots[slot.worker]


class Slot:
    """The part of a node that one worker holds, and what the worker is doing."""

    __slots__ = (
        "devices",
        "need",
        "node",
        "phase",
        "ready_at",
        "served",
        "shape",
        "trial",
        "worker",
    )

    STARTING, IDLE, BUSY, LEAVING = "starting", "idle", "busy", "leaving"

    def __init__(self, worker: int, node: Node, shape: int, need: Need):
        self.worker = worker
        self.node = node
        self.shape = shape  # index of its shape
        self.need = need
        self.phase = Slot.STARTING
        self.trial = -1  # the trial that it runs while busy
        self.ready_at = 0.0
        self.served = False  # has been given a trial
        self.devices: tuple[tuple[int, int], ...] = ()  # (gpu, ten-thousandths of it)


class Nodes:
    """All nodes that are up, as objects and, for the search, as rows of arrays."""

    def __init__(self) -> None:
        self.by_name: dict[str, Node] = {}
        self.rows: list[Node] = []  # those that went down too
        self._index: dict[str, int] = {}  # a node that comes back gets its old row
        self._size = np.zeros((0, 3), np.int64)  # cpus, whole gpus, memory
        self._free = np.zeros((0, 4), np.int64)  # cpus, whole gpus, memory, largest gpu rest

    def up(self, name: str, cpus: float, gpus: float, memory: int) -> Node:
        """Add a node."""
        index = self._index.setdefault(name, len(self.rows))
        node = Node(name, index, round(cpus * UNIT), int(gpus), memory)
        if index == len(self.rows):
            self.rows.append(node)
            self._size = np.vstack([self._size, np.zeros((1, 3), np.int64)])
            self._free = np.vstack([self._free, np.zeros((1, 4), np.int64)])
        self.rows[index] = node
        self.by_name[name] = node
        self._size[index] = node.cpus, len(node.devices), memory
        self.update(node)
        return node

    def down(self, node: Node) -> None:
        """Remove a node."""
        del self.by_name[node.name]
        self._size[node.index] = 0
        self._free[node.index] = CLOSED

    def update(self, node: Node, closed: bool = False) -> None:
        """Copy what is free on a node to its row; a closed one is never found by `best`."""
        devices = node.devices
        self._free[node.index] = (
            CLOSED if closed else node.cpus,
            devices.count(UNIT),
            node.memory,
            max(devices, default=0),
        )

    def best(self, need: Need, among: list[int] | None = None) -> Node | None:
        """Find the open node with room that has most free, or None.

        Nodes with fewer gpus are taken first for shapes that need none. `among` gives the rows
        to look at; all by default.
        """
        if among is not None and not among:
            return None
        free = self._free if among is None else self._free[among]
        fits = (free[:, 0] >= need.cpus) & (free[:, 2] >= need.memory)
        if need.gpus >= UNIT:
            fits &= free[:, 1] * UNIT >= need.gpus
        elif need.gpus:
            fits &= free[:, 3] >= need.gpus
        rows = np.flatnonzero(fits)
        if not rows.size:
            return None
        if need.gpus:
            order = np.lexsort((-free[rows, 0], -free[rows, 1]))
        else:
            whole = self._size[rows if among is None else np.asarray(among)[rows], 1]
            order = np.lexsort((-free[rows, 0], whole))
        row = int(rows[order[0]])
        return self.rows[row if among is None else among[row]]

    def ever_fits(self, need: Need) -> bool:
        """Whether some node that is up would have room if it were empty."""
        gpus = -(-need.gpus // UNIT)  # a fraction needs a device, too
        fits = (self._size[:, 0] >= need.cpus) & (self._size[:, 2] >= need.memory)
        return bool((fits & (self._size[:, 1] >= gpus)).any())

    def share(self, need: Need) -> float:
        """The largest fraction of the whole cluster's cpus, gpus or memory that a shape holds.

        This is the dominant share of Ghodsi et al., "Dominant Resource Fairness", NSDI 2011.
        """
        cpus, gpus, memory = (int(total) for total in self._size.sum(axis=0))
        return max(
            need.cpus / max(cpus, 1), need.gpus / max(gpus * UNIT, 1), need.memory / max(memory, 1)
        )
