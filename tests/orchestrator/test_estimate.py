"""What is left to run would take, from history or from what the study expects."""

import json

import pytest
from plan_kit import FITS, LOOKS, PROBES, recorded, study, write_files

from sensweep.orchestrator.plan import estimate, make_plan
from sensweep.orchestrator.recorded import Recorded


@pytest.fixture
def folder(tmp_path):
    return write_files(tmp_path)


def test_what_was_never_measured_takes_what_the_study_expects(folder):
    stated = {"stages__fit__expected": "1h", "stages__fit__resources": {"gpus": 0.5}}
    plan = make_plan(study(folder, **stated))
    cost = estimate(plan, Recorded(), cpus=4)
    assert (cost.measured, cost.stated) == (0, FITS)
    assert cost.worker_hours == pytest.approx(FITS)
    assert cost.gpu_hours == pytest.approx(FITS / 2)
    known = recorded(make_plan(study(folder)), seconds=36.0)
    assert estimate(make_plan(study(folder, **stated), known), known, cpus=4).gpu_hours == 0
    more = make_plan(study(folder, seeds=3, **stated), known)
    assert estimate(more, known, cpus=4).gpu_hours == pytest.approx(FITS / 2 * 0.01 * 0.5)


def test_estimates_come_from_the_nearest_history(folder):
    plan = make_plan(study(folder))
    assert estimate(plan, Recorded(), 2).unknown == len(plan.trials)
    known = recorded(plan, seconds=3.0)
    more = make_plan(study(folder, seeds=3, stages__fit__resources={"cpus": 2}), known)
    expected = estimate(more, known, cpus=4)
    new = (FITS + LOOKS + PROBES) // 2
    assert (expected.measured, expected.unknown) == (new, 0)
    assert expected.worker_hours == pytest.approx(3 * new / 3600)
    assert expected.seconds == pytest.approx(3 * (2 * FITS + LOOKS + PROBES) / 2 / 4)
    # Other params: not the same trial, but the same stage.
    changed = make_plan(study(folder, stages__fit__params__lr=9), known)
    assert estimate(changed, known, 1).unknown == 0


def test_history_prefers_trials_of_the_same_params_then_of_the_same_architecture():
    def row(trial_id, arch, steps):
        return {"trial_id": trial_id, "stage": "t", "task": "my:f", "seed": 0, "code": "",
                "params": json.dumps({"arch": arch, "steps": steps}), "parents": "[]", "cell": "",
                "point": json.dumps({"arch": arch}), "code_files": "{}", "data": "{}"}  # fmt: skip

    rows = [row("1", "a", 1), row("2", "a", 9), row("3", "b", 9), row("4", "a", 1)]
    known = Recorded(trials=tuple(rows), seconds={"1": 1.0, "2": 9.0, "3": 5.0, "4": 3.0})
    seconds = known.expected_seconds
    assert seconds("t", "my:f", {"arch": "a", "steps": 1}, {"arch": "a"}) == 2.0  # median of 1, 3
    assert seconds("t", "my:f", {"arch": "a", "steps": 5}, {"arch": "a"}) == 3.0  # of 1, 3, 9
    assert seconds("t", "my:f", {"arch": "c", "steps": 5}, {"arch": "c"}) == 4.0  # of 1, 3, 5, 9
    assert seconds("u", "my:f", {}, {}) == 4.0
    assert seconds("t", "your:f", {}, {}) is None
