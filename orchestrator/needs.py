"""Which checkpoints of an earlier stage a stage needs: ``train@first:train_accuracy>=0.95``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sensweep.orchestrator.errors import shown, suggest

_METRIC = re.compile(r"([A-Za-z_][\w.-]*)\s*(>=|<=)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)")


@dataclass(frozen=True, slots=True)
class Select:
    """A choice among the checkpoints that a trial offers.

    Attributes:
        kind: `final`, the last one; `every`, those whose step is a multiple of `period`; or
            `first`, the earliest one whose `metric` is >= (or <=) `bound`.
    """

    kind: str
    period: int = 0
    metric: str = ""
    operator: str = ""
    bound: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Select:
        """Read ``final``, ``every:5`` or ``first:train_accuracy>=0.95``.

        Raises:
            ValueError: anything else.
        """
        kind, _, rest = text.strip().partition(":")
        kind, rest = kind.strip(), rest.strip()
        if kind == "final" and not rest:
            return cls("final")
        if kind == "every":
            if re.fullmatch(r"\d{1,9}", rest) and int(rest) > 0:
                return cls("every", period=int(rest))
            raise ValueError(f"every:{rest} wants a whole number of steps, such as every:5")
        if kind == "first":
            if match := _METRIC.fullmatch(rest):
                return cls("first", metric=match[1], operator=match[2], bound=float(match[3]))
            raise ValueError(
                f"first:{rest} wants a metric and a bound, such as first:train_accuracy>=0.95"
            )
        raise ValueError(
            f"unknown selection {shown(text)}"
            + suggest(kind, ["final", "every:STEPS", "first:METRIC>=VALUE"])
        )

    def __str__(self) -> str:
        if self.kind == "every":
            return f"every:{self.period}"
        if self.kind == "first":
            return f"first:{self.metric}{self.operator}{repr(self.bound).removesuffix('.0')}"
        return self.kind

    def holds(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Whether a checkpoint meets the condition (that it is the first or last is not asked)."""
        if self.kind == "every":
            return step % self.period == 0
        if self.kind == "first":
            value = metrics.get(self.metric)
            if value is None:
                return False
            return value >= self.bound if self.operator == ">=" else value <= self.bound
        return True


@dataclass(frozen=True, slots=True)
class Need:
    """A stage whose checkpoints are needed, and which of them."""

    stage: str
    select: Select

    @classmethod
    def parse(cls, text: object) -> Need:
        """Read ``train@final``; a stage's name alone means its final checkpoint.

        Raises:
            ValueError: not of the form STAGE@SELECTION.
        """
        if isinstance(text, Need):
            return text
        if not isinstance(text, str) or not text.partition("@")[0].strip():
            raise ValueError(
                f"{shown(text)} is not a need; write STAGE@final, STAGE@every:5 or "
                "STAGE@first:train_accuracy>=0.95"
            )
        stage, at, select = text.partition("@")
        return cls(stage.strip(), Select.parse(select) if at else Select("final"))

    def __str__(self) -> str:
        return f"{self.stage}@{self.select}"


def choose(saved: Sequence[Mapping[str, Any]], select: str) -> tuple[Mapping[str, Any], ...]:
    """Pick the checkpoints (mappings with `step` and `metrics`) that a selection asks for.

    Nothing is picked where no step reached what `first` asks for.
    """
    wanted = Select.parse(select)
    steps = sorted(saved, key=lambda checkpoint: checkpoint["step"])
    if wanted.kind == "final":
        return tuple(steps[-1:])
    chosen = [c for c in steps if wanted.holds(c["step"], c["metrics"])]
    return tuple(chosen if wanted.kind == "every" else chosen[:1])
