"""What a home promises to those who write rows and read them."""

from __future__ import annotations

import threading
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_kit import STUDY, MemoryFiles, attempts, batch, measurements, planned, stored, trial

from sensweep.results import writer as writer_module
from sensweep.results.errors import BadRows, DuplicateRows, StoreError, UnknownSweep
from sensweep.results.files import LocalFiles
from sensweep.results.schema import TABLES
from sensweep.results.store import Home

SWEEP = "kit.cpu"
T = [trial(number) for number in range(20)]


@pytest.fixture(params=["local", "memory"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Home:
    return Home(tmp_path / "runs", None if request.param == "local" else MemoryFiles())


def test_committed_rows_are_read_by_a_new_process(tmp_path: Path) -> None:
    with Home(tmp_path).open_sweep(SWEEP, study=STUDY) as writer:
        assert writer.commit({"trials": planned(T[:3])}) == 2
        assert writer.commit(batch(T[:2], rows=3)) == 3
    home = Home(tmp_path)
    assert home.sweeps() == [SWEEP]
    assert stored(home, SWEEP) == {T[0]: 3, T[1]: 3}
    assert home.read("trials")["trial_id"].to_pylist() == T[:3]
    assert (
        home.read("attempts", columns=["status", "sweep"]).to_pylist()
        == [{"status": "done", "sweep": SWEEP}] * 2
    )
    for table in TABLES:
        assert home.read(table).schema.equals(TABLES[table], check_metadata=True)


def test_an_empty_commit_writes_nothing(home: Home) -> None:
    with home.open_sweep(SWEEP, study=STUDY) as writer:
        assert writer.commit({}) == 1
        assert writer.commit({"measurements": measurements([])}) == 1


def test_a_second_driver_continues_where_the_first_ended(home: Home) -> None:
    with home.open_sweep(SWEEP, study=STUDY, owner="ana") as writer:
        assert writer.epoch == 1
        writer.commit(batch(T[:1]))
    with home.open_sweep(SWEEP, study={**STUDY, "seeds": 4}, owner="ben") as writer:
        assert writer.epoch == 2
        writer.commit(batch(T[1:2]))
    state = home.manifest(SWEEP)
    assert (state.generation, state.epoch, state.closed, state.owner) == (6, 2, True, None)
    assert [epoch.owner.name for epoch in state.epochs] == ["ana", "ben"]
    assert home.study(SWEEP)["seeds"] == 4
    assert home.study(SWEEP, epoch=1) == STUDY
    with pytest.raises(StoreError, match="has epochs 1 to 2, not 3"):
        home.study(SWEEP, epoch=3)
    assert stored(home, SWEEP) == {T[0]: 2, T[1]: 2}
    assert home.read("attempts", columns=["epoch"])["epoch"].to_pylist() == [1, 2]


def test_a_closed_writer_writes_no_more(home: Home) -> None:
    with home.open_sweep(SWEEP, study=STUDY) as writer:
        pass
    for call in (writer.heartbeat, writer.compact, writer.close, lambda: writer.commit({})):
        with pytest.raises(StoreError, match="closed: open the sweep again"):
            call()


def test_unknown_sweeps_are_named_with_the_nearest(home: Home) -> None:
    home.open_sweep("quickstart.cpu", study=STUDY).close()
    for call in (home.manifest, home.study, lambda name: home.read("trials", [name])):
        with pytest.raises(UnknownSweep, match=r"holds no sweep .*; did you mean quickstart"):
            call("quikstart.cpu")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../out", "a/b", "a\0b", "é", "a" * 200, ".hidden"]
)
def test_names_that_lead_out_of_the_home_are_refused(home: Home, name: str) -> None:
    for call in (home.manifest, home.live, lambda name: home.open_sweep(name, study=STUDY)):
        with pytest.raises(UnknownSweep, match="is no name of a sweep"):
            call(name)


def _change(tables: dict, table: str, column: str, values: list) -> dict:
    return {**tables, table: {**tables[table], column: values}}


@pytest.mark.parametrize("reopened", [False, True])
@pytest.mark.parametrize("compacted", [False, True])
def test_a_trial_is_committed_once(home: Home, reopened: bool, compacted: bool) -> None:
    writer = home.open_sweep(SWEEP, study=STUDY)
    writer.commit({"attempts": attempts(T[:1], status="failed", rows=0)})
    writer.commit(batch(T[1:3]))
    writer.commit(batch(T[3:4], status="stopped"))
    if compacted:
        writer.compact()
    if reopened:
        writer.close()
        writer = home.open_sweep(SWEEP, study=STUDY)
    before = writer.state.generation
    for again, line in [
        (batch(T[1:2]), "attempt 1 is committed already"),
        (batch(T[2:6], number=2), f"{T[2]}: attempt 2 is done, but the trial has a final attempt"),
        (batch(T[3:4], number=2), f"{T[3]}: attempt 2 is done, but the trial has a final attempt"),
        (batch([T[4], T[4]]), f"{T[4]}: attempt 1 is committed already"),
        (
            _change(batch([T[4], T[4]]), "attempts", "attempt", [1, 2]),
            f"{T[4]}: attempt 2 is done, but the trial has a final attempt",
        ),
        ({"attempts": attempts(T[:1], status="lost", rows=0)}, "attempt 1 is committed already"),
    ]:
        with pytest.raises(DuplicateRows, match=line):
            writer.commit(again)
    assert writer.commit(batch(T[:1], number=2)) == before + 1
    assert stored(home, SWEEP) == dict.fromkeys(T[:4], 2)


def test_a_refused_commit_leaves_no_trace(home: Home) -> None:
    writer = home.open_sweep(SWEEP, study=STUDY)
    with pytest.raises(BadRows):
        writer.commit({**batch(T[:2]), "trials": {"trial_id": [1]}})
    with pytest.raises(BadRows):
        writer.commit({"attempts": attempts(T[:2]), "measurements": measurements(T[:1])})
    assert writer.commit(batch(T[:2])) == 2
    assert stored(home, SWEEP) == dict.fromkeys(T[:2], 2)


@pytest.mark.parametrize(
    ("tables", "line"),
    [
        ({"measurements": measurements(T[:1])}, "came without its final attempt"),
        ({"attempts": attempts(T[:1])}, "has 2 rows, but 0 came with it"),
        (batch(T[:1], status="failed"), "came without its final attempt"),
        (_change(batch(T[:2]), "attempts", "rows", [2, 3]), "has 3 rows, but 2 came"),
        (_change(batch(T[:1]), "measurements", "seq", [0, 0]), "not numbered 0, 1, 2"),
        (_change(batch(T[:1]), "measurements", "seq", [1, 2]), "not numbered 0, 1, 2"),
        (_change(batch(T[:1]), "attempts", "status", ["finished"]), "'finished' of attempt 1 is"),
        (_change(batch(T[:1]), "attempts", "trial_id", ["ABC"]), "'ABC' is not 24 hex digits"),
        (
            _change(batch(T[:1]), "measurements", "coordinates", ["{}", '{"b": 1}']),
            "is not a canonical JSON mapping",
        ),
        (
            _change(batch(T[:1]), "measurements", "coordinates", ["{}", "[1]"]),
            "is not a canonical JSON mapping",
        ),
    ],
)
def test_rules_between_the_tables(tables: dict, line: str) -> None:
    home = Home("kit", MemoryFiles())
    writer = home.open_sweep(SWEEP, study=STUDY)
    with pytest.raises(BadRows, match=line):
        writer.commit(tables)
    assert home.manifest(SWEEP).parts == ()


def test_rows_of_a_trial_may_come_in_any_order(home: Home) -> None:
    writer = home.open_sweep(SWEEP, study=STUDY)
    columns = measurements(T[:3], rows=4)
    order = [7, 2, 11, 0, 5, 3, 9, 1, 8, 4, 10, 6]
    shuffled = {name: [values[i] for i in order] for name, values in columns.items()}
    writer.commit({"attempts": attempts(T[:3], rows=4), "measurements": shuffled})
    assert stored(home, SWEEP) == dict.fromkeys(T[:3], 4)


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_canonical_bytes_do_not_depend_on_the_way_there(data: st.DataObject) -> None:
    def fill(home: Home) -> bytes:
        left = data.draw(st.permutations(T[:8]))
        writer = home.open_sweep(SWEEP, study=STUDY)
        while left:
            size = data.draw(st.integers(1, len(left)))
            writer.commit(batch(left[:size], rows=3))
            left = left[size:]
            if data.draw(st.booleans()):
                writer.compact()
        writer.close()
        return home.canonical()

    one, two = Home("one", MemoryFiles()), Home("two", MemoryFiles())
    assert fill(one) == fill(two) == one.canonical(SWEEP)


def test_canonical_bytes_differ_when_a_value_does(home: Home) -> None:
    other = Home("other", MemoryFiles())
    home.open_sweep(SWEEP, study=STUDY).commit(batch(T[:2]))
    changed = batch(T[:2])
    changed["measurements"]["value"][3] += 1e-12
    other.open_sweep(SWEEP, study=STUDY).commit(changed)
    assert home.canonical() != other.canonical()


def test_compaction_leaves_one_sorted_file_per_table(tmp_path: Path) -> None:
    home = Home(tmp_path)
    writer = home.open_sweep(SWEEP, study=STUDY)
    for name in reversed(T[:6]):
        writer.commit({"trials": planned([name]), **batch([name])})
    before = home.canonical()
    generation = writer.compact()
    state = home.manifest(SWEEP)
    assert sorted(part.table for part in state.parts) == ["attempts", "measurements", "trials"]
    assert writer.compact() == generation, "nothing is left to merge"
    assert home.canonical() == before
    (part,) = state.of("measurements")
    keys = pq.read_table(tmp_path / "sweeps" / SWEEP / part.path, columns=["trial_id", "seq"])
    rows = [(row["trial_id"], row["seq"]) for row in keys.to_pylist()]
    assert rows == sorted(rows)
    writer.commit(batch(T[6:7]))
    assert len(stored(home, SWEEP)) == 7


def test_compaction_leaves_large_files_alone(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = home.open_sweep(SWEEP, study=STUDY)
    writer.commit(batch(T[:10], rows=300))
    (large,) = writer.state.of("measurements")
    monkeypatch.setattr(writer_module, "LARGE_BYTES", large.bytes)
    writer.commit(batch(T[10:11]))
    writer.commit(batch(T[11:12]))
    writer.compact()
    assert large in writer.state.of("measurements")
    assert len(writer.state.of("measurements")) == 2
    assert len(stored(home, SWEEP)) == 12


def test_collect_deletes_replaced_files_after_the_grace_period(tmp_path: Path) -> None:
    home = Home(tmp_path)
    parts = tmp_path / "sweeps" / SWEEP / "parts"
    writer = home.open_sweep(SWEEP, study=STUDY)
    for name in T[:3]:
        writer.commit(batch([name]))
    writer.compact()
    (parts / "attempts-00000009-left-by-a-crash.parquet").write_bytes(b"half")
    assert writer.collect() == 0
    assert len(list(parts.iterdir())) == 9
    assert writer.collect(grace_seconds=0) == 7
    assert {f"parts/{file.name}" for file in parts.iterdir()} == {
        part.path for part in home.manifest(SWEEP).parts
    }
    assert len(stored(home, SWEEP)) == 3


def test_a_reader_with_an_old_manifest_finds_the_new_files(home: Home) -> None:
    writer = home.open_sweep(SWEEP, study=STUDY)
    for name in T[:3]:
        writer.commit(batch([name]))
    old = home.manifest(SWEEP)
    answers = iter([old])
    current = home.manifest
    home.manifest = lambda sweep: next(answers, None) or current(sweep)  # type: ignore[method-assign]
    writer.compact()
    writer.collect(grace_seconds=0)
    assert stored(home, SWEEP) == dict.fromkeys(T[:3], 2)


def test_a_reader_never_fails_and_never_sees_less(tmp_path: Path) -> None:
    commits, errors = 60, []

    def write() -> None:
        try:
            with Home(tmp_path).open_sweep(SWEEP, study=STUDY) as writer:
                for number in range(commits):
                    writer.commit(batch([trial(number)]))
                    if number % 4 == 3:
                        writer.compact()
                        writer.collect(grace_seconds=0)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    home, seen, reads = Home(tmp_path), 0, 0
    while thread.is_alive():
        if home.sweeps():
            found = stored(home, SWEEP)
            assert found == {trial(number): 2 for number in range(len(found))}, "not a prefix"
            assert len(found) >= seen
            seen, reads = len(found), reads + 1
    thread.join()
    assert not errors
    assert reads > 5
    assert len(stored(Home(tmp_path), SWEEP)) == commits


def test_two_sweeps_write_to_one_home_at_once(tmp_path: Path) -> None:
    def write(sweep: str, first: int) -> None:
        with Home(tmp_path).open_sweep(sweep, study=STUDY) as writer:
            for number in range(first, first + 15):
                writer.commit(batch([trial(number)]))
            writer.compact()
            writer.collect(grace_seconds=0)

    threads = [threading.Thread(target=write, args=(f"s{n}.cpu", 100 * n)) for n in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    home = Home(tmp_path)
    assert home.sweeps() == ["s1.cpu", "s2.cpu"]
    for n in (1, 2):
        assert stored(home, f"s{n}.cpu") == {trial(100 * n + k): 2 for k in range(15)}
    assert home.done().num_rows == 30


def _marked(trials: list[str], mark: float, **changes: object) -> dict:
    tables = batch(trials, **changes)
    tables["measurements"]["value"] = [mark] * len(tables["measurements"]["value"])
    return tables


def test_one_sweep_wins_each_trial(home: Home) -> None:
    for sweep, content in {
        "c.cpu": _marked(T[0:3], 3.0),
        "a.cpu": _marked(T[2:4], 1.0, status="stopped"),
        "b.cpu": _marked(T[1:4], 2.0),
        "d.cpu": {"attempts": attempts(T[4:5], status="failed", rows=0)},
        "e.cpu": _marked(T[5:6], 5.0, status="stopped"),
    }.items():
        home.open_sweep(sweep, study=STUDY).commit(content)
    want = {T[0]: "c.cpu", T[1]: "b.cpu", T[2]: "b.cpu", T[3]: "b.cpu", T[5]: "e.cpu"}
    winners = home.done().to_pylist()
    assert {row["trial_id"]: row["sweep"] for row in winners} == want
    assert [row["status"] for row in winners] == ["done"] * 4 + ["stopped"]
    results = home.results()
    assert results["winners"].to_pylist() == winners
    assert results["attempts"].num_rows == 3 + 2 + 3 + 1 + 1
    mark = {"a.cpu": 1.0, "b.cpu": 2.0, "c.cpu": 3.0, "e.cpu": 5.0}
    rows = results["measurements"].to_pylist()
    assert len(rows) == 2 * len(want)
    for row in rows:
        assert row["value"] == mark[want[row["trial_id"]]]


def test_of_plans_the_last_epoch_counts(home: Home) -> None:
    for stages in (["train", "probe"], ["train"]):
        with home.open_sweep(SWEEP, study=STUDY) as writer:
            for stage in stages:
                writer.commit({"trials": planned(T[:2], stage=stage)})
    rows = home.results()["trials"].to_pylist()
    assert sorted((row["trial_id"], row["stage"], row["epoch"]) for row in rows) == [
        (T[0], "probe", 1),
        (T[0], "train", 2),
        (T[1], "probe", 1),
        (T[1], "train", 2),
    ]


def test_unknown_columns_are_named_with_the_nearest(home: Home) -> None:
    home.open_sweep(SWEEP, study=STUDY).commit(batch(T[:1]))
    assert home.read("measurements", columns=["value", "seq"]).column_names == ["value", "seq"]
    with pytest.raises(BadRows, match="no column 'valu'; did you mean value"):
        home.read("measurements", columns=["seq", "valu"])


def test_an_empty_home_reads_as_empty_tables(home: Home) -> None:
    assert home.sweeps() == []
    assert home.done().num_rows == 0
    assert {name: table.num_rows for name, table in home.results().items()} == {
        "trials": 0,
        "attempts": 0,
        "measurements": 0,
        "winners": 0,
    }
    assert home.canonical() == Home("other", MemoryFiles()).canonical()


def test_reading_writes_nothing(tmp_path: Path) -> None:
    home = Home(tmp_path / "none")
    assert home.sweeps() == []
    home.results()
    assert not home.path.exists()


def test_live_status(home: Home) -> None:
    writer = home.open_sweep(SWEEP, study=STUDY)
    assert home.live(SWEEP) is None
    writer.write_live({"done": 3, "best": float("nan")})
    assert home.live(SWEEP)["done"] == 3
    home._files.write(f"sweeps/{SWEEP}/live.json", b"")
    assert home.live(SWEEP) is None


def test_a_stop_request_reaches_the_open_epoch_only(home: Home) -> None:
    writer = home.open_sweep(SWEEP, study=STUDY)
    assert writer.stop_requested() is None
    assert home.request_stop(SWEEP, "Ctrl-C") is True
    assert writer.stop_requested() == home.stop_requested(SWEEP) == "Ctrl-C"
    writer.close()
    assert home.request_stop(SWEEP, "too late") is False
    writer = home.open_sweep(SWEEP, study=STUDY)
    assert writer.stop_requested() is None


def test_local_files_are_the_default(tmp_path: Path) -> None:
    assert isinstance(Home(str(tmp_path))._files, LocalFiles)
