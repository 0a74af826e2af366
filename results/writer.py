"""The one writer of a sweep: it holds an epoch, commits rows, and finds out when it is fenced."""

from __future__ import annotations

import hashlib
import json
import shlex
import threading
import time
import uuid
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import pyarrow as pa

from sensweep.results import parts
from sensweep.results.errors import Fenced, StoreError, SweepBusy
from sensweep.results.files import Files
from sensweep.results.lease import Lease, this_process
from sensweep.results.manifest import Entry, Epoch, Kind, Log, Owner, Part, SweepState
from sensweep.results.parts import Missing, PartReader
from sensweep.results.rules import ATTEMPT_COLUMNS, Ledger
from sensweep.results.schema import TABLES, Columns, build, canonical_json, sort

#: Parts of at least this size are left alone by compaction, which bounds its memory and time.
LARGE_BYTES = 64 * 2**20


def stop_path(folder: str, epoch: int) -> str:
    """Return where a stop request for the driver of `epoch` lies; no other driver sees it."""
    return f"{folder}/control/stop-{epoch:08d}.json"


def read_stop(files: Files, folder: str, epoch: int) -> str | None:
    """Return the reason of a stop request for the driver of `epoch`; None if there is none."""
    try:
        return str(json.loads(files.read(stop_path(folder, epoch)))["reason"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        return "a stop request that cannot be read"


class SweepWriter:
    """Writes a sweep for as long as no newer driver has taken it over. Made by `Home.open_sweep`.

    After `commit` has returned, its rows survive the loss of process, machine and power. When it
    raises BadRows, nothing was written. When it raises OSError (a full disk), nothing counts yet,
    or all of it does: call it again with the same tables until it returns. Methods may be called
    from several threads.

    Attributes:
        sweep: the sweep's name.
        epoch: the driver epoch, from 1; larger than that of any writer before.
        heartbeat_interval: seconds within which `heartbeat` must be called again and again.
    """

    def __init__(
        self, files: Files, sweep: str, state: SweepState, owner: Owner, ledger: Ledger
    ) -> None:
        self.sweep = sweep
        self.epoch = state.epoch
        self.heartbeat_interval = owner.interval
        self._files = files
        self._folder = f"sweeps/{sweep}"
        self._log = Log(files, self._folder)
        self._lease = Lease(files, self._folder)
        self._reader = PartReader(files)
        self._state = state
        self._owner = owner
        self._ledger = ledger
        self._lock = threading.Lock()
        self._fenced = ""
        self._beats = 0
        # When each unneeded file was first known to be unneeded, by the monotonic clock.
        self._unneeded: dict[str, float] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._fenced and not self._state.closed:
            self.close()

    @property
    def state(self) -> SweepState:
        """What the sweep's log amounts to, as far as this writer knows."""
        return self._state

    def commit(self, tables: Mapping[str, pa.Table | Columns]) -> int:
        """Commit rows of several tables together, durably.

        Args:
            tables: for each table its columns, as an Arrow table or as lists of equal length.
                `sweep`, and `epoch` where the table has it, may be left out.

        Returns:
            The generation that holds them; the last one if there are no rows.

        Raises:
            BadRows: the rows do not fit the schema or break a rule; nothing was written.
            DuplicateRows: an attempt or a trial's measurements are committed already.
            Fenced: a newer driver has taken the sweep over.
        """
        fixed = {"sweep": self.sweep, "epoch": self.epoch}
        built = {name: build(name, columns, fixed) for name, columns in tables.items()}
        built = {name: rows for name, rows in built.items() if rows.num_rows}
        with self._lock:
            self._check_open()
            while built:
                self._ledger.check(built)
                generation = self._state.generation + 1
                added = tuple(
                    parts.store(self._files, self._folder, name, generation, built[name])
                    for name in TABLES
                    if name in built
                )
                if self._append("commit", added):
                    if "attempts" in built:
                        self._ledger.add(built["attempts"])
                    break
            return self._state.generation

    def compact(self) -> int:
        """Merge the small parts of each table into one, sorted by the table's key.

        The files that it replaces stay for readers that are at work; `collect` deletes them.

        Returns:
            The generation that holds the new list of files.
        """
        with self._lock:
            self._check_open()
            while True:
                try:
                    merged = tuple(self._merged())
                except Missing:
                    self._catch_up()  # a newer driver may have compacted, which fences us
                    raise
                if merged == self._state.parts or self._append("compact", merged):
                    return self._state.generation

    def collect(self, grace_seconds: float = 60.0) -> int:
        """Delete the files that no entry has needed for `grace_seconds`; return their number.

        Only the driver of the last epoch may: files of its own that no entry names yet are in no
        other thread's hands, and those of earlier drivers can never be committed any more.
        """
        with self._lock:
            self._check_open()
            # In this order: what is listed here and unknown to the log afterwards is not needed.
            names = self._files.list(f"{self._folder}/parts")
            self._catch_up()
            needed = {part.path for part in self._state.parts}
            now = time.monotonic()
            unneeded = {path for name in names if (path := f"parts/{name}") not in needed}
            self._unneeded = {path: self._unneeded.get(path, now) for path in unneeded}
            due = [path for path, since in self._unneeded.items() if now - since >= grace_seconds]
            for path in due:
                self._files.delete(f"{self._folder}/{path}")
                del self._unneeded[path]
            self._files.tidy()
            return len(due)

    def heartbeat(self) -> None:
        """Show that this driver lives; cheap enough for every loop of the driver.

        Raises:
            Fenced: a newer driver has taken the sweep over.
        """
        self._check_open()
        beat = self._lease.last_beat()
        if beat is not None and beat[0] > self.epoch:
            with self._lock:
                self._catch_up()
        # Without the lock: a long compaction in another thread must not look like a dead driver.
        self._beats += 1
        self._lease.beat(self.epoch, self._owner, self._beats)

    def stop_requested(self) -> str | None:
        """Return the reason of a request that this driver stop; None if there is none."""
        return read_stop(self._files, self._folder, self.epoch)

    def write_live(self, status: Mapping[str, object]) -> None:
        """Publish a status for display; a power loss may lose it."""
        data = canonical_json(status).encode()
        self._files.write(f"{self._folder}/live.json", data, durable=False)

    def close(self) -> None:
        """End this driver's epoch, so that the next driver need not wait for the lease."""
        with self._lock:
            self._check_open()
            while not self._append("close", ()):
                pass

    def _merged(self) -> list[Part]:
        merged = []
        for table in TABLES:
            small = [part for part in self._state.of(table) if part.bytes < LARGE_BYTES]
            merged += [part for part in self._state.of(table) if part.bytes >= LARGE_BYTES]
            if len(small) > 1:
                rows = pa.concat_tables(self._reader.read(self._folder, part) for part in small)
                generation = self._state.generation + 1
                rows = sort(table, rows)
                small = [parts.store(self._files, self._folder, table, generation, rows)]
            merged += small
        return merged

    def _append(self, kind: Kind, changed: tuple[Part, ...]) -> bool:
        """Append an entry; False if its number is taken by one of our own, now caught up with."""
        entry = Entry(
            generation=self._state.generation + 1,
            epoch=self.epoch,
            kind=kind,
            writer=self._state.writer,
            previous=self._state.sha256,
            parts=changed,
            epochs=self._state.epochs if kind == "compact" else (),
        )
        try:
            self._state = self._log.append(self._state, entry)
        except FileExistsError:
            self._catch_up()
            return False
        return True

    def _catch_up(self) -> None:
        """Read what the log holds beyond our knowledge.

        That is a newer epoch, or an entry of our own whose creation seemed to have failed.
        """
        before = set(self._state.parts)
        state = self._log.read(self._state)
        if state.epoch != self.epoch or state.writer != self._state.writer:
            owner = state.epochs[-1].owner
            self._fenced = (
                f"sweep {self.sweep} was taken over by {owner.name} on {owner.host} (pid "
                f"{owner.pid}, since {owner.since}): this driver (epoch {self.epoch}, now "
                f"{state.epoch}) may write no more"
            )
            raise Fenced(self._fenced)
        self._state = state
        for part in state.of("attempts"):
            if part not in before:
                self._ledger.add(self._reader.read(self._folder, part, ATTEMPT_COLUMNS))

    def _check_open(self) -> None:
        if self._fenced:
            raise Fenced(self._fenced)
        if self._state.closed:
            raise StoreError(f"this writer of sweep {self.sweep} is closed: open the sweep again")


def open_writer(
    files: Files, sweep: str, *, owner: str, study: Mapping[str, object], lease_seconds: float
) -> SweepWriter:
    """Claim the next epoch of a sweep; see `Home.open_sweep`."""
    log, lease = Log(files, f"sweeps/{sweep}"), Lease(files, f"sweeps/{sweep}")
    state = log.read()
    while True:
        if lease.held(state, lease_seconds):
            raise _busy(files, sweep, state)
        try:
            writer = _claim(files, sweep, log, state, this_process(owner, lease_seconds), study)
        except (FileExistsError, Missing):
            fresh = log.read(state)
            if fresh.generation == state.generation:
                raise  # no compaction explains why a file is missing
            if fresh.epoch == state.epoch and not fresh.closed:
                raise _busy(files, sweep, fresh) from None  # it commits, so it lives
            state = fresh
        else:
            writer.heartbeat()
            return writer


def _claim(
    files: Files, sweep: str, log: Log, state: SweepState, owner: Owner, study: Mapping[str, object]
) -> SweepWriter:
    """Open the next epoch directly after `state`; FileExistsError if something else comes there."""
    folder = f"sweeps/{sweep}"
    reader, ledger = PartReader(files), Ledger()
    for part in state.of("attempts"):
        ledger.add(reader.read(folder, part, ATTEMPT_COLUMNS))
    data = canonical_json(study).encode()
    sha256 = hashlib.sha256(data).hexdigest()
    path = f"studies/{sha256[:12]}.json"
    files.write(f"{folder}/{path}", data)
    number = state.epoch + 1
    entry = Entry(
        generation=state.generation + 1,
        epoch=number,
        kind="open",
        writer=uuid.uuid4().hex,
        previous=state.sha256,
        epochs=(Epoch(number, owner, path, sha256),),
    )
    return SweepWriter(files, sweep, log.append(state, entry), owner, ledger)


def _busy(files: Files, sweep: str, state: SweepState) -> SweepBusy:
    owner = state.epochs[-1].owner
    return SweepBusy(
        f"sweep {sweep} is being run by {owner.name} on {owner.host} (pid {owner.pid}, since "
        f"{owner.since}): wait for it, or stop it with `sensweep stop {sweep} --home "
        f"{shlex.quote(files.locate(''))}`"
    )
