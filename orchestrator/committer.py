"""Commits what a sweep found, in groups, in a thread of its own: no driver waits for a disk."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from sensweep.orchestrator.batch import Batch
from sensweep.results.writer import SweepWriter

COMMIT_EVERY = 1.0  # seconds of finished trials that one commit groups, at most
COMPACT_EVERY = 200  # commits after which the small parts are merged


class Committer:
    """Gathers rows in `batch` and commits them, one commit at a time.

    Attributes:
        batch: what is not committed yet.
    """

    def __init__(self, writer: SweepWriter, say: Callable[[str], None]) -> None:
        """Commit through `writer`; `say` is told what keeps a commit from succeeding, then ""."""
        self.batch = Batch()
        self._writer = writer
        self._say = say
        self._troubled = False
        self._thread = ThreadPoolExecutor(1, "sensweep-commit")
        self._committing: Future[None] | None = None

    def due_in(self, now: float) -> float | None:
        """Seconds until the batch should be committed; None if there is nothing in it."""
        return max(0.0, self.batch.since + COMMIT_EVERY - now) if self.batch else None

    def commit(self, wait: bool) -> None:
        """Hand the batch to the thread unless it is busy; `wait` for all to be committed.

        Raises:
            Fenced: another driver has taken the sweep over.
        """
        while True:
            if self._committing is not None and (wait or self._committing.done()):
                self._committing.result()
                self._committing = None
            if self._committing is None and self.batch:
                tables, self.batch = self.batch.tables(), Batch()
                self._committing = self._thread.submit(self._commit, tables)
            if not wait or self._committing is None:
                return

    def close(self) -> None:
        """Wait for the commit that is under way."""
        self._thread.shutdown(wait=True)

    def _commit(self, tables: dict[str, dict[str, list[object]]]) -> None:
        """Commit, however often it takes: a full disk loses nothing that finished."""
        while True:
            try:
                generation = self._writer.commit(tables)
            except OSError as error:
                self._say(f"cannot commit, will try again: {error}")
                self._troubled = True
                time.sleep(COMMIT_EVERY)
                continue
            if self._troubled:
                self._say("")
                self._troubled = False
            if generation % COMPACT_EVERY == 0:
                self._writer.compact()
                self._writer.collect()
            return
