"""Tasks for the tests of searches: a valley in x whose bottom depends on the side."""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from sensweep.tasks.api import Context, Measurement, measure

BOTTOM = {"left": -0.5, "right": 0.3}


def train(params: Mapping[str, object], context: Context) -> Iterator[Measurement]:
    """Yield `loss`; far from the bottom also twenty slow steps of `slow_loss`."""
    x = float(str(params["x"]))
    loss = (x - BOTTOM[str(params["side"])]) ** 2
    for step in range(1, 21):
        slow = x in (0.4, 0.5, 1.8, 1.9)
        time.sleep(0.1 if slow else 0.002)
        yield measure("slow_loss", loss + 1 / step, step=step)
    yield measure("loss", loss + 0.01 * (context.seed % 7))
    context.checkpoint(20, lambda path: Path(path).write_text(str(x)))


def probe(params: Mapping[str, object], context: Context) -> Iterator[Measurement]:
    """Yield `size`, the distance from zero."""
    yield measure("size", abs(float(context.parents["train"].path.read_text())))


def exam(params: Mapping[str, object], context: Context) -> Iterator[Measurement]:
    """Yield `score`, on what a search must not see."""
    yield measure("score", -(float(context.parents["train"].path.read_text()) ** 2))
