"""What a researcher needs to write a task: measurements out, a context in.

A task is a generator function ``(params, context) -> Iterator[Measurement]``. It knows nothing
of Ray, Optuna, Parquet or the cluster, so ``list(task(params, context))`` is its unit test:

    >>> from sensweep.tasks.api import Context, measure
    >>> def roughness(params, context):
    ...     yield measure("roughness", params["slope"] ** 2, unit="1", layer="head")
    >>> [row.value for row in roughness({"slope": 3.0}, Context(seed=0))]
    [9.0]

This module imports nothing heavy: a millisecond task must cost a millisecond.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path

Scalar = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Measurement:
    """One number that a task found out.

    Attributes:
        name: what was measured, in the field's standard term (``accuracy``, ``sensitivity``).
        value: the number. NaN and infinities are kept as they are, and never count as best.
        step: position along the training axis (epochs, unless the task says otherwise); None
            where there is none. An analysis of a checkpoint gets the checkpoint's step.
        unit: ``1`` for fractions and counts-free ratios, else a unit such as ``nats`` or ``s``.
        coordinates: what the value depends on within the trial (noise size, severity, layer).
    """

    name: str
    value: float
    step: int | None = None
    unit: str = "1"
    coordinates: Mapping[str, Scalar] = field(default_factory=dict)


def measure(
    name: str, value: float, *, step: int | None = None, unit: str = "1", **coordinates: Scalar
) -> Measurement:
    """Make a `Measurement`; every other keyword is a coordinate."""
    return Measurement(name, float(value), step, unit, coordinates)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A saved state of an earlier stage's trial, as an analysis receives it.

    Attributes:
        stage: the stage that saved it.
        step: the step after which it was saved.
        path: the file; `sensweep.tasks.checkpoints.load` reads it.
        metrics: the numbers given to `Context.checkpoint` when it was saved.
    """

    stage: str
    step: int
    path: Path
    metrics: Mapping[str, float] = field(default_factory=dict)


class TaskError(Exception):
    """Bad parameters or data, in one line that says what was given, wanted, and how to fix it."""


@dataclass
class Context:
    """What a task may know of its attempt. Of all this, only `seed` changes its numbers.

    Attributes:
        seed: the trial's seed. Use `stream` to derive generators from it, never the seed itself.
        device: a torch device string.
        threads: CPU threads that this attempt may use.
        folder: a folder of the attempt's own; None in a unit test that saves nothing.
        parents: the selected checkpoint of each stage that this one needs, by stage name.
        cache: memory that outlives the trial on a warm worker. Keys must identify the content
            (a dataset's digest), and values must be treated as read-only.
        resume_from: the last checkpoint of an earlier attempt of this trial, or None.
    """

    seed: int = 0
    device: str = "cpu"
    threads: int = 1
    folder: Path | None = None
    parents: Mapping[str, Checkpoint] = field(default_factory=dict)
    cache: MutableMapping[str, object] = field(default_factory=dict)
    resume_from: Checkpoint | None = None

    def stream(self, purpose: str) -> int:
        """Derive the 63-bit seed of an independent random stream from (seed, purpose).

        The same purpose gives the same stream under every intervention and architecture
        (common random numbers), so that paired comparisons are paired.
        """
        digest = hashlib.blake2b(f"{self.seed}/{purpose}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") >> 1

    def checkpoint(self, step: int, save: Callable[[Path], None], **metrics: float) -> None:
        """Offer the state after `step`; `save` writes it to the path that it is given.

        Call it after the step's measurements were yielded: a resumed attempt gets those rows
        back, and continues behind them. Whether the file is written, and how long it is kept,
        is the orchestrator's business (`needs: train@every:5`); a task offers each step's.
        The file appears atomically.
        """
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step-{step:06d}.pt"
        aside = path.with_suffix(".aside")
        save(aside)
        os.replace(aside, path)


Task = Callable[[Mapping[str, object], Context], Iterator[Measurement]]
