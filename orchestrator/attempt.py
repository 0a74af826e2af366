"""One execution of a trial, in this process: load the task, collect its rows, keep its checkpoints.

Nothing here knows Ray, so that it can be tested, and debugged by a researcher, in a plain process.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import resource
import shutil
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sensweep.orchestrator.isolation import Snapshot, forget_modules, seed_everything
from sensweep.orchestrator.needs import Select, choose
from sensweep.tasks.api import Checkpoint, Context, Measurement, measure
from sensweep.tasks.device import choose_device

# A resumable state is written at most this often, in seconds, unless something selects the step.
RESUME_EVERY = 20.0


@dataclass(frozen=True, slots=True)
class Assignment:
    """All that a worker needs to execute one attempt; it travels to the worker in one call.

    Attributes:
        key: (trial_id, attempt, driver epoch), the fence that every answer carries.
        parents: per needed stage, the checkpoints that its selection found (see `Selected`).
        keep: the selections by which later stages will ask for this trial's checkpoints.
        watch: names of measurements that are sent on while the attempt runs.
    """

    key: tuple[str, int, int]
    task: str
    params: Mapping[str, object]
    seed: int
    sweep: str
    home: str
    log: str
    roots: tuple[str, ...] = ()
    parents: tuple[Selected, ...] = ()
    keep: tuple[str, ...] = ()
    threads: int = 1
    gpus: float = 0.0
    watch: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Selected:
    """The checkpoints of one needed stage: one for `final` and `first`, several for `every`."""

    stage: str
    select: str
    checkpoints: tuple[Mapping[str, object], ...]


@dataclass(slots=True)
class Outcome:
    """What came of an attempt. `rows` holds the columns of the measurements table, `seq` excepted.

    `changed` says what the attempt left different in its process (the worker is then replaced).
    """

    key: tuple[str, int, int]
    status: Literal["done", "stopped", "failed"]
    rows: list[tuple[str, float, int | None, str, str]] = field(default_factory=list)
    artifacts: list[dict[str, Any]] = field(default_factory=list)
    error: str | None = None
    trace: str | None = None
    changed: str | None = None
    host: str = ""
    started: float = 0.0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_rss_bytes: int = 0


class Stopped(BaseException):
    """Raised between two measurements when the attempt was asked to stop."""


class _AttemptContext(Context):
    """The context of a real attempt: its checkpoints land in the home and are recorded."""

    def __init__(self, shelf: Shelf, **fields: object) -> None:
        self._shelf = shelf
        super().__init__(**fields)  # type: ignore[arg-type]

    def checkpoint(self, step: int, save: Callable[[Path], None], **metrics: float) -> None:
        self._shelf.offer(step, save, metrics)

    @property  # type: ignore[override]
    def resume_from(self) -> Checkpoint | None:
        """The state to resume from. Looking at it takes the rows so far over.

        A task that never looks starts anew, and its rows with it.
        """
        return self._shelf.resume()

    @resume_from.setter
    def resume_from(self, value: Checkpoint | None) -> None:
        """Ignore the default that the dataclass sets."""


class Shelf:
    """The checkpoints of one attempt: those that a later stage selects, and the last two to resume.

    A checkpoint is a file and a record beside it (JSON: step, metrics, sha256, the rows so far);
    the record is written last, so a checkpoint without one does not exist.
    """

    def __init__(self, home: Path, assignment: Assignment) -> None:
        trial_id, attempt, epoch = assignment.key
        self._home = home
        self._sweep = assignment.sweep
        self._all = home / "checkpoints" / trial_id
        self.folder = self._all / f"{assignment.sweep}.{epoch}.{attempt}"
        self._selects = [Select.parse(text) for text in assignment.keep]
        self._unmet = [s for s in self._selects if s.kind == "first"]
        self._written: dict[int, dict[str, Any]] = {}
        self._selected: set[int] = set()
        self._last: tuple[int, Callable[[Path], None], dict[str, float]] | None = None
        self._saved_at = time.monotonic()
        self._resumed: Checkpoint | None = None
        self.resumable = True
        self.rows: list[tuple[str, float, int | None, str, str]] = []

    def resume(self) -> Checkpoint | None:
        """Take up the furthest state that an earlier attempt left whole; its rows come along.

        None for a task that runs once per checkpoint of its parents, or has rows of its own.
        """
        if self._resumed is not None or self.rows or not self.resumable:
            return self._resumed
        records = []
        for path in self._all.glob("*/step-*.json"):
            try:
                records.append((json.loads(path.read_text()), path))
            except (OSError, ValueError):
                continue
        for record, path in sorted(records, key=lambda r: -int(r[0]["step"])):
            file = path.with_suffix(".pt")
            if file.exists() and _sha256(file) == record["sha256"]:
                self.rows[:] = [tuple(row) for row in record["rows"]]
                self._take_over(path.parent)
                self._resumed = Checkpoint(
                    "", record["step"], self.folder / file.name, record["metrics"]
                )
                return self._resumed
        return None

    def _take_over(self, folder: Path) -> None:
        """Copy what an earlier attempt saved: that attempt may yet be alive and clean up."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(folder.glob("step-*.json")):
            record = json.loads(path.read_text())
            file = path.with_suffix(".pt")
            if not file.exists() or _sha256(file) != record["sha256"]:
                continue
            shutil.copyfile(file, self.folder / file.name)
            self._write_record(record)
            if self._is_selected(record["step"], record["metrics"]):
                self._selected.add(record["step"])

    def offer(self, step: int, save: Callable[[Path], None], metrics: dict[str, float]) -> None:
        """Write the state if a later stage selects it, or if the last saved one has grown old."""
        self._last = (step, save, metrics)
        selected = self._is_selected(step, metrics)
        if selected:
            self._selected.add(step)
        if selected or time.monotonic() - self._saved_at > RESUME_EVERY:
            self._write(step, save, metrics)
            for old in sorted(set(self._written) - self._selected)[:-2]:
                self._drop(old)

    def finish(self) -> list[dict[str, Any]]:
        """Write the final state, drop what only a resumption would have needed, list the rest."""
        if self._last is not None:
            step, save, metrics = self._last
            if step not in self._written:
                self._write(step, save, metrics)
            self._selected.add(step)
        elif self._written:  # resumed behind the last step
            self._selected.add(max(self._written))
        for step in set(self._written) - self._selected:
            self._drop(step)
        for folder in self._all.glob(f"{self._sweep}.*"):
            if folder != self.folder:
                shutil.rmtree(folder, ignore_errors=True)
        return self._artifacts()

    def _artifacts(self) -> list[dict[str, Any]]:
        """List what was kept; `selects` says for which selections it will be asked for.

        The last one also names those that nothing reached: that they were looked for is known.
        """
        kept = [self._written[step] for step in sorted(self._written)]
        selects: dict[int, list[str]] = {step: [] for step in self._written}
        for text in map(str, self._selects):
            for record in choose(kept, text) or kept[-1:]:
                selects[record["step"]].append(text)
        return [
            {"kind": "checkpoint", "selects": selects[record["step"]]}
            | {key: value for key, value in record.items() if key != "rows"}
            for record in kept
        ]

    def _is_selected(self, step: int, metrics: Mapping[str, float]) -> bool:
        reached = [s for s in self._unmet if s.holds(step, metrics)]
        self._unmet = [s for s in self._unmet if s not in reached]
        return bool(reached) or any(
            s.kind == "every" and s.holds(step, metrics) for s in self._selects
        )

    def _write(self, step: int, save: Callable[[Path], None], metrics: dict[str, float]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step-{step:06d}.pt"
        aside = path.with_suffix(".aside")
        save(aside)
        os.replace(aside, path)
        self._write_record(
            {
                "step": step,
                "path": str(path.relative_to(self._home)),
                "sha256": _sha256(path),
                "bytes": path.stat().st_size,
                "metrics": metrics,
                "rows": self.rows,
            }
        )
        self._saved_at = time.monotonic()

    def _write_record(self, record: dict[str, Any]) -> None:
        name = f"step-{record['step']:06d}.json"
        record = record | {
            "path": str((self.folder / name).with_suffix(".pt").relative_to(self._home))
        }
        aside = self.folder / f"{name}.aside"
        aside.write_text(json.dumps(record))
        os.replace(aside, self.folder / name)
        self._written[record["step"]] = record

    def _drop(self, step: int) -> None:
        for suffix in (".json", ".pt"):
            (self.folder / f"step-{step:06d}").with_suffix(suffix).unlink(missing_ok=True)
        del self._written[step]


def execute(
    assignment: Assignment,
    cache: MutableMapping[str, object],
    observe: Callable[[Measurement], bool] = lambda _: False,
    snapshot: Snapshot | None = None,
) -> Outcome:
    """Execute one attempt to its end and say what came of it; never raises.

    `observe` sees every measurement as it is made, and answers whether to stop. `snapshot` is that
    of the process's last attempt, which often still holds.
    """
    outcome = Outcome(assignment.key, "failed", host=socket.gethostname(), started=time.time())
    clock, cpu = time.perf_counter(), time.process_time()
    home = Path(assignment.home)
    snapshot = snapshot or Snapshot()
    with _log_to(home / assignment.log):
        try:
            task = load_task(assignment.task, assignment.roots)
            snapshot.take()
            seed_everything(assignment.seed)
            shelf = Shelf(home, assignment)
            _run(task, assignment, shelf, cache, observe)
            outcome.artifacts = shelf.finish()
            outcome.rows, outcome.status = shelf.rows, "done"
        except Stopped:
            outcome.rows, outcome.status = shelf.rows, "stopped"
        except BaseException as error:  # a task may raise anything, SystemExit included
            _describe(error, outcome)
            print(outcome.trace, file=sys.stderr)
        # Before the files of this attempt close: a task that closed them is found out here.
        outcome.changed = snapshot.difference()
        if outcome.changed:
            print(f"this worker will be replaced: {outcome.changed}", file=sys.stderr)
    outcome.seconds = time.perf_counter() - clock
    outcome.cpu_seconds = time.process_time() - cpu
    outcome.peak_rss_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return outcome


def _run(
    task: Callable[..., Iterator[Measurement]],
    assignment: Assignment,
    shelf: Shelf,
    cache: MutableMapping[str, object],
    observe: Callable[[Measurement], bool],
) -> None:
    """Run the task once for each selected checkpoint of its parents, or once if it has none."""
    base = {
        "seed": assignment.seed,
        "device": choose_device(assignment.gpus),
        "threads": assignment.threads,
        "cache": cache,
        "folder": shelf.folder,
    }
    selections = list(_selections(assignment, shelf))
    shelf.resumable = len(selections) == 1
    for parents in selections:
        context = _AttemptContext(shelf, **base, parents=parents)
        step = max((c.step for c in parents.values()), default=None)
        produced = task(dict(assignment.params), context)
        if not isinstance(produced, Iterator):
            raise TypeError(f"a task must be a generator (`yield`), not return {produced!r:.60}")
        try:
            for row in produced:
                shelf.rows.append(as_row(row, step))
                if observe(row):
                    raise Stopped
        finally:
            close = getattr(produced, "close", None)
            if close is not None:
                close()
    if not shelf.rows:
        raise ValueError("the task yielded no measurement")


def _selections(assignment: Assignment, shelf: Shelf) -> Iterator[dict[str, Checkpoint]]:
    """Yield the parents of each run of the task; note it where nothing was selected.

    With several needs, those that select one checkpoint go along with each of the others'.
    """
    count = max((len(p.checkpoints) for p in assignment.parents), default=1)
    for parent in assignment.parents:
        if not parent.checkpoints:
            shelf.rows.append(
                as_row(measure("unreached", 1, stage=parent.stage, select=parent.select), None)
            )
            return
    for i in range(count):
        yield {
            p.stage: Checkpoint(
                p.stage,
                int(record["step"]),  # type: ignore[call-overload]
                Path(assignment.home, str(record["path"])),
                record["metrics"],  # type: ignore[arg-type]
            )
            for p in assignment.parents
            for record in [p.checkpoints[min(i, len(p.checkpoints) - 1)]]
        }


def as_row(row: Measurement, step: int | None) -> tuple[str, float, int | None, str, str]:
    """Return a measurement as columns of its table; `step` is for one that has none of its own."""
    if not isinstance(row, Measurement):
        raise TypeError(
            f"a task must yield measurements, not {type(row).__name__}: "
            "use `yield measure(name, value, ...)` of sensweep.tasks.api"
        )
    coordinates = json.dumps(
        dict(row.coordinates), sort_keys=True, separators=(",", ":"), ensure_ascii=False
    )
    return row.name, float(row.value), step if row.step is None else row.step, row.unit, coordinates


def load_task(name: str, roots: tuple[str, ...]) -> Callable[..., Iterator[Measurement]]:
    """Import `module:function`; a user's own modules (those under `roots`) are imported afresh."""
    forget_modules(roots)
    sys.path[:0] = [root for root in roots if root not in sys.path]
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)  # type: ignore[no-any-return]


def _describe(error: BaseException, outcome: Outcome) -> None:
    last = traceback.extract_tb(error.__traceback__)[-1:]
    where = f" ({Path(last[0].filename).name}:{last[0].lineno})" if last else ""
    text = " ".join(str(error).split())
    outcome.error = f"{type(error).__name__}: {text}{where}"[:500]
    outcome.trace = "".join(traceback.format_exception(error))
    outcome.status = "failed"


@contextmanager
def _log_to(path: Path) -> Iterator[None]:
    """Send all that this process prints, by Python or by native code, to the attempt's log."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = os.dup(1), os.dup(2)
    streams = sys.stdout, sys.stderr
    for stream in streams:
        stream.flush()
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False, errors="replace")
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False, errors="replace")
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = streams
        os.dup2(kept[0], 1)
        os.dup2(kept[1], 2)
        os.close(kept[0])
        os.close(kept[1])


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
