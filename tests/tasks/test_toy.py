"""The toy task, and the context that a task is given."""

from __future__ import annotations

from pathlib import Path

import pytest

from sensweep.tasks.api import Checkpoint, Context, measure
from sensweep.tasks.toy import toy


def test_its_maximum_is_at_one_and_minus_two() -> None:
    (best,) = toy({"x": 1.0, "y": -2.0, "noise": 0.0}, Context())
    (other,) = toy({"x": 2.0, "y": 0.0, "noise": 0.0}, Context())
    assert (best.value, other.value) == (0.0, -5.0)


def test_it_resumes_to_the_same_bits(tmp_path: Path) -> None:
    params = {"steps": 5}
    whole = list(toy(params, Context(seed=3)))
    some = toy(params, Context(seed=3, folder=tmp_path))
    assert [next(some) for _ in range(4)] == whole[:4]  # the fourth is yielded, not checkpointed
    checkpoint = Checkpoint("", 3, tmp_path / "step-000003.pt")
    rest = list(toy(params, Context(seed=3, resume_from=checkpoint)))
    assert rest == whole[3:]


def test_streams_depend_on_seed_and_purpose_alone() -> None:
    draws = {Context(seed=s).stream(p) for s in (0, 1) for p in ("init", "order")}
    assert len(draws) == 4
    assert all(0 <= draw < 2**63 for draw in draws)
    elsewhere = Context(seed=1, threads=4, device="cuda")
    assert elsewhere.stream("init") == Context(seed=1).stream("init")


def test_a_measurement_takes_every_other_keyword_as_a_coordinate() -> None:
    row = measure("accuracy", 1, step=2, unit="1", sigma=0.5, layer="head")
    assert (row.value, row.step, row.coordinates) == (1.0, 2, {"sigma": 0.5, "layer": "head"})
    with pytest.raises(ValueError, match="could not convert"):
        measure("accuracy", "high")
