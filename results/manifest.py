"""The log of a sweep: numbered entries, each created exclusively, whose replay is the sweep.

`manifest/00000017.json` is entry 17. To create it is to commit: before, nothing of it counts;
after, nothing can undo it. Entries are chained by sha256. The kinds, and the only legal moves:

    open     a driver claims the next epoch, from any state
    commit   the driver of the current epoch adds parts
    compact  the driver of the current epoch replaces the whole list of parts
    close    the driver of the current epoch ends it

A driver that was frozen while another opened a newer epoch finds its next number taken: it is
fenced by the same operation that commits.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Literal

from sensweep.results.errors import Damaged, StoreError
from sensweep.results.files import Files
from sensweep.results.schema import SCHEMA_VERSION, canonical_json

Kind = Literal["open", "commit", "compact", "close"]

_ENTRY_NAME = re.compile(r"(\d{8})\.json")


@dataclass(frozen=True, slots=True)
class Part:
    """A committed Parquet file: its path within the sweep's folder, sha256, rows and bytes."""

    table: str
    path: str
    sha256: str
    rows: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Owner:
    """Who holds an epoch.

    Attributes:
        name: who, for people (a user, a command).
        host: host name.
        machine: boot id and pid namespace, within which `pid` means something; "" if unknown.
        pid: process id.
        started: start time of the process in ticks since boot; "" if unknown.
        since: when the epoch was opened, UTC by the owner's clock, for people.
        interval: seconds between two heartbeats.
    """

    name: str
    host: str
    machine: str
    pid: int
    started: str
    since: str
    interval: float


@dataclass(frozen=True, slots=True)
class Epoch:
    """One driver's turn: its number, its owner, and the study file that it ran."""

    number: int
    owner: Owner
    study: str
    study_sha256: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the log.

    Attributes:
        generation: number of the entry, from 1, without gaps.
        epoch: the driver epoch that wrote it, from 1.
        kind: see the module.
        writer: random token of the writer; no two writers' entries have equal bytes.
        previous: sha256 of the entry before; "" for the first.
        parts: files added (commit), or all files (compact).
        epochs: the epoch opened (open), or all epochs so far (compact).
    """

    generation: int
    epoch: int
    kind: Kind
    writer: str
    previous: str
    parts: tuple[Part, ...] = ()
    epochs: tuple[Epoch, ...] = ()

    def encode(self) -> tuple[bytes, str]:
        """Return the entry's bytes, and the sha256 over its content that they carry."""
        content = {"schema": SCHEMA_VERSION, **asdict(self)}
        sha256 = _digest(content)
        return (canonical_json({**content, "sha256": sha256}) + "\n").encode(), sha256


@dataclass(frozen=True, slots=True)
class SweepState:
    """What the log of a sweep amounts to, up to its entry `generation`.

    Attributes:
        generation: number of the last entry; 0 if the sweep was never opened.
        epoch: number of the last epoch; 0 if the sweep was never opened.
        closed: whether the last epoch's driver has ended it in order.
        parts: the committed files that count.
        epochs: every driver's turn, in order.
        writer: token of the last epoch's writer.
        sha256: of the last entry.
    """

    generation: int = 0
    epoch: int = 0
    closed: bool = True
    parts: tuple[Part, ...] = ()
    epochs: tuple[Epoch, ...] = ()
    writer: str = ""
    sha256: str = ""

    @property
    def owner(self) -> Owner | None:
        """Who holds the open epoch; None if it is closed."""
        return None if self.closed else self.epochs[-1].owner

    def of(self, table: str) -> list[Part]:
        """List the parts of one table."""
        return [part for part in self.parts if part.table == table]


class Log:
    """The entries of the sweep whose folder is `folder`."""

    def __init__(self, files: Files, folder: str) -> None:
        self._files = files
        self._folder = folder
        self._hint = f"{folder}/snapshot.json"

    def read(self, known: SweepState | None = None) -> SweepState:
        """Replay the log; what was `known` from an earlier reading is not read again.

        Raises:
            Damaged: an entry is missing, unreadable, or makes no legal move.
        """
        numbers = self._numbers()
        if not numbers:
            return SweepState()
        state = known or SweepState()
        if not self._still_holds(state, numbers[-1]):
            state = SweepState()
        if not state.generation:
            state = self._snapshot(numbers[-1]) or state
        wanted = range(state.generation + 1, numbers[-1] + 1)
        missing = set(wanted).difference(numbers)
        if missing:
            raise Damaged(
                f"{self._locate(min(missing))} is missing, though later entries of the log "
                "exist: restore it from a copy; nothing after it can be trusted"
            )
        return self._replay(state, (self._read_entry(number) for number in wanted))

    def append(self, state: SweepState, entry: Entry) -> SweepState:
        """Commit `entry` as the one after `state`.

        Raises:
            FileExistsError: another entry has this number; nothing was written.
            Damaged: the log does not end in `state` any more; nothing was written.
        """
        # Somebody may have deleted the home, even begun it anew, while its driver was running.
        if state.generation and self._read_entry(state.generation)[1] != state.sha256:
            raise Damaged(f"{self._locate(state.generation)} was replaced: open the sweep again")
        data, sha256 = entry.encode()
        after = self._replay(state, [(entry, sha256)])
        self._files.create_exclusive(self._path(entry.generation), data)
        if entry.kind == "compact":
            # Readers may start here. A lost or spoilt hint costs them time, never truth.
            hint = {"generation": entry.generation, "sha256": sha256}
            self._files.write(self._hint, canonical_json(hint).encode(), durable=False)
        return after

    def _numbers(self) -> list[int]:
        names = self._files.list(f"{self._folder}/manifest")
        numbers = sorted(int(match[1]) for name in names if (match := _ENTRY_NAME.fullmatch(name)))
        # NFS may show a listing that is a minute old; what is asked for by name is there.
        following = numbers[-1] + 1 if numbers else 1
        while self._files.version(self._path(following)) is not None:
            numbers.append(following)
            following += 1
        return numbers

    def _path(self, generation: int) -> str:
        return f"{self._folder}/manifest/{generation:08d}.json"

    def _locate(self, generation: int) -> str:
        return self._files.locate(self._path(generation))

    def _still_holds(self, known: SweepState, last: int) -> bool:
        """Tell whether the log continues `known`: a home may be deleted and begun anew."""
        if not known.generation or known.generation > last:
            return False
        return self._read_entry(known.generation)[1] == known.sha256

    def _snapshot(self, last: int) -> SweepState | None:
        """Start from the last compaction that the hint names, if the hint is good."""
        try:
            hint = json.loads(self._files.read(self._hint))
            generation, sha256 = int(hint["generation"]), hint["sha256"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
        if not 1 <= generation <= last:
            return None
        entry, found = self._read_entry(generation)
        if found != sha256 or entry.kind != "compact":
            return None
        return SweepState(
            generation, entry.epoch, False, entry.parts, entry.epochs, entry.writer, found
        )

    def _read_entry(self, generation: int) -> tuple[Entry, str]:
        where = self._locate(generation)
        try:
            content = json.loads(self._files.read(self._path(generation)))
            sha256 = content.pop("sha256")
            intact = sha256 == _digest(content)
        except (ValueError, KeyError, TypeError, AttributeError):
            intact = False
        except FileNotFoundError:
            raise Damaged(f"{where} is missing: restore it from a copy") from None
        if not intact:
            raise Damaged(
                f"{where} is damaged, or was not written by sensweep: its content does not match "
                "its sha256; restore it from a copy, or remove it if it is foreign"
            )
        version = content.pop("schema")
        if version != SCHEMA_VERSION:
            raise StoreError(
                f"{where} has schema version {version}, and this sensweep reads "
                f"{SCHEMA_VERSION}: use the sensweep that wrote it"
            )
        content["parts"] = tuple(Part(**part) for part in content["parts"])
        content["epochs"] = tuple(
            Epoch(**{**epoch, "owner": Owner(**epoch["owner"])}) for epoch in content["epochs"]
        )
        return Entry(**content), sha256

    def _replay(self, state: SweepState, entries: Iterable[tuple[Entry, str]]) -> SweepState:
        parts = list(state.parts)
        for entry, sha256 in entries:
            self._check_move(state, entry)
            if entry.kind == "compact":
                parts.clear()
            parts += entry.parts
            state = replace(
                state,
                generation=entry.generation,
                epoch=entry.epoch,
                closed=entry.kind == "close",
                epochs=(*state.epochs, *entry.epochs) if entry.kind == "open" else state.epochs,
                writer=entry.writer,
                sha256=sha256,
            )
        return replace(state, parts=tuple(parts))

    def _check_move(self, state: SweepState, entry: Entry) -> None:
        opens = entry.kind == "open"
        reason = ""
        if entry.generation != state.generation + 1:
            reason = f"it says that it is entry {entry.generation}"
        elif entry.previous != state.sha256:
            reason = "it does not continue the entry before"
        elif entry.epoch != state.epoch + opens:
            reason = f"{entry.kind} of epoch {entry.epoch} follows epoch {state.epoch}"
        elif not opens and state.closed:
            reason = f"{entry.kind} follows the close of its epoch"
        elif not opens and entry.writer != state.writer:
            reason = f"{entry.kind} is by another writer than the one that opened the epoch"
        if reason:
            raise Damaged(
                f"{self._locate(state.generation + 1)} is out of order: {reason}; "
                "restore the manifest folder from a copy"
            )


def _digest(content: dict[str, object]) -> str:
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()
