"""The shipped studies: each runs whole in its smoke profile, with every stage, claim and figure."""

from __future__ import annotations

import html
from pathlib import Path

import pytest

from sensweep.orchestrator.session import run
from sensweep.orchestrator.study import load_study, shipped_studies


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("name", shipped_studies())
def test_smoke(name: str, tmp_path: Path) -> None:
    study = load_study(name, "smoke")
    sweep = run(study, tmp_path)
    states = {state for stage in sweep.counts.values() for state in stage}
    assert states == {"done"}
    assert sweep.executed == sum(stage["done"] for stage in sweep.counts.values())
    page = html.unescape(sweep.report().read_text())
    assert "smoke" in page
    for claim in study.claims:
        assert claim.statement.rstrip(".") in page
    keys = {claim["id"] for claim in sweep.claims()}
    assert keys == {claim.id for claim in study.claims}
    changed = sweep.trials().to_pandas()
    assert set(changed.stage) == set(study.stages)
    logs = "\n".join(path.read_text() for path in tmp_path.glob("logs/*/*.log"))
    assert "this worker will be replaced" not in logs  # our own tasks leave a process as it was
