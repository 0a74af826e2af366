"""What the store's tests share: rows to commit, files in memory, and files that fail on purpose."""

from __future__ import annotations

import contextlib
import multiprocessing
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime

from sensweep.results.files import Files
from sensweep.results.schema import canonical_json
from sensweep.results.store import Home

# Children are forked from a server that has the imports done already: real processes, cheaply.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["sensweep.results.store", "pandas", "store_kit"])

STUDY = {"study": "kit", "seeds": 2}


def trial(number: int) -> str:
    return f"{number:024x}"


def attempts(
    trials: Iterable[str], *, number: int = 1, status: str = "done", rows: int = 2
) -> dict:
    trials = list(trials)
    constant = {
        "attempt": number,
        "status": status,
        "error": None if status == "done" else "ValueError: no",
        "traceback": None,
        "log": "logs/kit/a.log",
        "host": "h",
        "worker": "w",
        "started": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "queued_s": 0.5,
        "seconds": 1.5,
        "cpu_seconds": 1.25,
        "peak_rss_bytes": 10**6,
        "resources": '{"cpus":1}',
        "artifacts": "[]",
        "rows": rows,
    }
    return {"trial_id": trials, **{name: [value] * len(trials) for name, value in constant.items()}}


def measurements(trials: Iterable[str], *, rows: int = 2) -> dict:
    """Rows whose values follow from trial and seq, so that any mix-up shows."""
    keys = [(name, seq) for name in trials for seq in range(rows)]
    return {
        "trial_id": [name for name, _ in keys],
        "seq": [seq for _, seq in keys],
        "name": ["accuracy"] * len(keys),
        "value": [value_of(name, seq) for name, seq in keys],
        "step": [None if seq % 2 else seq for _, seq in keys],
        "unit": ["1"] * len(keys),
        "coordinates": [canonical_json({"sigma": 0.1 * seq}) for _, seq in keys],
    }


def value_of(name: str, seq: int) -> float:
    return int(name, 16) + seq / 100


def batch(trials: Iterable[str], *, rows: int = 2, status: str = "done", number: int = 1) -> dict:
    trials = list(trials)
    return {
        "attempts": attempts(trials, rows=rows, status=status, number=number),
        "measurements": measurements(trials, rows=rows),
    }


def planned(trials: Iterable[str], *, stage: str = "train") -> dict:
    trials = list(trials)
    columns = {
        "stage": stage,
        "task": "sensweep.tasks.toy:toy",
        "point": "{}",
        "params": "{}",
        "seed": 0,
        "parents": "[]",
        "code": "c",
        "code_files": "{}",
        "data": "{}",
        "cell": "0" * 16,
    }
    return {"trial_id": trials, **{name: [value] * len(trials) for name, value in columns.items()}}


def stored(home: Home, sweep: str) -> dict[str, int]:
    """Return how many measurements each trial has, having checked each one's value."""
    counts: dict[str, int] = {}
    rows = home.read("measurements", [sweep], ["trial_id", "seq", "value"]).to_pylist()
    for row in rows:
        assert row["value"] == value_of(row["trial_id"], row["seq"])
        counts[row["trial_id"]] = counts.get(row["trial_id"], 0) + 1
    assert len({(row["trial_id"], row["seq"]) for row in rows}) == len(rows), "rows are doubled"
    return counts


class MemoryFiles:
    """The Files law, kept in a dict."""

    def __init__(self, content: dict[str, bytes] | None = None) -> None:
        self.content = dict(content or {})
        self._versions: dict[str, int] = {}
        self._lock = threading.Lock()

    def create_exclusive(self, path: str, data: bytes) -> None:
        with self._lock:
            if self.content.get(path, data) != data:
                raise FileExistsError(path)
            self.content[path] = data

    def write(self, path: str, data: bytes, *, durable: bool = True) -> None:
        with self._lock:
            self.content[path] = data
            self._versions[path] = self._versions.get(path, 0) + 1

    def read(self, path: str) -> bytes:
        try:
            return self.content[path]
        except KeyError:
            raise FileNotFoundError(path) from None

    def list(self, folder: str) -> list[str]:
        start = f"{folder}/"
        with self._lock:
            paths = [path for path in self.content if path.startswith(start)]
        return sorted({path.removeprefix(start).split("/")[0] for path in paths})

    def delete(self, path: str) -> None:
        with self._lock:
            self.content.pop(path, None)

    def version(self, path: str) -> str | None:
        return str(self._versions.get(path, 0)) if path in self.content else None

    def locate(self, path: str) -> str:
        return f"memory:/{path}"

    def tidy(self) -> None:
        pass


class Crash(BaseException):
    """The process dies here. Not an Exception: no handler may see it."""


class InterruptedFiles:
    """Passes operations on, but something happens at the one that is number `at` from now."""

    def __init__(self, inner: Files) -> None:
        self._inner = inner
        self._countdown = 0
        self._event: Callable[[], None] | None = None
        self._after = False

    @contextlib.contextmanager
    def interrupt(self, at: int, event: Callable[[], None], *, after: bool) -> Iterator[None]:
        """Within the block, call `event` before or after the operation number `at` (from 1)."""
        self._countdown, self._event, self._after = at, event, after
        try:
            yield
        finally:
            self._countdown = 0

    def __getattr__(self, name: str) -> Callable[..., object]:
        operation = getattr(self._inner, name)
        if name == "locate":
            return operation

        def interrupted(*args: object, **keywords: object) -> object:
            self._countdown -= 1
            due = self._countdown == 0
            if due and not self._after:
                self._event()
            try:
                return operation(*args, **keywords)
            finally:
                if due and self._after:
                    self._event()

        return interrupted


def crash() -> None:
    raise Crash


def fail() -> None:
    raise OSError(5, "the answer got lost")
