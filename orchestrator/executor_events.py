"""What an executor reports to the driver."""

from __future__ import annotations

from dataclasses import dataclass

from sensweep.orchestrator.attempt import Outcome


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


ExecutorEvent = Ready | Died | Returned
