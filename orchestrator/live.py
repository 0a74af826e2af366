"""What a running sweep shows of itself: counts, throughput, what runs, what is best so far.

The driver publishes it in the home about once a second; `status`, `watch` and the progress
display read it there, from any machine. It is for people: nothing is decided by it.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

WINDOW = 30.0  # seconds over which throughput is averaged


@dataclass(slots=True)
class Running:
    """An attempt that is with a worker."""

    trial_id: str
    stage: str
    label: str
    since: float
    latest: tuple[str, float, int | None] | None = None


@dataclass(slots=True)
class Live:
    """Collects what the driver sees; `snapshot` is what it publishes."""

    slots: int = 1
    started: float = field(default_factory=time.monotonic)
    running: dict[tuple[str, int, int], Running] = field(default_factory=dict)
    message: str = ""
    finished: int = 0
    _ended: deque[float] = field(default_factory=deque)
    _seconds: dict[str, list[float]] = field(default_factory=dict)
    _best: tuple[float, str, str] | None = None

    def ended(self, stage: str, seconds: float) -> None:
        """Note that a trial ended, and how long it took."""
        self.finished += 1
        self._ended.append(time.monotonic())
        total = self._seconds.setdefault(stage, [0.0, 0.0])
        total[0] += seconds
        total[1] += 1

    def offer(self, name: str, value: float, label: str) -> None:
        """Note a final value; the highest one of the objective's name is shown as best."""
        if math.isfinite(value) and (self._best is None or value > self._best[0]):
            self._best = (value, name, label)

    def snapshot(self, counts: Mapping[str, Mapping[str, int]]) -> dict[str, object]:
        """Return the status as plain data, given the number of trials by stage and state."""
        now = time.monotonic()
        while self._ended and now - self._ended[0] > WINDOW:
            self._ended.popleft()
        elapsed = now - self.started
        rate = len(self._ended) / max(min(elapsed, WINDOW), 1e-9)
        best = self._best
        return {
            "order": list(counts),
            "stages": {stage: dict(states) for stage, states in counts.items()},
            "running": [
                {
                    "trial": run.trial_id,
                    "stage": run.stage,
                    "label": run.label,
                    "seconds": round(now - run.since, 1),
                    "latest": list(run.latest) if run.latest else None,
                }
                for run in self.running.values()
            ],
            "elapsed_s": round(elapsed, 1),
            "trials_per_s": round(rate, 3),
            "eta_s": self._eta(counts),
            "best": {"value": best[0], "name": best[1], "label": best[2]} if best else None,
            "message": self.message,
        }

    def _eta(self, counts: Mapping[str, Mapping[str, int]]) -> float | None:
        """Estimate the seconds left from the mean of each stage; None until each has one."""
        left = 0.0
        for stage, states in counts.items():
            waiting = sum(states.get(s, 0) for s in ("waiting", "ready", "running"))
            if not waiting:
                continue
            if stage not in self._seconds:
                return None
            total, number = self._seconds[stage]
            left += waiting * total / number
        return round(left / max(self.slots, 1), 1)
