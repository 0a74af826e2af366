"""Attempts that ended, gathered until the next commit."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime

from sensweep.orchestrator.attempt import Outcome
from sensweep.orchestrator.trial import canonical_json


class Batch:
    """Attempts that ended and are not committed yet, as columns of the tables."""

    def __init__(self) -> None:
        self.since = time.monotonic()
        self._attempts: list[tuple[object, ...]] = []
        self._measurements: list[tuple[object, ...]] = []
        self._asks: list[dict[str, object]] = []
        self._trials: dict[str, list[object]] = {}

    def __bool__(self) -> bool:
        return bool(self._attempts or self._asks or self._trials)

    def add_search(
        self, asks: Sequence[dict[str, object]], trials: dict[str, list[object]]
    ) -> None:
        """Take lines of `asks`, and columns of the trials that were planned for them."""
        self._asks += asks
        for name, column in trials.items():
            self._trials.setdefault(name, []).extend(column)

    def add(
        self,
        outcome: Outcome,
        *,
        status: str,
        log: str,
        worker: int,
        queued: float,
        resources: str,
    ) -> None:
        """Take an attempt; its rows only if it is the one that settles its trial."""
        trial_id, attempt, _ = outcome.key
        rows = outcome.rows if status in ("done", "stopped") else []
        self._attempts.append(
            (
                trial_id,
                attempt,
                status,
                outcome.error,
                outcome.trace,
                log,
                outcome.host,
                str(worker),
                datetime.fromtimestamp(outcome.started, UTC),
                queued,
                outcome.seconds,
                outcome.cpu_seconds,
                outcome.peak_rss_bytes,
                resources,
                canonical_json(outcome.artifacts),
                len(rows),
            )
        )
        self._measurements += [(trial_id, seq, *row) for seq, row in enumerate(rows)]

    def tables(self) -> dict[str, dict[str, list[object]]]:
        """Return the batch as columns for `SweepWriter.commit`."""
        tables = {
            "attempts": _columns(_ATTEMPT, self._attempts),
            "measurements": _columns(_MEASUREMENT, self._measurements),
        }
        if self._trials:
            tables["trials"] = self._trials
        if self._asks:
            asks = [tuple(row.values()) for row in self._asks]
            tables["asks"] = _columns(tuple(self._asks[0]), asks)
        return tables


_ATTEMPT = (
    *("trial_id", "attempt", "status", "error", "traceback", "log", "host", "worker", "started"),
    *("queued_s", "seconds", "cpu_seconds", "peak_rss_bytes", "resources", "artifacts", "rows"),
)
_MEASUREMENT = ("trial_id", "seq", "name", "value", "step", "unit", "coordinates")


def _columns(names: Sequence[str], rows: Sequence[tuple[object, ...]]) -> dict[str, list[object]]:
    columns = zip(*rows, strict=True) if rows else ([] for _ in names)
    return {name: list(column) for name, column in zip(names, columns, strict=True)}
