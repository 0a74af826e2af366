"""The smallest real task: a noisy paraboloid, a millisecond a trial. Read this one first.

>>> from sensweep.tasks.api import Context
>>> [round(row.value, 3) for row in toy({"x": 1.0, "y": -2.0, "noise": 0.0}, Context())]
[0.0]
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from sensweep.tasks.api import Context, Measurement, measure
from sensweep.tasks.params.toy import ToyParams


def toy(params: Mapping[str, object], context: Context) -> Iterator[Measurement]:
    """Yield `value` = -((x-1)^2 + (y+2)^2) + noise at each step; its maximum is 0.

    It offers a checkpoint after each step and resumes to the same bits, as every task that
    runs for long should.
    """
    p = ToyParams.model_validate(params)
    noise = random.Random(context.stream("noise"))
    first = 1
    if context.resume_from is not None:
        state = json.loads(context.resume_from.path.read_text())
        version, internal, gauss = state["noise"]
        noise.setstate((version, tuple(internal), gauss))
        first = state["step"] + 1
    for step in range(first, p.steps + 1):
        time.sleep(p.sleep)
        truth = -((p.x - 1) ** 2 + (p.y + 2) ** 2)
        value = truth + p.noise * noise.gauss(0, 1)
        yield measure("value", value, step=step)

        def save(path: Path, step: int = step) -> None:
            path.write_text(json.dumps({"step": step, "noise": noise.getstate()}))

        context.checkpoint(step, save, value=value)
