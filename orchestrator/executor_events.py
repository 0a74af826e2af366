"""What an executor reports to the driver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sensweep.orchestrator.attempt import Outcome

if TYPE_CHECKING:
    from sensweep.orchestrator.growth import Growth
    from sensweep.orchestrator.search_values import Row


@dataclass(frozen=True, slots=True)
class Node:
    """A live node of the cluster and what it offers."""

    name: str
    cpus: float
    gpus: float
    memory: int


@dataclass(frozen=True, slots=True)
class Ready:
    """A worker's process is up."""

    worker: int


@dataclass(frozen=True, slots=True)
class Died:
    """A worker's process is gone, for whatever cause, asked for or not."""

    worker: int
    reason: str


@dataclass(frozen=True, slots=True)
class Returned:
    """A worker has finished an attempt."""

    worker: int
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Observed:
    """Measurements of a running attempt, sent with its beats: rows of the names that it watches."""

    key: tuple[str, int, int]
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Grown:
    """What a search answered, or the error that it raised."""

    growth: Growth
    error: Exception | None = None


ExecutorEvent = Ready | Died | Returned | Observed | Grown
