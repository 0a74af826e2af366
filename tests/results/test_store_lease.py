"""Who may take a sweep over, how soon, and what becomes of the driver that was thought dead."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from store_kit import PROCESSES, STUDY, MemoryFiles, batch, stored, trial

from sensweep.results import lease as lease_module
from sensweep.results.errors import Fenced, StoreError, SweepBusy
from sensweep.results.lease import known_alive, this_process
from sensweep.results.store import Home
from sensweep.results.writer import SweepWriter

SWEEP = "kit.cpu"
T = [trial(number) for number in range(20)]


@contextlib.contextmanager
def beating(writer: SweepWriter) -> Iterator[None]:
    """Let a writer's heart beat, as its driver would."""
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(writer.heartbeat_interval / 2):
            writer.heartbeat()

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_a_live_driver_is_left_alone_and_named(tmp_path: Path) -> None:
    home = Home(tmp_path)
    writer = home.open_sweep(SWEEP, study=STUDY, owner="ana", lease_seconds=2)
    with beating(writer):
        begin = time.monotonic()
        with pytest.raises(SweepBusy) as caught:
            Home(tmp_path).open_sweep(SWEEP, study=STUDY, owner="ben", lease_seconds=2)
        assert time.monotonic() - begin < 1.5, "a change of the counter must be enough"
    line = str(caught.value)
    since = home.manifest(SWEEP).epochs[0].owner.since
    host = os.uname().nodename
    for word in (
        SWEEP,
        "ana",
        host,
        f"pid {os.getpid()}",
        since,
        f"`sensweep stop {SWEEP} --home {tmp_path}`",
    ):
        assert word in line
    assert "\n" not in line
    writer.commit(batch(T[:1]))
    assert home.manifest(SWEEP).epoch == 1


def test_a_closed_sweep_is_free_at_once(tmp_path: Path) -> None:
    Home(tmp_path).open_sweep(SWEEP, study=STUDY, lease_seconds=60).close()
    begin = time.monotonic()
    Home(tmp_path).open_sweep(SWEEP, study=STUDY, lease_seconds=60)
    assert time.monotonic() - begin < 5


def _commit_and_wait(root: Path, answer: object) -> None:
    writer = Home(root).open_sweep(SWEEP, study=STUDY, lease_seconds=60)
    writer.commit(batch(T[:1]))
    answer.put(writer.epoch)
    time.sleep(600)


def test_a_dead_pid_is_no_reason_to_wait(tmp_path: Path) -> None:
    answer = PROCESSES.Queue()
    child = PROCESSES.Process(target=_commit_and_wait, args=(tmp_path, answer))
    child.start()
    assert answer.get(timeout=60) == 1
    assert Home(tmp_path).alive(SWEEP) is True
    child.kill()
    child.join()
    assert Home(tmp_path).alive(SWEEP) is False
    begin = time.monotonic()
    with Home(tmp_path).open_sweep(SWEEP, study=STUDY, lease_seconds=60) as writer:
        assert time.monotonic() - begin < 5
        writer.commit(batch(T[1:2]))
    assert stored(Home(tmp_path), SWEEP) == dict.fromkeys(T[:2], 2)
    assert Home(tmp_path).alive(SWEEP) is False


def test_what_a_pid_tells() -> None:
    me = this_process("", 15.0)
    assert known_alive(me) is True
    assert known_alive(replace(me, started="1")) is False, "the pid was given to another process"
    assert known_alive(replace(me, pid=2**22 + 1)) is False
    assert known_alive(replace(me, host="elsewhere")) is None
    assert known_alive(replace(me, machine="another boot")) is None
    assert known_alive(replace(me, machine="", started="")) is None
    assert me.name


def test_a_zombie_is_dead() -> None:
    child = subprocess.Popen(["sleep", "600"])
    start = lease_module._start_of(child.pid)
    assert start is not None
    owner = replace(this_process("", 15.0), pid=child.pid, started=start)
    assert known_alive(owner) is True
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, and nobody has reaped it
    assert Path(f"/proc/{child.pid}").exists()
    assert known_alive(owner) is False
    child.wait()


def test_a_silent_driver_of_another_machine_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = Home(tmp_path).open_sweep(SWEEP, study=STUDY, lease_seconds=0.5)
    old.heartbeat()
    monkeypatch.setattr(lease_module, "_machine", lambda: "another machine")
    assert Home(tmp_path).alive(SWEEP) is None
    begin = time.monotonic()
    new = Home(tmp_path).open_sweep(SWEEP, study=STUDY, lease_seconds=0.5)
    assert 0.5 <= time.monotonic() - begin < 5
    assert new.epoch == 2
    with pytest.raises(Fenced):
        old.heartbeat()


def test_a_hasty_newcomer_still_waits_for_three_beats_of_the_holder(tmp_path: Path) -> None:
    Home(tmp_path).open_sweep(SWEEP, study=STUDY, lease_seconds=2.0)
    begin = time.monotonic()
    Home(tmp_path).open_sweep(SWEEP, study=STUDY, lease_seconds=0.05)
    assert time.monotonic() - begin >= 3 * 2.0 / 5


def test_an_old_drivers_late_beat_is_not_taken_for_the_new_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path)
    old = home.open_sweep(SWEEP, study=STUDY, lease_seconds=0.2)
    home.open_sweep(SWEEP, study=STUDY, lease_seconds=0.2)
    # The old driver looked at the lease before the takeover, and writes it after.
    timer = threading.Timer(0.1, old._lease.beat, (1, old._owner, 99))
    timer.start()
    assert home.open_sweep(SWEEP, study=STUDY, lease_seconds=0.2).epoch == 3
    timer.join()


def _frozen_driver(root: Path, answer: object, go: object) -> None:
    writer = Home(root).open_sweep(SWEEP, study=STUDY, lease_seconds=0.3)
    writer.commit(batch(T[:1]))
    answer.put("ready")
    go.wait()
    for call in (lambda: writer.commit(batch(T[1:2])), writer.heartbeat, writer.close):
        try:
            call()
            answer.put("wrote")
        except Fenced as error:
            answer.put(str(error))


def test_a_frozen_driver_is_fenced_when_it_thaws(tmp_path: Path) -> None:
    answer, go = PROCESSES.Queue(), PROCESSES.Event()
    child = PROCESSES.Process(target=_frozen_driver, args=(tmp_path, answer, go))
    child.start()
    assert answer.get(timeout=60) == "ready"
    os.kill(child.pid, signal.SIGSTOP)
    try:
        writer = Home(tmp_path).open_sweep(SWEEP, study=STUDY, owner="ben", lease_seconds=0.3)
        writer.commit(batch(T[2:3]))
    finally:
        os.kill(child.pid, signal.SIGCONT)
    go.set()
    for _ in range(3):
        line = answer.get(timeout=60)
        assert f"sweep {SWEEP} was taken over by ben" in line
        assert "(epoch 1, now 2)" in line
    child.join()
    writer.commit(batch(T[3:4]))
    assert stored(Home(tmp_path), SWEEP) == {T[0]: 2, T[2]: 2, T[3]: 2}


def test_a_fenced_writer_deletes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "known_alive", lambda owner: False)
    files = MemoryFiles()
    old = Home("kit", files).open_sweep(SWEEP, study=STUDY)
    new = Home("kit", files).open_sweep(SWEEP, study=STUDY)
    new.commit(batch(T[:1]))
    with pytest.raises(Fenced):
        old.collect(grace_seconds=0)
    assert stored(Home("kit", files), SWEEP) == {T[0]: 2}


def test_a_fenced_writer_whose_files_were_collected_is_told_that_it_is_fenced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lease_module, "known_alive", lambda owner: False)
    files = MemoryFiles()
    old = Home("kit", files).open_sweep(SWEEP, study=STUDY)
    for name in T[:2]:
        old.commit(batch([name]))
    new = Home("kit", files).open_sweep(SWEEP, study=STUDY)
    new.compact()
    new.collect(grace_seconds=0)
    with pytest.raises(Fenced):
        old.compact()


@pytest.mark.parametrize("lives", [False, True])
@pytest.mark.parametrize("moment", ["read", "create_exclusive"])
def test_what_slips_in_while_a_newcomer_claims_decides(
    monkeypatch: pytest.MonkeyPatch, moment: str, lives: bool
) -> None:
    """A holder that was thought dead compacts: it lives. If it closes, the sweep is free."""
    monkeypatch.setattr(lease_module, "known_alive", lambda owner: False)
    files = MemoryFiles()
    old = Home("kit", files).open_sweep(SWEEP, study=STUDY)
    for name in T[:2]:
        old.commit(batch([name]))
    operation = getattr(files, moment)

    def at_the_last_moment(path: str, *data: bytes) -> object:
        if moment == "create_exclusive" or "parts/attempts" in path:
            monkeypatch.setattr(files, moment, operation)
            old.compact()
            old.collect(grace_seconds=0)
            if not lives:
                old.close()
        return operation(path, *data)

    monkeypatch.setattr(files, moment, at_the_last_moment)
    if lives:
        with pytest.raises(SweepBusy):
            Home("kit", files).open_sweep(SWEEP, study=STUDY)
        old.commit(batch(T[2:3]))
    else:
        with Home("kit", files).open_sweep(SWEEP, study=STUDY) as new:
            new.commit(batch(T[2:3]))
    assert stored(Home("kit", files), SWEEP) == dict.fromkeys(T[:3], 2)


def test_leaving_the_block_of_a_fenced_writer_raises_its_error_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lease_module, "known_alive", lambda owner: False)
    home = Home("kit", MemoryFiles())

    def drive() -> None:
        with home.open_sweep(SWEEP, study=STUDY) as old:
            home.open_sweep(SWEEP, study=STUDY)
            old.commit(batch(T[:1]))

    with pytest.raises(Fenced) as caught:
        drive()
    assert isinstance(caught.value.__context__, FileExistsError), "closing raised once more"


def test_of_many_newcomers_one_takes_over(tmp_path: Path) -> None:
    opened, busy = [], []
    gate = threading.Barrier(6)

    def newcomer() -> None:
        gate.wait()
        try:
            opened.append(Home(tmp_path).open_sweep(SWEEP, study=STUDY, lease_seconds=1.0))
        except SweepBusy as error:
            busy.append(error)
            return
        with beating(opened[-1]):
            time.sleep(1.5)

    threads = [threading.Thread(target=newcomer) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(opened), len(busy)) == (1, 5)
    assert Home(tmp_path).manifest(SWEEP).generation == 1


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan")])
def test_a_lease_has_a_length(seconds: float) -> None:
    with pytest.raises(StoreError, match=r"lease_seconds is .*, and must be above 0"):
        Home("kit", MemoryFiles()).open_sweep(SWEEP, study=STUDY, lease_seconds=seconds)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"epoch":"x"}', None])
def test_an_unreadable_lease_only_means_to_watch(content: bytes | None) -> None:
    files = MemoryFiles()
    Home("kit", files).open_sweep(SWEEP, study=STUDY, lease_seconds=0.1)
    path = f"sweeps/{SWEEP}/lease.json"
    if content is None:
        files.delete(path)
    else:
        files.content[path] = content
    assert Home("kit", files).open_sweep(SWEEP, study=STUDY, lease_seconds=0.1).epoch == 2
