"""What a search wants of the driver."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from sensweep.orchestrator.trial import Trial

Outcome = Literal["done", "failed", "skipped"]


@dataclass(slots=True)
class Growth:
    """What follows from an event: trials to add, trials to stop, lines of `asks` to commit."""

    add: list[Trial] = field(default_factory=list)
    stop: list[str] = field(default_factory=list)
    asks: list[dict[str, object]] = field(default_factory=list)
    reason: str = ""

    def __add__(self, other: Growth) -> Growth:
        return Growth(
            self.add + other.add,
            self.stop + other.stop,
            self.asks + other.asks,
            self.reason or other.reason,
        )
