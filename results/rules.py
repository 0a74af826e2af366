"""The rules between the tables of a commit: each trial has one final attempt, with its rows.

`measurements` has no column for its attempt. What makes it certain whose rows they are is that
they enter together with the trial's only final attempt (done or stopped), as many as that attempt
says, numbered from 0 without gaps.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sensweep.results.errors import BadRows, DuplicateRows
from sensweep.results.schema import FINAL, STATUSES, TABLES, canonical_json

#: The columns of `attempts` that the rules need.
ATTEMPT_COLUMNS = ("trial_id", "attempt", "status", "rows")

_TRIAL_ID = re.compile(r"[0-9a-f]{24}")


class Ledger:
    """What a sweep has committed, as far as it decides what may still be committed."""

    def __init__(self) -> None:
        # 12 bytes instead of 24 characters: a sweep may have a million trials.
        self._final: dict[bytes, int] = {}
        self._others: set[tuple[bytes, int]] = set()
        self._canonical: set[str] = set()

    def add(self, attempts: pa.Table) -> None:
        """Take up committed attempts."""
        for trial, number, status, _ in _attempt_rows(attempts):
            if status in FINAL:
                self._final[trial] = number
            else:
                self._others.add((trial, number))

    def check(self, tables: Mapping[str, pa.Table]) -> None:
        """Check what is to be committed.

        Raises:
            DuplicateRows: an attempt is committed already, or its trial has a final attempt.
            BadRows: measurements and final attempts do not match.
        """
        attempts, measurements = (
            tables.get(name, TABLES[name].empty_table()) for name in ("attempts", "measurements")
        )
        wanted = self._check_attempts(attempts)
        self._check_measurements(measurements, wanted)
        self._check_coordinates(measurements["coordinates"])

    def _check_attempts(self, attempts: pa.Table) -> dict[str, int]:
        """Return how many rows each trial with a final attempt must come with."""
        rows: dict[str, int] = {}
        new: set[tuple[bytes, int]] = set()
        for trial, number, status, count in _attempt_rows(attempts):
            name = trial.hex()
            if status not in STATUSES:
                raise BadRows(
                    f"trial {name}: status {status!r} of attempt {number} is none of "
                    f"{', '.join(STATUSES)}"
                )
            seen = (trial, number) in new or (trial, number) in self._others
            if seen or self._final.get(trial) == number:
                raise DuplicateRows(f"trial {name}: attempt {number} is committed already")
            if status in FINAL:
                if trial in self._final or name in rows:
                    raise DuplicateRows(
                        f"trial {name}: attempt {number} is {status}, but the trial has a final "
                        "attempt already; a trial's measurements are committed once per sweep"
                    )
                rows[name] = count
            new.add((trial, number))
        return rows

    def _check_measurements(self, rows: pa.Table, wanted: Mapping[str, int]) -> None:
        encoded = pc.dictionary_encode(rows["trial_id"].combine_chunks())
        trials = encoded.dictionary.to_pylist()
        counts = np.bincount(encoded.indices, minlength=len(trials))
        found = dict(zip(trials, counts.tolist(), strict=True))
        for trial in found.keys() - wanted.keys():
            raise BadRows(
                f"trial {trial}: measurements came without its final attempt (done or stopped)"
            )
        for trial, count in wanted.items():
            if found.get(trial, 0) != count:
                raise BadRows(
                    f"trial {trial}: its final attempt has {count} rows, but "
                    f"{found.get(trial, 0)} came with it"
                )
        order = np.lexsort((rows["seq"].to_numpy(), encoded.indices))
        sequence = rows["seq"].to_numpy()[order]
        starts = np.repeat(np.cumsum(counts) - counts, counts)
        wrong = np.flatnonzero(sequence != np.arange(len(order)) - starts)
        if len(wrong):
            trial = rows["trial_id"][int(order[wrong[0]])].as_py()
            raise BadRows(f"trial {trial}: its measurements are not numbered 0, 1, 2, ... by seq")

    def _check_coordinates(self, column: pa.ChunkedArray) -> None:
        """Coordinates are compared as text, so they must be written in the one canonical form."""
        for text in pc.unique(column).to_pylist():
            if text in self._canonical:
                continue
            try:
                value = json.loads(text)
            except ValueError:
                value = None
            if not isinstance(value, dict) or canonical_json(value) != text:
                raise BadRows(
                    f"table measurements, column coordinates: {text!r} is not a canonical JSON "
                    "mapping; write it with sensweep.results.schema.canonical_json"
                )
            self._canonical.add(text)


def _attempt_rows(attempts: pa.Table) -> list[tuple[bytes, int, str, int]]:
    trials, numbers, statuses, rows = (attempts[name].to_pylist() for name in ATTEMPT_COLUMNS)
    for trial in trials:
        if not _TRIAL_ID.fullmatch(trial):
            raise BadRows(f"table attempts, column trial_id: {trial!r} is not 24 hex digits")
    return list(zip(map(bytes.fromhex, trials), numbers, statuses, rows, strict=True))
