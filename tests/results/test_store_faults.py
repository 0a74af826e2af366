"""Random histories of two drivers, readers, crashes and lost answers; and real kills.

Each history ends, at every step, with the same question: is what can be read exactly what was
acknowledged, each batch whole, each row once?
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from store_kit import (
    PROCESSES,
    STUDY,
    Crash,
    InterruptedFiles,
    MemoryFiles,
    attempts,
    batch,
    crash,
    fail,
    stored,
    trial,
)

from sensweep.results import lease as lease_module
from sensweep.results.errors import DuplicateRows, Fenced, StoreError, SweepBusy
from sensweep.results.files import LocalFiles
from sensweep.results.store import Home
from sensweep.results.writer import SweepWriter

SWEEP = "kit.cpu"
SLOTS = st.integers(0, 1)
VERBS = st.sampled_from(["open", "commit", "commit", "compact", "collect", "heartbeat", "close"])


class TwoDrivers(RuleBasedStateMachine):
    """Two drivers of one sweep, each of whom believes that the other is dead."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = MemoryFiles()
        self.files = [InterruptedFiles(self.memory) for _ in range(2)]
        self.writers: list[SweepWriter | None] = [None, None]
        self.acknowledged: set[str] = set()
        self.in_doubt: list[set[str]] = []
        self.trials = 0
        self.generation = 0
        self.patient = True

    @rule(slot=SLOTS, verb=VERBS)
    def act(self, slot: int, verb: str) -> None:
        self._act(slot, verb)

    @rule(slot=SLOTS, verb=VERBS, at=st.integers(1, 9), after=st.booleans())
    def die(self, slot: int, verb: str, at: int, after: bool) -> None:
        """The driver's process dies before or after a file operation."""
        with self.files[slot].interrupt(at, crash, after=after):
            try:
                self._act(slot, verb)
            except Crash:
                self.writers[slot] = None

    @rule(slot=SLOTS, verb=VERBS, at=st.integers(1, 9), after=st.booleans())
    def lose_an_answer(self, slot: int, verb: str, at: int, after: bool) -> None:
        """An operation fails, done or not; the driver lives on and tries again."""
        with self.files[slot].interrupt(at, fail, after=after):
            self._act(slot, verb)

    @rule(slot=SLOTS, verb=VERBS, at=st.integers(1, 9), after=st.booleans())
    def give_up(self, slot: int, verb: str, at: int, after: bool) -> None:
        """An operation fails, done or not; the driver turns to something else."""
        self.patient = False
        with self.files[slot].interrupt(at, fail, after=after), contextlib.suppress(OSError):
            self._act(slot, verb)
        self.patient = True

    @rule(slot=SLOTS, verb=VERBS, other=VERBS, at=st.integers(1, 9), after=st.booleans())
    def interleave(self, slot: int, verb: str, other: str, at: int, after: bool) -> None:
        """The other driver acts in the middle of this one's action: this one was frozen."""
        with self.files[slot].interrupt(at, lambda: self._act(1 - slot, other), after=after):
            self._act(slot, verb)

    @precondition(lambda self: self.acknowledged)
    @rule(slot=SLOTS, data=st.data())
    def repeat_a_trial(self, slot: int, data: st.DataObject) -> None:
        writer = self.writers[slot]
        if writer is not None:
            again = data.draw(st.sampled_from(sorted(self.acknowledged)))
            with pytest.raises(StoreError):
                writer.commit(batch([again], number=2))

    @invariant()
    def what_is_read_is_what_was_acknowledged(self) -> None:
        home = Home("kit", self.memory)
        if not home.sweeps():
            assert not self.acknowledged
            return
        found = stored(home, SWEEP)
        assert set(found.values()) <= {2}
        for trials in self.in_doubt:
            assert trials <= found.keys() or not trials & found.keys(), "half a batch"
            self.acknowledged |= trials & found.keys()
        self.in_doubt.clear()
        assert found.keys() == self.acknowledged
        finals = home.read("attempts", columns=["trial_id"])["trial_id"].to_pylist()
        assert sorted(finals) == sorted(found)
        state = home.manifest(SWEEP)
        assert state.generation >= self.generation
        self.generation = state.generation

    def _act(self, slot: int, verb: str) -> None:
        writer = self.writers[slot]
        try:
            if verb == "open":
                home = Home("kit", self.files[slot])
                self.writers[slot] = self._insist(
                    lambda: home.open_sweep(SWEEP, study=STUDY, lease_seconds=0.01)
                )
            elif writer is None:
                return
            elif verb == "commit":
                self._commit(writer)
            elif verb == "collect":
                self._insist(lambda: writer.collect(grace_seconds=0))
            else:
                self._insist(getattr(writer, verb))
                if verb == "close":
                    self.writers[slot] = None
        except SweepBusy:
            self.writers[slot] = None
        except Fenced:
            epoch = writer.epoch if writer else 1  # a newcomer can be fenced by the next one
            assert Home("kit", self.memory).manifest(SWEEP).epoch > epoch
            self.writers[slot] = None

    def _commit(self, writer: SweepWriter) -> None:
        trials = [trial(self.trials + n) for n in range(1 + self.trials % 3)]
        self.trials += len(trials)
        self.in_doubt.append(set(trials))
        self._insist(lambda: writer.commit(batch(trials)))
        self.acknowledged |= set(trials)

    def _insist(self, call: Callable[[], object]) -> object:
        """Repeat what failed with an OSError, as a driver would."""
        try:
            return call()
        except OSError:
            if not self.patient:
                raise
            return call()


@pytest.fixture(autouse=True)
def _everyone_looks_dead(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "history" in request.node.name:
        monkeypatch.setattr(lease_module, "known_alive", lambda owner: False)


def _run(examples: int, steps: int) -> None:
    run_state_machine_as_test(
        TwoDrivers,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_random_history_of_two_drivers() -> None:
    _run(examples=60, steps=12)


@pytest.mark.slow
def test_many_random_history_of_two_drivers() -> None:
    _run(examples=1000, steps=30)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("event", [crash, fail])
def test_history_with_a_fault_at_every_operation(event: Callable[[], None], after: bool) -> None:
    """One fixed history (open, commits, compaction, close), cut at each of its operations."""
    at = 0
    while True:
        at += 1
        memory = MemoryFiles()
        files = InterruptedFiles(memory)
        acknowledged: set[str] = set()
        tried: list[set[str]] = []

        def live(
            files: InterruptedFiles = files,
            acknowledged: set[str] = acknowledged,
            tried: list[set[str]] = tried,
        ) -> None:
            with Home("kit", files).open_sweep(SWEEP, study=STUDY) as writer:
                for number in range(0, 6, 2):
                    trials = {trial(number), trial(number + 1)}
                    tried.append(trials)
                    writer.commit(batch(sorted(trials)))
                    acknowledged |= trials
                writer.compact()
                writer.collect(grace_seconds=0)

        try:
            with files.interrupt(at, event, after=after):
                live()
            assert at > 20, "the history had ended before"
            break
        except (Crash, OSError):
            pass
        home = Home("kit", memory)
        with home.open_sweep(SWEEP, study=STUDY) as writer:
            found = stored(home, SWEEP).keys()
            assert found >= acknowledged
            for trials in tried:
                assert trials <= found or not trials & found
            for trials in tried:
                if not trials & found:
                    writer.commit(batch(sorted(trials)))
        assert stored(home, SWEEP).keys() == set().union(*tried)


@pytest.mark.parametrize("larger", [False, True])
def test_another_batch_after_a_lost_answer_is_neither_lost_nor_doubled(larger: bool) -> None:
    memory = MemoryFiles()
    files = InterruptedFiles(memory)
    writer = Home("kit", files).open_sweep(SWEEP, study=STUDY)
    for at in range(1, 7):
        first, second = trial(10 * at), trial(10 * at + 1)
        with files.interrupt(at, fail, after=True), contextlib.suppress(OSError):
            writer.commit(batch([first]))
        with contextlib.suppress(DuplicateRows):
            writer.commit(batch([first, second] if larger else [second]))
        for name in (first, second):
            with contextlib.suppress(DuplicateRows):
                writer.commit(batch([name]))
        assert stored(Home("kit", memory), SWEEP).keys() >= {first, second}
    assert len(stored(Home("kit", memory), SWEEP)) == 12
    writer.close()


def _commit_until_killed(root: Path, acknowledge: object) -> None:
    home = Home(root)
    with home.open_sweep(SWEEP, study=STUDY, lease_seconds=60) as writer:
        writer.commit({"attempts": attempts([trial(writer.epoch)], status="lost", rows=0)})
        for number in range(1000 * writer.epoch, 10**9, 2):
            trials = [trial(number), trial(number + 1)]
            writer.commit(batch(trials, rows=3))
            acknowledge.send(trials)
            if number % 16 == 0:
                writer.compact()
                writer.collect(grace_seconds=0)


def test_ten_kills_lose_and_double_nothing(tmp_path: Path) -> None:
    chance = random.Random(0)
    acknowledged: list[str] = []
    for epoch in range(1, 11):
        receive, send = PROCESSES.Pipe(duplex=False)
        child = PROCESSES.Process(target=_commit_until_killed, args=(tmp_path, send))
        child.start()
        send.close()
        acknowledged += receive.recv()
        time.sleep(chance.uniform(0, 0.15))
        child.kill()
        child.join()
        try:
            while True:
                acknowledged += receive.recv()
        except EOFError:
            pass
        home = Home(tmp_path)
        found = stored(home, SWEEP)
        assert set(found.values()) == {3}
        assert found.keys() >= set(acknowledged)
        assert len(found) - len(set(acknowledged)) <= 2 * epoch, "at most one batch per kill"
        assert home.manifest(SWEEP).epoch == epoch
    assert len(acknowledged) == len(set(acknowledged)) >= 20
    names = os.listdir(tmp_path / "sweeps" / SWEEP / "manifest")
    assert sorted(names) == [f"{n:08d}.json" for n in range(1, len(names) + 1)]


def test_a_full_disk_stops_the_commit_and_not_the_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path)
    writer = home.open_sweep(SWEEP, study=STUDY)
    writer.commit(batch([trial(1)]))

    def full(self: LocalFiles, data: bytes, *, durable: bool) -> Path:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(LocalFiles, "_write_aside", full)
        for _ in range(3):
            with pytest.raises(OSError, match="No space"):
                writer.commit(batch([trial(2)]))
    assert stored(home, SWEEP).keys() == {trial(1)}
    writer.commit(batch([trial(2), trial(3)]))
    assert stored(home, SWEEP).keys() == {trial(n) for n in (1, 2, 3)}
