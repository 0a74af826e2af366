"""The Ray actor that executes attempts, one after another, in a process that stays warm."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from typing import Any

import ray

from sensweep.orchestrator.attempt import Assignment, Outcome, as_row, execute
from sensweep.orchestrator.isolation import Snapshot
from sensweep.orchestrator.search_values import Row
from sensweep.tasks.api import Measurement

# Seconds between two beats of a running attempt; attempts that are shorter send none.
BEAT = 0.5


class Worker:
    """Executes attempts on the actor's main thread; a side thread beats to the driver meanwhile.

    A beat carries the latest measurement (for the display) and the rows that a search watches, and
    brings back whether to stop. It is lossy on purpose: what counts is what `run` returns.
    """

    def __init__(self, driver: Any, threads: int) -> None:
        # Before numeric libraries are imported: they read it once. What the user's shell exported
        # is for the shell.
        os.environ["OMP_NUM_THREADS"] = str(threads)
        self._driver = driver
        self._cache: dict[str, object] = {}
        self._snapshot = Snapshot()
        self._running: tuple[str, int, int] | None = None
        self._latest: tuple[str, float, int | None] | None = None
        self._watch: tuple[str, ...] = ()
        self._watched: deque[Row] = deque()
        self._stop = threading.Event()
        threading.Thread(target=self._beat, name="sensweep-beat", daemon=True).start()

    def ready(self) -> tuple[str, int]:
        """Answer when the process is up: its node's id and its pid."""
        return ray.get_runtime_context().get_node_id(), os.getpid()

    def run(self, assignment: Assignment) -> Outcome:
        """Execute one attempt; see `attempt.execute`."""
        self._stop.clear()
        self._latest = None
        self._watched.clear()
        self._watch = assignment.watch
        self._running = assignment.key
        try:
            return execute(assignment, self._cache, self._observe, self._snapshot)
        finally:
            self._running = None

    def _observe(self, row: Measurement) -> bool:
        self._latest = (row.name, row.value, row.step)
        if row.name in self._watch:
            self._watched.append(as_row(row, None))
        return self._stop.is_set()

    def _beat(self) -> None:
        while True:
            time.sleep(BEAT)
            key = self._running
            if key is None:
                continue
            watched = tuple(self._watched.popleft() for _ in range(len(self._watched)))
            try:
                beat = self._driver.beat.remote(key, self._latest, watched)
                stop = ray.get(beat, timeout=10)
            except ray.exceptions.GetTimeoutError:
                continue
            except ray.exceptions.RayError:
                os._exit(1)  # the driver is gone: nobody can take this attempt's rows
            if stop and key == self._running:
                self._stop.set()
