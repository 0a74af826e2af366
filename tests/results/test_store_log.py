"""The log of a sweep refuses what no sensweep wrote, and its parts what nobody committed."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from store_kit import STUDY, MemoryFiles, batch, measurements, stored, trial

from sensweep.results import parts
from sensweep.results.errors import Damaged, StoreError
from sensweep.results.manifest import Log, _digest
from sensweep.results.parts import PartReader
from sensweep.results.schema import build, canonical_json
from sensweep.results.store import Home

SWEEP = "kit.cpu"
FOLDER = f"sweeps/{SWEEP}"
T = [trial(number) for number in range(20)]


@pytest.fixture
def files() -> MemoryFiles:
    """A sweep of one epoch: open, three commits, close."""
    files = MemoryFiles()
    with Home("kit", files).open_sweep(SWEEP, study=STUDY) as writer:
        for name in T[:3]:
            writer.commit(batch([name]))
    return files


def entry(number: int) -> str:
    return f"{FOLDER}/manifest/{number:08d}.json"


def refuse(
    files: MemoryFiles, line: str, error: type[Exception] = Damaged, *, reads_only: bool = False
) -> None:
    """Reading and opening both refuse with one line that matches; neither changes a byte."""
    before = dict(files.content)
    calls: list[Callable[[], object]] = [lambda: Home("kit", files).read("measurements")]
    if not reads_only:
        calls.append(lambda: Home("kit", files).open_sweep(SWEEP, study=STUDY))
    for call in calls:
        with pytest.raises(error, match=line) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert files.content == before


def test_every_flipped_bit_of_every_entry_is_noticed(files: MemoryFiles) -> None:
    for number in range(1, 6):
        good = files.content[entry(number)]
        for position in range(len(good)):
            bad = bytearray(good)
            bad[position] ^= 1 << (position % 8)
            files.content[entry(number)] = bytes(bad)
            with pytest.raises(StoreError, match=f"{number:08d}.json"):
                Home("kit", files).manifest(SWEEP)
        files.content[entry(number)] = good
    Home("kit", files).manifest(SWEEP)


@pytest.mark.parametrize("garbage", [b"", b"{}", b"[1]", b"null", b"\xff\xfe", b'{"sha256":1}'])
def test_a_foreign_entry_at_the_end_is_refused(files: MemoryFiles, garbage: bytes) -> None:
    files.content[entry(6)] = garbage
    refuse(files, "00000006.json is damaged, or was not written by sensweep")


def test_a_missing_entry_is_refused(files: MemoryFiles) -> None:
    del files.content[entry(3)]
    refuse(files, "00000003.json is missing, though later entries")


def test_entries_of_two_sweeps_do_not_mix(files: MemoryFiles) -> None:
    home = Home("kit", files)
    home.open_sweep("other.cpu", study=STUDY).commit(batch(T[:1]))
    files.content[entry(2)] = files.content["sweeps/other.cpu/manifest/00000002.json"]
    refuse(files, "00000002.json is out of order: it does not continue the entry before")


def test_an_entry_under_another_number_is_refused(files: MemoryFiles) -> None:
    files.content[entry(6)] = files.content[entry(5)]
    refuse(files, "00000006.json is out of order: it says that it is entry 5")


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"epoch": 2}, "commit of epoch 2 follows epoch 1"),
        ({}, "commit follows the close of its epoch"),
        ({"kind": "open", "epoch": 1}, "open of epoch 1 follows epoch 1"),
        ({"kind": "open", "epoch": 3}, "open of epoch 3 follows epoch 1"),
    ],
)
def test_illegal_moves_are_refused(files: MemoryFiles, changes: dict, line: str) -> None:
    content = json.loads(files.content[entry(4)])
    previous = json.loads(files.content[entry(5)])["sha256"]
    content |= {"generation": 6, "previous": previous, "parts": [], **changes}
    del content["sha256"]
    text = canonical_json({**content, "sha256": _digest(content)})
    files.content[entry(6)] = text.encode()
    refuse(files, f"00000006.json is out of order: {line}")


def test_a_log_of_a_newer_schema_is_refused(files: MemoryFiles) -> None:
    content = json.loads(files.content[entry(1)])
    del content["sha256"]
    content["schema"] = 2
    files.content[entry(1)] = canonical_json({**content, "sha256": _digest(content)}).encode()
    refuse(files, "has schema version 2, and this sensweep reads 1", StoreError)


def test_other_names_in_the_folder_are_not_entries(files: MemoryFiles) -> None:
    for name in (".nfs0001", "00000006.json~", "6.json", ".DS_Store"):
        files.content[f"{FOLDER}/manifest/{name}"] = b"?"
    assert Home("kit", files).manifest(SWEEP).generation == 5


def test_a_listing_that_is_out_of_date_hides_nothing(files: MemoryFiles) -> None:
    home = Home("kit", files)
    old = files.list(f"{FOLDER}/manifest")
    writer = home.open_sweep(SWEEP, study=STUDY)
    writer.commit(batch(T[3:4]))
    fresh = files.list
    files.list = lambda folder: old if "manifest" in folder else fresh(folder)  # type: ignore[method-assign]
    assert home.manifest(SWEEP) == Home("kit", files).manifest(SWEEP) == writer.state
    files.list = lambda folder: [] if "manifest" in folder else fresh(folder)  # type: ignore[method-assign]
    assert Home("kit", files).manifest(SWEEP) == writer.state


def test_reading_starts_at_the_last_compaction(files: MemoryFiles) -> None:
    home = Home("kit", files)
    writer = home.open_sweep(SWEEP, study=STUDY)
    generation = writer.compact()
    writer.commit(batch(T[3:4]))
    reads: list[str] = []
    read = files.read
    files.read = lambda path: reads.append(path) or read(path)  # type: ignore[method-assign]
    state = Log(files, FOLDER).read()
    assert [path for path in reads if "manifest" in path] == [
        entry(generation),
        entry(generation + 1),
    ]
    assert state == writer.state == home.manifest(SWEEP)
    assert [epoch.number for epoch in state.epochs] == [1, 2]


@pytest.mark.parametrize(
    "hint",
    [b"", b"[]", b"{}", b'{"generation":99,"sha256":"x"}', b'{"generation":2,"sha256":"x"}', None],
)
def test_a_spoilt_hint_costs_time_not_truth(files: MemoryFiles, hint: bytes | None) -> None:
    writer = Home("kit", files).open_sweep(SWEEP, study=STUDY)
    writer.compact()
    writer.close()
    if hint is None:  # names a good entry that is no compaction
        sha256 = json.loads(files.content[entry(2)])["sha256"]
        hint = canonical_json({"generation": 2, "sha256": sha256}).encode()
    files.content[f"{FOLDER}/snapshot.json"] = hint
    assert Home("kit", files).manifest(SWEEP) == writer.state
    assert stored(Home("kit", files), SWEEP) == dict.fromkeys(T[:3], 2)


def test_a_home_that_is_deleted_and_begun_anew_is_read_anew(files: MemoryFiles) -> None:
    home = Home("kit", files)
    old = home.open_sweep(SWEEP, study=STUDY)
    assert len(stored(home, SWEEP)) == 3
    files.content.clear()
    new = Home("kit", files).open_sweep(SWEEP, study=STUDY)
    for name in T[5:15]:
        new.commit(batch([name]))
    assert stored(home, SWEEP) == dict.fromkeys(T[5:15], 2)
    with pytest.raises(Damaged, match="was replaced: open the sweep again"):
        old.commit(batch(T[15:16]))
    assert stored(home, SWEEP) == dict.fromkeys(T[5:15], 2)


def test_a_part_cut_at_any_byte_is_noticed(files: MemoryFiles) -> None:
    part = Home("kit", files).manifest(SWEEP).parts[-1]
    path = f"{FOLDER}/{part.path}"
    good = files.content[path]
    for length in range(len(good)):
        files.content[path] = good[:length]
        with pytest.raises(Damaged, match=f"{path} is damaged"):
            PartReader(files).read(FOLDER, part)
    refuse(files, f"{path} is damaged", reads_only=True)


def test_every_flipped_byte_of_a_part_is_noticed(files: MemoryFiles) -> None:
    part = Home("kit", files).manifest(SWEEP).parts[-1]
    path = f"{FOLDER}/{part.path}"
    good = files.content[path]
    for position in range(len(good)):
        bad = bytearray(good)
        bad[position] ^= 1 << (position % 8)
        files.content[path] = bytes(bad)
        with pytest.raises(Damaged, match=f"{path} is damaged"):
            PartReader(files).read(FOLDER, part)
    refuse(files, f"{path} is damaged", reads_only=True)


def test_pages_are_checked_though_the_file_was_verified_before(files: MemoryFiles) -> None:
    with Home("kit", files).open_sweep(SWEEP, study=STUDY) as writer:
        writer.commit(batch(T[5:8], rows=200))
    part = writer.state.of("measurements")[-1]
    path = f"{FOLDER}/{part.path}"
    good = files.content[path]
    reader = PartReader(files)
    rows = reader.read(FOLDER, part)
    noticed = 0
    for position in range(4, len(good) - 8 - int.from_bytes(good[-8:-4], "little"), 3):
        bad = bytearray(good)
        bad[position] ^= 0x10
        files.content[path] = bytes(bad)  # behind the back: the version stays the same
        try:
            assert reader.read(FOLDER, part).equals(rows), f"byte {position} gave other values"
        except Damaged:
            noticed += 1
    assert noticed > 1000


def test_a_missing_part_is_named(files: MemoryFiles) -> None:
    path = f"{FOLDER}/{Home('kit', files).manifest(SWEEP).parts[-1].path}"
    del files.content[path]
    with pytest.raises(Damaged, match=f"{path} is missing: restore the file"):
        Home("kit", files).read("measurements")


def test_a_missing_attempts_part_stops_the_next_driver(files: MemoryFiles) -> None:
    path = next(path for path in files.content if "parts/attempts-00000003" in path)
    del files.content[path]
    with pytest.raises(Damaged, match=f"{path} is missing: restore the file"):
        Home("kit", files).open_sweep(SWEEP, study=STUDY)
    assert Home("kit", files).manifest(SWEEP).epoch == 1


def test_the_bytes_of_a_part_do_not_tell_how_its_rows_were_batched() -> None:
    columns = measurements([trial(1)], rows=4000)
    columns["name"] = [f"{number:01000d}" for number in range(4000)]  # fills several pages
    rows = build("measurements", columns, {})
    cuts = [0, 1, 700, 2050, 2100, 4000]
    batched = pa.concat_tables(
        rows.slice(begin, end - begin) for begin, end in itertools.pairwise(cuts)
    )
    assert parts.encode(batched) == parts.encode(rows)


def test_a_part_is_hashed_once_per_home_and_again_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Home(tmp_path).open_sweep(SWEEP, study=STUDY) as writer:
        writer.commit(batch(T[:2]))
    hashed = []
    sha256 = parts.hashlib.sha256

    def counting(data: bytes) -> object:
        hashed.append(len(data))
        return sha256(data)

    home = Home(tmp_path)
    (part,) = home.manifest(SWEEP).of("measurements")
    monkeypatch.setattr(parts.hashlib, "sha256", counting)
    for _ in range(3):
        home.read("measurements")
    assert hashed.count(part.bytes) == 1
    path = tmp_path / FOLDER / part.path
    path.write_bytes(path.read_bytes())
    home.read("measurements")
    assert hashed.count(part.bytes) == 2


def test_a_damaged_study_is_named(files: MemoryFiles) -> None:
    home = Home("kit", files)
    path = f"{FOLDER}/{home.manifest(SWEEP).epochs[0].study}"
    damage: list[Callable[[], object]] = [
        lambda: files.content.update({path: b"{}"}),
        lambda: files.content.pop(path),
    ]
    for spoil in damage:
        spoil()
        with pytest.raises(Damaged, match=f"{path} is missing or damaged"):
            home.study(SWEEP)
