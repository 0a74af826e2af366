"""The task of `overhead.py`: one measurement, no work."""

from collections.abc import Iterator, Mapping

from sensweep.tasks.api import Context, Measurement, measure


def noop(params: Mapping[str, object], context: Context) -> Iterator[Measurement]:
    """Yield `value`."""
    yield measure("value", float(str(params["x"])))
