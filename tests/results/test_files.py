"""The law of `Files`, kept by every implementation; and what a local disk can do to it."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest
from store_kit import PROCESSES, MemoryFiles

from sensweep.results import files as module
from sensweep.results.errors import StoreError
from sensweep.results.files import Files, LocalFiles

WRITERS, NAMES = 8, 20


@pytest.fixture(params=["local", "memory"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Files:
    return LocalFiles(tmp_path / "deep" / "home") if request.param == "local" else MemoryFiles()


def test_a_file_is_created_once(files: Files) -> None:
    files.create_exclusive("a/1.json", b"first")
    with pytest.raises(FileExistsError):
        files.create_exclusive("a/1.json", b"other")
    assert files.read("a/1.json") == b"first"


def test_creating_the_same_bytes_again_is_the_same_creation(files: Files) -> None:
    files.create_exclusive("a/1.json", b"mine")
    files.create_exclusive("a/1.json", b"mine")
    assert files.list("a") == ["1.json"]


@pytest.mark.parametrize("durable", [True, False])
def test_write_replaces_the_whole_file(files: Files, durable: bool) -> None:
    files.write("a/b/c", b"long content", durable=durable)
    files.write("a/b/c", b"short", durable=durable)
    assert files.read("a/b/c") == b"short"


def test_list_names_files_and_folders_in_order(files: Files) -> None:
    for path in ("s/b", "s/a/x", "s/c/y/z", "t/q"):
        files.write(path, b"")
    assert files.list("s") == ["a", "b", "c"]
    assert files.list("s/c") == ["y"]


def test_what_is_missing(files: Files) -> None:
    assert files.list("nowhere") == []
    assert files.version("nowhere") is None
    files.delete("nowhere")
    with pytest.raises(FileNotFoundError):
        files.read("nowhere")
    files.write("a", b"1")
    files.delete("a")
    with pytest.raises(FileNotFoundError):
        files.read("a")


def test_version_changes_with_a_content_of_equal_size(files: Files) -> None:
    files.write("a", b"one")
    before = files.version("a")
    assert files.version("a") == before
    files.write("a", b"two")
    assert files.version("a") != before


def _race(files: Files, writer: int, gate: threading.Barrier, wins: list[int]) -> None:
    gate.wait()
    for name in range(NAMES):
        try:
            files.create_exclusive(f"log/{name}", bytes([writer]) * 5000)
        except FileExistsError:
            continue
        wins.append(name)


def test_of_eight_threads_one_wins_each_name(files: Files) -> None:
    gate = threading.Barrier(WRITERS)
    wins: list[list[int]] = [[] for _ in range(WRITERS)]
    threads = [
        threading.Thread(target=_race, args=(files, writer, gate, wins[writer]))
        for writer in range(WRITERS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    _check_race(files, wins)


def _race_in_process(root: Path, writer: int, gate: threading.Barrier, answer: object) -> None:
    wins: list[int] = []
    _race(LocalFiles(root), writer, gate, wins)
    answer.put((writer, wins))


def test_of_eight_processes_one_wins_each_name(tmp_path: Path) -> None:
    gate, answers = PROCESSES.Barrier(WRITERS), PROCESSES.Queue()
    processes = [
        PROCESSES.Process(target=_race_in_process, args=(tmp_path, writer, gate, answers))
        for writer in range(WRITERS)
    ]
    for process in processes:
        process.start()
    wins = dict(answers.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
    _check_race(LocalFiles(tmp_path), [wins[writer] for writer in range(WRITERS)])
    assert not any((tmp_path / "staging").iterdir())


def _check_race(files: Files, wins: list[list[int]]) -> None:
    assert sorted(name for won in wins for name in won) == list(range(NAMES))
    for writer, won in enumerate(wins):
        for name in won:
            assert files.read(f"log/{name}") == bytes([writer]) * 5000


class Disk:
    """`os` as `LocalFiles` sees it, with one call replaced."""

    def __init__(self, **calls: object) -> None:
        self.__dict__.update(calls)

    def __getattr__(self, name: str) -> object:
        return getattr(os, name)


def test_a_link_whose_answer_got_lost_is_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(source: Path, target: Path) -> None:
        os.link(source, target)
        raise FileExistsError(errno.EEXIST, "NFS repeated the call")

    monkeypatch.setattr(module, "os", Disk(link=link))
    LocalFiles(tmp_path).create_exclusive("a", b"mine")
    assert (tmp_path / "a").read_bytes() == b"mine"


def test_a_file_system_without_hard_links_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(module, "os", Disk(link=link))
    with pytest.raises(StoreError, match=f"{tmp_path} has no hard links.*choose a home"):
        LocalFiles(tmp_path).create_exclusive("a", b"")
    assert not any((tmp_path / "staging").iterdir())


@pytest.mark.parametrize("create", [True, False])
def test_a_full_disk_leaves_the_old_content_and_no_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, create: bool
) -> None:
    files = LocalFiles(tmp_path)
    files.write("old", b"old")
    name = "new" if create else "old"

    def write(descriptor: int, data: memoryview) -> int:
        if len(data) < 1000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return os.write(descriptor, data[: len(data) // 2])

    with monkeypatch.context() as patch:
        patch.setattr(module, "os", Disk(write=write))
        with pytest.raises(OSError, match="No space"):
            (files.create_exclusive if create else files.write)(name, b"x" * 5000)
    assert files.list("") == ["old", "staging"]
    assert files.read("old") == b"old"
    assert files.list("staging") == []
    files.create_exclusive("new", b"x" * 5000)


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytes(range(256)) * 40
    monkeypatch.setattr(module, "os", Disk(write=lambda fd, rest: os.write(fd, rest[:999])))
    LocalFiles(tmp_path).write("a", data)
    assert (tmp_path / "a").read_bytes() == data


def test_a_file_that_another_host_deleted_while_it_was_read_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stale(path: Path) -> bytes:
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(Path, "read_bytes", stale)
    with pytest.raises(FileNotFoundError):
        LocalFiles(tmp_path).read("a")


def test_tidy_removes_what_crashes_left_and_nothing_in_use(tmp_path: Path) -> None:
    files = LocalFiles(tmp_path)
    files.write("kept", b"kept")
    old, new = tmp_path / "staging" / "old", tmp_path / "staging" / "new"
    old.write_bytes(b"half")
    new.write_bytes(b"half")
    os.utime(old, (1e9, 1e9))
    os.utime(tmp_path / "kept", (1e9, 1e9))
    files.tidy()
    assert files.list("staging") == ["new"]
    assert files.read("kept") == b"kept"
