"""Ray, as the driver sees it: nodes come and go, workers start and die, attempts return outcomes.

Whatever happens is put into one queue by Ray's own callbacks, so that waiting costs nothing
however many workers there are.
"""

from __future__ import annotations

import queue
import time
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sensweep.orchestrator.attempt import Assignment
from sensweep.orchestrator.executor_events import Died, ExecutorEvent, Node, Ready, Returned
from sensweep.orchestrator.nodes import Shape
from sensweep.orchestrator.worker import Worker


class RayExecutor:
    """Starts, feeds and ends worker actors. Retries nothing: the scheduler decides on that."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        self._workers: dict[int, Any] = {}
        self._events: queue.SimpleQueue[ExecutorEvent] = queue.SimpleQueue()

    def nodes(self) -> dict[str, Node]:
        """List the nodes that are alive now, by Ray's node id."""
        return {
            node["NodeID"]: Node(
                node["NodeID"],
                node["Resources"].get("CPU", 0.0),
                node["Resources"].get("GPU", 0.0),
                int(node["Resources"].get("memory", 0)),
            )
            for node in ray.nodes()
            if node["Alive"]
        }

    def start(self, worker: int, node: str, shape: Shape) -> None:
        """Start a worker process of this shape on that node; `Ready` or `Died` will follow."""
        remote: Any = ray.remote(Worker)
        actor = remote.options(
            num_cpus=shape.cpus,
            num_gpus=shape.gpus,
            memory=shape.memory or None,
            max_restarts=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
        ).remote(self._driver, max(1, int(shape.cpus)))
        self._workers[worker] = actor
        self._when_done(worker, actor.ready.remote(), lambda _: Ready(worker))

    def run(self, worker: int, assignment: Assignment) -> None:
        """Have a ready worker execute an attempt; `Returned` or `Died` will follow."""
        ref = self._workers[worker].run.remote(assignment)
        self._when_done(worker, ref, lambda outcome: Returned(worker, outcome))

    def end(self, worker: int) -> None:
        """End a worker's process at once, whatever it does; no event follows for an idle one."""
        actor = self._workers.pop(worker, None)
        if actor is not None:
            ray.kill(actor)

    def put(self, event: ExecutorEvent) -> None:
        """Take an event of another thread; `poll` returns it with the others."""
        self._events.put(event)

    def poll(self, timeout: float) -> list[ExecutorEvent]:
        """Wait up to `timeout` seconds for something to happen and return all that has."""
        events: list[ExecutorEvent] = []
        deadline = time.monotonic() + timeout
        try:
            events.append(self._events.get(timeout=max(0.0, deadline - time.monotonic())))
            while True:
                events.append(self._events.get_nowait())
        except queue.Empty:
            return events

    def close(self) -> None:
        """End every worker."""
        for worker in list(self._workers):
            self.end(worker)

    def _when_done(self, worker: int, ref: Any, make: Any) -> None:
        def done(future: Any) -> None:
            error = future.exception()
            if error is None:
                self._events.put(make(future.result()))
            else:
                self._events.put(Died(worker, _reason(error)))

        ref.future().add_done_callback(done)


def _reason(error: BaseException) -> str:
    """Put a Ray error into one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]
