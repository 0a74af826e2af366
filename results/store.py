"""The home: a folder of sweeps, read as tables through what their logs name, never by a glob.

home = Home("runs")
with home.open_sweep("quickstart.cpu", owner="ana", study={...}) as writer:
    writer.commit({"attempts": {...}, "measurements": {...}})
home.read("measurements")        # a pyarrow Table

HOME/sweeps/<sweep>/manifest/    the log; see `sensweep.results.manifest`
HOME/sweeps/<sweep>/parts/       Parquet files; those that the log names count
HOME/sweeps/<sweep>/studies/     the study file of each driver
HOME/staging/                    files before they are whole
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from sensweep.results import parts
from sensweep.results.errors import BadRows, Damaged, StoreError, UnknownSweep
from sensweep.results.files import Files, LocalFiles
from sensweep.results.lease import known_alive
from sensweep.results.manifest import Log, SweepState
from sensweep.results.parts import Missing, PartReader
from sensweep.results.schema import FINAL, TABLES, canonical_json, nearest, schema_of, sort
from sensweep.results.writer import SweepWriter, open_writer, read_stop, stop_path

_SWEEP_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")

#: How often a reader starts again because compactions deleted what it was about to read.
_READ_TRIES = 20

_WINNER_COLUMNS = ("trial_id", "sweep", "attempt", "status", "seconds", "artifacts")


class Home:
    """A folder that holds sweeps. Reading writes nothing; any number may read while one writes.

    Args:
        path: the folder; it need not exist yet.
        files: where the bytes are; files below `path` unless given.
    """

    def __init__(self, path: str | Path, files: Files | None = None) -> None:
        self.path = Path(path)
        self._files = files or LocalFiles(self.path)
        self._reader = PartReader(self._files)
        self._states: dict[str, SweepState] = {}

    def sweeps(self) -> list[str]:
        """List the sweeps that were ever opened, sorted."""
        names = self._files.list("sweeps")
        return [name for name in names if self._files.list(f"sweeps/{name}/manifest")]

    def manifest(self, sweep: str) -> SweepState:
        """Return what the sweep's log amounts to now.

        Raises:
            UnknownSweep: the home has no such sweep.
            Damaged: the log is not whole.
        """
        _check_name(sweep)
        state = self._log(sweep).read(self._states.get(sweep))
        if not state.generation:
            raise UnknownSweep(
                f"{self._files.locate('')} holds no sweep {sweep!r}; "
                f"{nearest(sweep, self.sweeps())}"
            )
        self._states[sweep] = state
        return state

    def open_sweep(
        self,
        sweep: str,
        *,
        study: Mapping[str, object],
        owner: str = "",
        lease_seconds: float = 15.0,
    ) -> SweepWriter:
        """Become the one writer of a sweep, new or old.

        If an earlier driver did not close it, this waits until its lease has run out: not at all
        if its process is known to be dead, else for `lease_seconds`.

        Args:
            sweep: letters, digits and `_.-`, for example `quickstart.cpu`.
            study: what this driver runs, as JSON; kept with the sweep.
            owner: who runs it, for people; the user's name if empty.
            lease_seconds: how long this driver may miss its heartbeat before another may take
                over; above 0.

        Raises:
            SweepBusy: another driver is alive.
            Fenced: yet another driver took the sweep over in the same moment.
            Damaged: the sweep's log or attempts are not whole.
        """
        _check_name(sweep)
        if not lease_seconds > 0:
            raise StoreError(f"lease_seconds is {lease_seconds}, and must be above 0")
        return open_writer(
            self._files, sweep, owner=owner, study=study, lease_seconds=lease_seconds
        )

    def read(
        self,
        table: str,
        sweeps: Iterable[str] | None = None,
        columns: Sequence[str] | None = None,
    ) -> pa.Table:
        """Read a committed table of some sweeps (all by default), one sweep after the other.

        Raises:
            UnknownSweep: the home has no such sweep.
            BadRows: there is no such table, or it has no such column.
            Damaged: a file is missing, or is not what was committed.
        """
        schema = schema_of(table)
        for column in columns or ():
            if column not in schema.names:
                raise BadRows(
                    f"table {table} has no column {column!r}; {nearest(column, schema.names)}"
                )
        names = self.sweeps() if sweeps is None else sweeps
        read = [self._read(name, {table: columns})[table] for name in names]
        return _concat(table, columns, read)

    def results(self) -> dict[str, pa.Table]:
        """Read the whole home, with one winner per trial.

        Returns:
            trials: what was planned; of each (sweep, trial_id, stage) the lines of the last epoch.
            attempts: every attempt of every sweep.
            measurements: of each trial those of its winner only, in no order.
            winners: as `done` returns them.
        """
        every = dict.fromkeys(("trials", "attempts", "measurements"))
        read = {name: self._read(name, every) for name in self.sweeps()}
        attempts = _concat("attempts", None, [tables["attempts"] for tables in read.values()])
        winners = _winners(attempts)
        trials = _concat("trials", None, [tables["trials"] for tables in read.values()])
        won = [_won(tables["measurements"], winners, name) for name, tables in read.items()]
        return {
            "trials": _latest(trials),
            "attempts": attempts,
            "measurements": _concat("measurements", None, won),
            "winners": winners,
        }

    def done(self) -> pa.Table:
        """List the winner of each trial that has one, without reading measurements.

        Of the sweeps that hold a final attempt of the trial: done beats stopped, then the first
        name wins.

        Returns:
            trial_id, sweep, attempt, status (done or stopped), seconds and artifacts (JSON) of
            the winning attempts, sorted by trial_id.
        """
        return _winners(self.read("attempts", columns=_WINNER_COLUMNS))

    def canonical(self, sweep: str | None = None) -> bytes:
        """Return the measurements of the winners, or of one sweep, in their one canonical form.

        Two homes have equal bytes exactly if they hold equal measurements, whatever the order,
        the batches, the retries and the compactions that brought them there.
        """
        if sweep is None:
            rows = self.results()["measurements"]
        else:
            rows = self.read("measurements", [sweep])
        return parts.encode(sort("measurements", rows))

    def study(self, sweep: str, epoch: int | None = None) -> dict[str, object]:
        """Return the study that the driver of `epoch` ran, by default the last one's.

        Raises:
            StoreError: there was no such epoch.
        """
        state = self.manifest(sweep)
        number = state.epoch if epoch is None else epoch
        if not 1 <= number <= state.epoch:
            raise StoreError(f"sweep {sweep} has epochs 1 to {state.epoch}, not {number}")
        turn = state.epochs[number - 1]
        path = f"sweeps/{sweep}/{turn.study}"
        try:
            data = self._files.read(path)
        except FileNotFoundError:
            data = b""
        if hashlib.sha256(data).hexdigest() != turn.study_sha256:
            raise Damaged(
                f"{self._files.locate(path)} is missing or damaged: restore it from a copy"
            )
        return dict(json.loads(data))

    def alive(self, sweep: str) -> bool | None:
        """Tell whether the sweep's driver runs; None if that cannot be told from this machine."""
        owner = self.manifest(sweep).owner
        return False if owner is None else known_alive(owner)

    def live(self, sweep: str) -> dict[str, object] | None:
        """Return the status that the driver last published; None if there is none."""
        _check_name(sweep)
        try:
            return dict(json.loads(self._files.read(f"sweeps/{sweep}/live.json")))
        except (FileNotFoundError, ValueError, TypeError):
            return None  # not written durably: a power loss may leave anything

    def request_stop(self, sweep: str, reason: str) -> bool:
        """Ask the driver of the open epoch to stop; False if the sweep is closed."""
        state = self.manifest(sweep)
        if state.closed:
            return False
        data = canonical_json({"reason": reason}).encode()
        self._files.write(stop_path(f"sweeps/{sweep}", state.epoch), data)
        return True

    def stop_requested(self, sweep: str) -> str | None:
        """Return the reason why the open epoch's driver is asked to stop; None if it is not."""
        return read_stop(self._files, f"sweeps/{sweep}", self.manifest(sweep).epoch)

    def _log(self, sweep: str) -> Log:
        return Log(self._files, f"sweeps/{sweep}")

    def _read(self, sweep: str, wanted: Mapping[str, Sequence[str] | None]) -> dict[str, pa.Table]:
        """Read tables of one sweep as of one generation."""
        tries = 0
        while True:
            state = self.manifest(sweep)
            try:
                return {
                    table: _concat(
                        table,
                        columns,
                        [
                            self._reader.read(f"sweeps/{sweep}", part, columns)
                            for part in state.of(table)
                        ],
                    )
                    for table, columns in wanted.items()
                }
            except Missing as missing:
                # A compaction may have replaced it since; then the log no longer names it.
                tries += 1
                if tries == _READ_TRIES or missing.part in self.manifest(sweep).parts:
                    raise


def _check_name(sweep: str) -> None:
    if not _SWEEP_NAME.fullmatch(sweep):
        raise UnknownSweep(
            f"{sweep!r} is no name of a sweep: letters, digits and _ . - are allowed, and it "
            "begins with a letter, digit or _; for example quickstart.cpu"
        )


def _concat(table: str, columns: Sequence[str] | None, tables: list[pa.Table]) -> pa.Table:
    empty = TABLES[table].empty_table()
    return pa.concat_tables([empty if columns is None else empty.select(columns), *tables])


def _winners(attempts: pa.Table) -> pa.Table:
    final = attempts.select(_WINNER_COLUMNS)
    final = final.filter(pc.is_in(final["status"], pa.array(FINAL)))
    # "done" sorts before "stopped".
    order = [(name, "ascending") for name in ("trial_id", "status", "sweep")]
    final = final.take(pc.sort_indices(final, sort_keys=order)).combine_chunks()
    return _first_of_each(final, ["trial_id"])


def _latest(trials: pa.Table) -> pa.Table:
    """Keep of each (sweep, trial_id, stage) the lines of its last epoch, one per point.

    A trial has two points in one epoch where the winner of a search is what it is compared with.
    """
    keys = ["sweep", "trial_id", "stage"]
    order = [*((key, "ascending") for key in keys), ("epoch", "descending")]
    by = [*order, ("point", "ascending")]
    found = trials.take(pc.sort_indices(trials, sort_keys=by))
    last = _first_of_each(found, keys).select([*keys, "epoch"])
    if last.num_rows < found.num_rows:
        found = found.join(last, [*keys, "epoch"], join_type="left semi").select(
            trials.column_names
        )
        found = found.take(pc.sort_indices(found, sort_keys=by))
    return _first_of_each(found, [*keys, "epoch", "point"])


def _first_of_each(rows: pa.Table, keys: list[str]) -> pa.Table:
    """Keep, of each run of rows with equal keys, the first."""
    if rows.num_rows < 2:
        return rows
    changed = [
        pc.not_equal(rows[key].combine_chunks()[1:], rows[key].combine_chunks()[:-1])
        for key in keys
    ]
    first = changed[0]
    for other in changed[1:]:
        first = pc.or_(first, other)
    return rows.filter(pa.concat_arrays([pa.array([True]), first]))


def _won(measurements: pa.Table, winners: pa.Table, sweep: str) -> pa.Table:
    """Keep the measurements of the trials that `sweep` has won."""
    won = winners.filter(pc.equal(winners["sweep"], sweep))["trial_id"]
    return measurements.filter(pc.is_in(measurements["trial_id"], won.combine_chunks()))
