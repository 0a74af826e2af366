"""Whole sweeps on a real Ray: what is executed, what is recorded, what is not executed again."""

from __future__ import annotations

import dataclasses
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from sensweep.orchestrator.errors import InputError
from sensweep.orchestrator.ray_driver import running
from sensweep.orchestrator.scheduler import Policy
from sensweep.orchestrator.session import prepare, run
from sensweep.orchestrator.study import Study
from sensweep.results.queries import query
from sensweep.results.store import Home

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture
def user(tmp_path: Path) -> Path:
    shutil.copy(Path(__file__).with_name("misbehaving.py"), tmp_path / "bad_day.py")
    return tmp_path


def study(folder: Path, stages: dict[str, Any], name: str = "trouble", **more: Any) -> Study:
    return Study.from_dict({"study": name, "stages": stages, **more}, folder=folder)


def toy(seeds: Any = 2, name: str = "bowl", **stage: Any) -> dict[str, Any]:
    stages = {"toy": {"task": "toy", "params": {"steps": 2}, **stage}}
    return {"study": name, "seeds": seeds, "axes": {"x": [0.0, 1.0, 2.0]}, "stages": stages}


def drive(of: Study, home: Path, **policy: float) -> dict[str, Any]:
    """Run with a policy of the test's own."""
    orders = prepare(of, home).orders({"study": of.to_dict(), "profile": "cpu"})
    with running(dataclasses.replace(orders, policy=Policy(**policy))) as finished:
        return finished.result(timeout=120)


def select(home: Path, sql: str) -> list[tuple[Any, ...]]:
    return [tuple(line.values()) for line in query(Home(home), sql)]


def test_a_finished_study_runs_nothing_and_new_seeds_run_alone(tmp_path: Path) -> None:
    first = run(Study(**toy(seeds=2)), tmp_path)
    assert (first.executed, first.counts) == (6, {"toy": {"done": 6}})
    assert run(Study(**toy(seeds=2)), tmp_path).executed == 0
    assert run(Study(**toy(seeds=4)), tmp_path).executed == 6
    assert select(tmp_path, "select seed, count(*) from trials group by 1 order by 1") == [
        (seed, 3) for seed in range(4)
    ]
    # A trial that is done in one sweep of the home is done in all.
    assert run(Study(**toy(seeds=4, name="other")), tmp_path).executed == 0
    assert select(tmp_path, "select count(*) from rows where sweep = 'other.cpu'") == [(24,)]
    assert select(tmp_path, "select distinct n from cells where sweep = 'other.cpu'") == [(4,)]


def test_the_handle_gives_rows_cells_and_trials(tmp_path: Path) -> None:
    sweep = run(Study(**toy(seeds=2)), tmp_path)
    rows = sweep.rows().to_pandas()
    assert len(rows) == 12
    assert set(rows.x) == {0.0, 1.0, 2.0}
    cells = sweep.cells().to_pandas()
    cell = cells[(cells.x == 1.0) & (cells.step == 2)].iloc[0]
    assert cell.n == 2
    assert cell["mean"] == pytest.approx(rows[(rows.x == 1.0) & (rows.step == 2)].value.mean())
    assert sweep.trials().num_rows == 6


def test_two_homes_hold_identical_canonical_rows(tmp_path: Path) -> None:
    for name in ("one", "two"):
        run(Study(**toy(seeds=3)), tmp_path / name)
    one, two = (Home(tmp_path / name).canonical() for name in ("one", "two"))
    assert one == two
    assert len(one) > 1000


def test_wide_and_narrow_stages_share_two_cores(user: Path) -> None:
    stages = {
        "narrow": {"task": "bad_day:threads", "resources": {"cpus": 1}},
        "wide": {"task": "bad_day:threads", "resources": {"cpus": 2}, "params": {"wide": True}},
    }
    drive(study(user, stages, seeds=4), user / "home", patience=1.0)
    threads = (
        "select stage, name, min(value), max(value), count(*) from rows group by all order by all"
    )
    assert select(user / "home", threads) == [
        ("narrow", "omp", 1, 1, 4),
        ("narrow", "threads", 1, 1, 4),
        ("wide", "omp", 2, 2, 4),
        ("wide", "threads", 2, 2, 4),
    ]


def test_rows_after_another_trial_equal_those_of_a_fresh_process(user: Path) -> None:
    stages = {"good": {"task": "bad_day:good"}}
    axes = {"x": [1, 2]}
    drive(study(user, stages, seeds=4, axes=axes), user / "home")
    workers = select(user / "home", "select count(distinct worker) from attempts")
    assert workers[0][0] <= 2  # eight trials shared warm workers
    assert select(user / "home", "select distinct value from rows where name = 'seen'") == [(1.0,)]
    draws = "select value from rows where seed = 2 and name <> 'seen' and x = 1 order by name"
    fresh = study(user, stages, seeds=[2], axes={"x": [1]})
    drive(fresh, user / "fresh")
    assert select(user / "home", draws) == select(user / "fresh", draws)


def test_a_worker_that_a_trial_changed_is_replaced(user: Path) -> None:
    stages = {
        "a_changes": {"task": "bad_day:changes_globals"},
        "b_leaks": {"task": "bad_day:leaks"},
        "witness": {"task": "bad_day:witness"},
    }
    drive(study(user, stages, seeds=2), user / "home")
    assert select(user / "home", "select distinct value from rows where name = 'surprise'") == [
        (0,)
    ]
    assert select(user / "home", "select distinct value from rows where name = 'patched'") == [(0,)]
    changed = select(
        user / "home", "select value from rows where stage in ('a_changes', 'b_leaks')"
    )
    assert len(set(changed)) == 4  # four processes, none of them used again


def test_a_failure_is_recorded_and_the_rest_goes_on(user: Path) -> None:
    stages = {
        "train": {"task": "bad_day:raises"},
        "analyse": {"task": "bad_day:good", "needs": "train", "params": {"x": 5}},
    }
    home = user / "home"
    failing = study(user, stages, seeds=2, axes={"x": [0, 1, 2]})
    result = drive(failing, home)
    assert result["stages"] == {
        "train": {"done": 4, "failed": 2},
        "analyse": {"done": 4, "skipped": 2},
    }
    error, trace, log = select(
        home, "select error, traceback, log from attempts where status = 'failed' limit 1"
    )[0]
    assert error.startswith("RuntimeError: the loss went through the roof")
    assert "bad_day.py" in trace
    assert "Traceback" in (home / log).read_text()
    assert prepare(failing, home).plan.to_run == []
    assert run(failing, home).failed == 2


def test_retry_failed_runs_what_failed_and_what_was_skipped_for_it(user: Path) -> None:
    path = user / "late.txt"
    stages = {
        "train": {"task": "bad_day:needs_a_file", "params": {"path": str(path)}},
        "analyse": {"task": "bad_day:good", "needs": "train", "params": {"x": 5}},
    }
    of, home = study(user, stages, axes={"x": [0, 1]}), user / "home"
    assert run(of, home).counts == {
        "train": {"done": 1, "failed": 1},
        "analyse": {"done": 1, "skipped": 1},
    }
    path.touch()
    assert run(of, home).executed == 0
    again = run(of, home, retry_failed=True)
    assert again.executed == 2
    assert again.counts == {"train": {"done": 2}, "analyse": {"done": 2}}


def test_a_stage_may_allow_retries_of_what_raised(user: Path) -> None:
    stages = {"train": {"task": "bad_day:raises", "retries": 1}}
    drive(study(user, stages, axes={"x": [0, 1]}), user / "home")
    attempts = "select status, attempt, count(*) from attempts group by all order by all"
    assert select(user / "home", attempts) == [("done", 1, 1), ("failed", 1, 1), ("failed", 2, 1)]


def test_nan_and_infinity_are_kept_and_are_nobodys_best(user: Path) -> None:
    run(study(user, {"bad": {"task": "bad_day:not_a_number"}}, seeds=2), user / "home")
    assert select(user / "home", "select count(*) from rows where isnan(value)") == [(2,)]
    assert select(user / "home", "select count(*) from rows where isinf(value)") == [(2,)]
    assert Home(user / "home").live("trouble.cpu")["best"] is None


def test_a_worker_that_dies_is_told_from_a_task_that_fails(user: Path) -> None:
    stages = {"dies": {"task": "bad_day:dies"}}
    drive(study(user, stages, axes={"x": [0, 1]}), user / "home")
    attempts = "select status, count(*) from attempts group by 1 order by 1"
    assert select(user / "home", attempts) == [("done", 1), ("failed", 1), ("lost", 2)]


def test_a_trial_whose_worker_died_resumes_from_its_checkpoint(user: Path) -> None:
    (user / "marks").mkdir()
    once = {"task": "bad_day:dies_once", "params": {"folder": str(user / "marks")}}
    reads = {"task": "bad_day:good", "needs": "once@every:1", "params": {"x": 1}}
    drive(study(user, {"once": once, "reads": reads}), user / "home")
    values = select(user / "home", "select value from rows where stage = 'once' order by seq")
    assert values == [(1,), (2,), (3,)]


def test_an_attempt_that_overruns_its_time_is_ended(user: Path) -> None:
    stages = {
        "slow": {"task": "bad_day:slow", "timeout": "1s"},
        "deaf": {"task": "bad_day:deaf", "timeout": "1s"},
    }
    began = time.monotonic()
    result = drive(study(user, stages), user / "home", grace=2.0)
    assert time.monotonic() - began < 60
    assert result["stages"] == {"slow": {"failed": 1}, "deaf": {"failed": 1}}
    for (error,) in select(user / "home", "select error from attempts"):
        assert "timeout: ran longer than 1 s" in error


def test_stop_ends_running_trials_and_the_same_study_resumes(user: Path) -> None:
    home = user / "home"
    stages = {
        "quick": {"task": "bad_day:good", "params": {"x": 1}},
        "slow": {"task": "bad_day:slow"},
    }
    stopping = study(user, stages, seeds=3)

    def stop() -> None:
        while not (Home(home).live("trouble.cpu") or {}).get("running"):
            time.sleep(0.1)
        time.sleep(1.0)
        Home(home).request_stop("trouble.cpu", "enough for today")

    thread = threading.Thread(target=stop)
    thread.start()
    result = drive(stopping, home, grace=5.0)
    thread.join()
    assert result["stopped"] == "enough for today"
    plan = prepare(stopping, home).plan
    assert all(plan.trials[i].stage == "slow" for i in plan.to_run if i >= 3)
    assert len(plan.to_run) >= 3
    status = select(home, "select distinct status from attempts where error = 'enough for today'")
    assert status == [("lost",)]


def test_a_second_driver_of_the_same_sweep_is_refused(user: Path) -> None:
    home = user / "home"
    of = study(user, {"slow": {"task": "bad_day:slow"}})
    orders = prepare(of, home).orders({"study": of.to_dict(), "profile": "cpu"})
    with running(orders) as finished:
        while not Home(home).sweeps():
            time.sleep(0.1)
        with pytest.raises(InputError, match=r"sweep trouble.cpu is being run by .* \(pid \d+"):
            run(of, home)
        other = study(user, {"good": {"task": "bad_day:good", "params": {"x": 1}}}, name="other")
        assert drive(other, home)["stages"] == {"good": {"done": 1}}  # other sweeps go on meanwhile
        Home(home).request_stop("trouble.cpu", "done here")
        assert finished.result(timeout=60)["stopped"] == "done here"


def test_a_stage_that_fits_nowhere_is_refused_before_anything_starts(tmp_path: Path) -> None:
    wide = Study(**toy(resources={"cpus": 64}))
    with pytest.raises(InputError, match=r"stages.toy.resources.cpus: 64 wanted"):
        run(wide, tmp_path, cpus=2)
    assert not Home(tmp_path).sweeps()


def test_budget_of_trials(tmp_path: Path) -> None:
    limited = Study(**toy(seeds=20), budget={"trials": 5})
    sweep = run(limited, tmp_path)
    assert sweep.stopped == "the budget of 5 trials is spent"
    assert 5 <= sweep.executed <= 5 + 2  # what was running on the two cores may still end


def test_freed_checkpoints_are_made_again_when_a_new_analysis_needs_them(user: Path) -> None:
    from sensweep.orchestrator.checkpoint_gc import collect

    home = user / "home"
    stages: dict[str, Any] = {"train": {"task": "bad_day:checkpointed"}}
    run(study(user, stages), home)
    train = "select name, value, step from rows where stage = 'train' order by seq"
    before = select(home, train)
    freed = collect(Home(home))
    assert freed["freed"] == freed["checkpoints"] == 1
    assert run(study(user, stages), home).executed == 0  # nothing needs them
    stages["read"] = {"task": "bad_day:reads_checkpoint", "needs": "train@every:2"}
    assert run(study(user, stages), home).executed == 2
    assert select(home, "select value, step from rows where stage = 'read' order by 1") == [
        (2, 2), (4, 4), (6, 6)
    ]  # fmt: skip
    status = "select a.status from attempts a join trials t using (trial_id) where stage = 'train'"
    assert select(home, f"{status} order by 1") == [("done",), ("rebuilt",)]
    assert select(home, train) == before  # made again, and not recorded again
    assert len(before) == 6


def test_logical_gpus_are_scheduled(user: Path) -> None:
    stages = {"gpu": {"task": "bad_day:threads", "resources": {"cpus": 1, "gpus": 0.5}}}
    orders = prepare(study(user, stages, seeds=4), user / "home")
    assert orders.plan.to_run
    assert drive(study(user, stages, seeds=4), user / "home")["stages"] == {"gpu": {"done": 4}}
    assert os.environ.get("CUDA_VISIBLE_DEVICES") is None
