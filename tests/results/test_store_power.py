"""Loss of power at any moment: what was not synced may be lost, torn, or reordered.

`LocalFiles` runs on a real folder while every call that changes it is recorded. Then the power is
cut after each recorded call: a model of the disk keeps what was synced, and of the rest any part.
On every disk that may be left so, each acknowledged commit must be there whole.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from store_kit import STUDY, MemoryFiles, batch, stored, trial

from sensweep.results import files as files_module
from sensweep.results import lease as lease_module
from sensweep.results.errors import StoreError
from sensweep.results.store import Home

SWEEP = "kit.cpu"
DISKS_PER_MOMENT = 4


@dataclass
class Inode:
    data: bytes = b""
    synced: bool = False


@dataclass
class Recorder:
    """Stands in for `os` in `sensweep.results.files`, and remembers what happened in which order.

    Folder changes are (folder, name, inode or None); an index says up to where a folder is synced.
    """

    root: str
    events: list[tuple] = field(default_factory=list)
    drop_fsync_of: str = ""
    _open: dict[int, object] = field(default_factory=dict)
    _inodes: dict[str, Inode] = field(default_factory=dict)

    def __getattr__(self, name: str) -> object:
        return getattr(os, name)

    def open(self, path: Path, flags: int, mode: int = 0o777) -> int:
        descriptor = os.open(path, flags, mode)
        self._open[descriptor] = str(path)
        if flags & os.O_CREAT:
            self._inodes[str(path)] = Inode()
            self._change(path, self._inodes[str(path)])
        return descriptor

    def write(self, descriptor: int, data: memoryview) -> int:
        self.events.append(("write", self._inodes[self._open[descriptor]], bytes(data)))
        return os.write(descriptor, data)

    def fsync(self, descriptor: int) -> None:
        path = self._open[descriptor]
        kind = "file" if path in self._inodes else "folder"
        if kind != self.drop_fsync_of:
            self.events.append(("sync", kind, self._inodes.get(path, path)))
        os.fsync(descriptor)

    def link(self, source: Path, target: Path) -> None:
        os.link(source, target)
        self._inodes[str(target)] = self._inodes[str(source)]
        self._change(target, self._inodes[str(target)])

    def replace(self, source: Path, target: Path) -> None:
        os.replace(source, target)
        self._inodes[str(target)] = self._inodes.pop(str(source))
        self._change(target, self._inodes[str(target)])

    def unlink(self, path: Path) -> None:
        os.unlink(path)
        self._change(path, None)

    def mkdir(self, path: Path) -> None:
        os.mkdir(path)
        self._change(path, "folder")

    def _change(self, path: Path, what: object) -> None:
        self.events.append(("change", str(path.parent), path.name, what))

    def disk_after(self, moment: int, chance: random.Random) -> MemoryFiles:
        """Draw one disk that may be found when the power goes after `moment` events."""
        written: dict[int, list] = {}
        pending: dict[str, dict[str, list]] = {}  # folder -> name -> changes not yet synced
        durable: dict[str, dict[str, object]] = {}
        for kind, *event in self.events[:moment]:
            if kind == "write":
                written.setdefault(id(event[0]), [b"", 0])[0] += event[1]
            elif kind == "change":
                pending.setdefault(event[0], {}).setdefault(event[1], []).append(event[2])
            elif kind == "sync" and event[0] == "file":
                content = written.setdefault(id(event[1]), [b"", 0])
                content[1] = len(content[0])
            elif kind == "sync":
                for name, changes in pending.pop(event[1], {}).items():
                    durable.setdefault(event[1], {})[name] = changes[-1]
        for folder, names in pending.items():
            for name, changes in names.items():
                kept = chance.choice([None, *range(len(changes))])
                if kept is not None:
                    durable.setdefault(folder, {})[name] = changes[kept]
        disk = MemoryFiles()
        self._fill(disk, self.root, "", durable, written, chance)
        return disk

    def _fill(
        self,
        disk: MemoryFiles,
        folder: str,
        prefix: str,
        durable: dict[str, dict[str, object]],
        written: dict[int, list],
        chance: random.Random,
    ) -> None:
        for name, what in durable.get(folder, {}).items():
            if what == "folder":
                self._fill(disk, f"{folder}/{name}", f"{prefix}{name}/", durable, written, chance)
            elif what is not None:
                content, synced = written.get(id(what), [b"", 0])
                length = chance.choice([synced, len(content), chance.randint(synced, len(content))])
                disk.content[prefix + name] = content[:length]


def record(root: Path, monkeypatch: pytest.MonkeyPatch, drop: str = "") -> Recorder:
    """Run a driver with commits, compactions and a successor; acknowledgements are events too."""
    recorder = Recorder(str(root), drop_fsync_of=drop)
    monkeypatch.setattr(files_module, "os", recorder)
    monkeypatch.setattr(lease_module, "known_alive", lambda owner: False)
    for epoch in range(2):
        writer = Home(root).open_sweep(SWEEP, study={**STUDY, "epoch": epoch})
        for number in range(10 * epoch, 10 * epoch + 3):
            writer.commit(batch([trial(number)]))
            recorder.events.append(("acknowledged", trial(number)))
            writer.heartbeat()
        writer.compact()
        writer.collect(grace_seconds=0)
    return recorder


def losses(recorder: Recorder) -> list[str]:
    """Cut the power after every event, several times; tell what was wrong with the disks left."""
    chance, wrong = random.Random(1), []
    acknowledged: set[str] = set()
    for moment, event in enumerate(recorder.events, 1):
        if event[0] == "acknowledged":
            acknowledged.add(event[1])
        for _ in range(DISKS_PER_MOMENT):
            home = Home("kit", recorder.disk_after(moment, chance))
            try:
                found = stored(home, SWEEP) if home.sweeps() else {}
                if home.sweeps():
                    home.study(SWEEP)
            except StoreError as error:
                wrong.append(str(error))
                continue
            extra = found.keys() - acknowledged
            if acknowledged - found.keys() or len(extra) > 1 or set(found.values()) - {2}:
                wrong.append(f"after event {moment}: {sorted(acknowledged ^ found.keys())}")
    return wrong


def test_no_loss_of_power_loses_what_was_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = record(tmp_path / "home", monkeypatch)
    assert sum(event[0] == "acknowledged" for event in recorder.events) == 6
    assert losses(recorder) == []


@pytest.mark.parametrize("drop", ["file", "folder"])
def test_this_check_notices_a_missing_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drop: str
) -> None:
    assert losses(record(tmp_path / "home", monkeypatch, drop))
