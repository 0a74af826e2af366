"""The words between the driver and the scheduler: events in, commands out.

The driver tells the scheduler what happened (`Scheduler.handle(event)`) and does what the returned
commands say, in their order. Trials are plan indices 0..n-1, attempts count from 1, worker ids are
ints that the scheduler chooses and never uses twice, nodes are the driver's own names. `now` is
in seconds of any clock that does not run backwards.

The driver owes the scheduler one answer to each of these commands:

- `StartWorker`  -> `WorkerReady`, or `WorkerDied` if it could not start;
- `RetireWorker`, `KillWorker` -> `WorkerDied` once its resources are free again;
- `Dispatch`     -> `Finished`, or `WorkerDied`; `Cancel` asks for an early `Finished`.

Late, repeated and unknown events are harmless: they are dropped and counted (`Scheduler.stale`).
An attempt's rows may be committed if and only if its `Ended` came back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sensweep.orchestrator.nodes import Shape

Ending = Literal["done", "stopped", "failed", "lost"]


@dataclass(frozen=True, slots=True)
class NodeUp:
    """A node joined, with all that our workers may use of it (`memory` in bytes)."""

    now: float
    node: str
    cpus: float
    gpus: float
    memory: int


@dataclass(frozen=True, slots=True)
class NodeDown:
    """A node is gone, and its workers with it; no `WorkerDied` need follow."""

    now: float
    node: str


@dataclass(frozen=True, slots=True)
class WorkerReady:
    """A started worker can take its first trial."""

    now: float
    worker: int


@dataclass(frozen=True, slots=True)
class WorkerDied:
    """A worker's process is gone and its resources are free, whether that was asked for or not."""

    now: float
    worker: int
    reason: str


@dataclass(frozen=True, slots=True)
class Finished:
    """An attempt came back from its worker.

    `worker_ok` is False if the trial left the worker changed: it is then replaced.
    """

    now: float
    trial: int
    attempt: int
    worker: int
    outcome: Literal["done", "stopped", "failed"]
    worker_ok: bool = True


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed (see `Scheduler.next_deadline`)."""

    now: float


@dataclass(frozen=True, slots=True)
class StopAll:
    """End the sweep: running trials are cancelled, nothing more is dispatched."""

    now: float
    reason: str


@dataclass(frozen=True, slots=True)
class StopTrial:
    """End one trial, running or not; its dependants are skipped."""

    now: float
    trial: int
    reason: str = "stopped on request"


Event = NodeUp | NodeDown | WorkerReady | WorkerDied | Finished | Tick | StopAll | StopTrial


@dataclass(frozen=True, slots=True)
class StartWorker:
    """Start a worker of this shape on this node."""

    worker: int
    node: str
    shape: Shape


@dataclass(frozen=True, slots=True)
class RetireWorker:
    """Let a worker that runs nothing exit in its own time."""

    worker: int


@dataclass(frozen=True, slots=True)
class KillWorker:
    """End a worker's process at once, whatever it is doing."""

    worker: int
    reason: str


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Run this attempt of the trial on this worker, which is ready and runs nothing."""

    trial: int
    attempt: int
    worker: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """Ask a running attempt to stop between two yields and come back as `Finished`."""

    trial: int
    attempt: int
    worker: int
    reason: str


@dataclass(frozen=True, slots=True)
class Ended:
    """An attempt is over; exactly one for each `Dispatch`.

    Attributes:
        attempt: its number; 0 if the trial was stopped while no attempt ran.
        outcome: what became of the attempt. A cancelled one that came back as stopped is
            "failed" if it was cancelled for its timeout.
        final: whether this settles the trial. False for an attempt, lost or failed, that will
            be repeated; a final "lost" means that the trial failed by losing too many workers.
        reason: one line, empty where the outcome is simply what the worker reported.
    """

    trial: int
    attempt: int
    outcome: Ending
    final: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Skipped:
    """These trials will never run, because that one failed, was stopped, or was itself skipped."""

    trials: tuple[int, ...]
    because: int


Command = StartWorker | RetireWorker | KillWorker | Dispatch | Cancel | Ended | Skipped
