"""What a home knows that a plan needs: what is done, with which checkpoints, in what time."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from statistics import median
from typing import Any

from sensweep.orchestrator.needs import Select
from sensweep.orchestrator.trial import comparable

# Seeds share their params, points and code: each text is decoded once.
_decode = functools.lru_cache(maxsize=100_000)(json.loads)


@dataclass(frozen=True, slots=True)
class RecordedTrial:
    """A trial that some sweep of the home planned, as the `trials` table has it, decoded."""

    trial_id: str
    stage: str
    task: str
    params: Mapping[str, object]
    seed: int
    parents: tuple[Mapping[str, str], ...]
    point: Mapping[str, object]
    code: str
    code_files: Mapping[str, str]
    data: Mapping[str, str]
    cell: str


@dataclass(frozen=True)
class Recorded:
    """What is known of a home; `Recorded()` is an empty one.

    Attributes:
        done: trial_id -> artifacts of the attempt that finished it, as JSON or decoded: a list of
            {"kind": "checkpoint", "step", "path", "selects", ...}. The final checkpoint of a
            trial is always among them; "selects" names the selections that were asked for and
            chose the checkpoint, and on the final one also those that nothing reached.
        failed: trials that were tried, never finished, and raised when last tried.
        stopped: trials that a search of this sweep stopped early; their rows are committed, so
            that this sweep cannot run them whole any more.
        trials: rows of the `trials` table, oldest first; JSON columns as text.
        seconds: trial_id -> duration of the attempt that finished it.
        exists: whether an artifact's file (`path`, relative to the home) is still there.
    """

    done: Mapping[str, str | list[dict[str, Any]]] = field(default_factory=dict)
    failed: frozenset[str] = frozenset()
    stopped: frozenset[str] = frozenset()
    trials: tuple[Mapping[str, object], ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    exists: Callable[[str], bool] = lambda path: True

    @classmethod
    def from_rows(
        cls,
        trials: Iterable[Mapping[str, Any]],
        attempts: Iterable[Mapping[str, Any]],
        exists: Callable[[str], bool],
        sweep: str = "",
    ) -> Recorded:
        """Gather what a plan needs from rows of the tables `trials` and `attempts`.

        Args:
            trials: rows in the order of their planning.
            attempts: rows in the order of their ends.
            exists: as the attribute.
            sweep: the sweep that is planned.
        """
        done: dict[str, str | list[dict[str, Any]]] = {}
        failed: set[str] = set()
        stopped: set[str] = set()
        seconds: dict[str, float] = {}
        for row in attempts:
            trial_id = str(row["trial_id"])
            if row["status"] == "stopped" and row.get("sweep") == sweep:
                stopped.add(trial_id)
            if row["status"] in ("done", "rebuilt"):
                done[trial_id] = row["artifacts"]
                seconds[trial_id] = float(row["seconds"])
            elif row["status"] == "failed":
                failed.add(trial_id)
            else:
                failed.discard(trial_id)
        return cls(
            done,
            frozenset(failed - done.keys()),
            frozenset(stopped - done.keys()),
            tuple(trials),
            seconds,
            exists,
        )

    def artifacts(self, trial_id: str) -> list[dict[str, Any]]:
        """Return what a trial that is done has left."""
        found = self.done[trial_id]
        return json.loads(found) if isinstance(found, str) else found

    def has_checkpoint(self, trial_id: str, select: str) -> bool:
        """Whether what a selection chooses of a trial that is done can still be read."""
        saved = [a for a in self.artifacts(trial_id) if a["kind"] == "checkpoint"]
        if not saved:
            return False
        last = max(saved, key=lambda a: a["step"])
        if Select.parse(select).kind == "final":
            chosen = [last]
        else:
            chosen = [a for a in saved if select in a.get("selects", ())]
        return bool(chosen) and all(self.exists(str(a["path"])) for a in chosen)

    @cached_property
    def rows(self) -> tuple[RecordedTrial, ...]:
        """The recorded trials, decoded, each once: as it was planned last."""
        return tuple({str(row["trial_id"]): _decoded(row) for row in self.trials}.values())

    @cached_property
    def history(self) -> Mapping[tuple[str, ...], float]:
        """Median seconds of the trials that are done, under each of their `history_keys`."""
        found: dict[tuple[str, ...], list[float]] = {}
        for trial in self.rows:
            if trial.trial_id in self.seconds:
                for key in history_keys(trial.stage, trial.task, trial.params, trial.point):
                    found.setdefault(key, []).append(self.seconds[trial.trial_id])
        return {key: median(values) for key, values in found.items()}

    def expected_seconds(
        self, stage: str, task: str, params: Mapping[str, object], point: Mapping[str, object]
    ) -> float | None:
        """Estimate a trial's duration from the most similar ones that are done."""
        for key in history_keys(stage, task, params, point):
            if key in self.history:
                return self.history[key]
        return None


def history_keys(
    stage: str, task: str, params: Mapping[str, object], point: Mapping[str, object]
) -> Iterable[tuple[str, ...]]:
    """Yield what trials of like duration share, the closest likeness first.

    Equal params (another seed); the stage and the architecture; the stage; the task.
    """
    arch = str(point.get("arch"))
    yield ("params", task, arch, comparable(params))
    yield ("arch", stage, task, arch)
    yield ("stage", stage, task)
    yield ("task", task)


def _decoded(row: Mapping[str, Any]) -> RecordedTrial:
    def load(column: str) -> Any:
        return _decode(row[column])

    return RecordedTrial(
        trial_id=row["trial_id"],
        stage=row["stage"],
        task=row["task"],
        params=load("params"),
        seed=row["seed"],
        parents=tuple(load("parents")),
        point=load("point"),
        code=row["code"],
        code_files=load("code_files"),
        data=load("data"),
        cell=row["cell"],
    )
