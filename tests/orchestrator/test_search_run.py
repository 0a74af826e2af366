"""Searches on a real Ray: run, stopped early, interrupted, killed, resumed, confirmed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from test_kill import kill_all

from sensweep.orchestrator.session import run
from sensweep.orchestrator.study import Study
from sensweep.results.queries import query
from sensweep.results.store import Home

TASKS = Path(__file__).with_name("searched_tasks.py")


def block(**search: Any) -> dict[str, Any]:
    return {
        "study": "valley",
        "seeds": 2,
        "axes": {"side": ["left", "right"], "x": {"uniform": [-2.0, 2.0]}},
        "stages": {
            "train": {"task": "searched_tasks:train", "axes": ["side", "x"]},
            "probe": {"task": "searched_tasks:probe", "needs": "train@final"},
            "exam": {"task": "searched_tasks:exam", "needs": "train@final"},
        },
        "search": {
            "axes": ["x"],
            "objectives": [
                {"name": "loss", "stage": "train", "direction": "minimize"},
                {"name": "size", "stage": "probe", "direction": "maximize"},
            ],
            "trials": 8,
            **search,
        },
    }


def study(folder: Path, **search: Any) -> Study:
    shutil.copy(TASKS, folder)
    return Study.from_dict(block(**search), folder=folder)


def ask(home: Path, sql: str) -> list[dict[str, Any]]:
    return query(Home(home), sql)


def asks(home: Path) -> list[dict[str, Any]]:
    columns = 'search, number, params, state, "values"'
    return ask(home, f"select {columns} from asks order by search, number")


@pytest.mark.usefixtures("ray_session")
def test_a_search_runs_to_its_end_is_confirmed_and_then_there_is_nothing_to_do(
    tmp_path: Path,
) -> None:
    confirm = {"seeds": 2, "stages": ["exam"], "compare": {"default": {"x": 1.0}}}
    of = study(tmp_path, confirm=confirm)
    sweep = run(of, tmp_path / "home")
    assert sweep.counts["exam"] == {"done": 2 * 2 * 2}  # sides, points, fresh seeds
    assert sweep.counts["train"] == {"done": 2 * 8 * 2 + 8}
    found = asks(tmp_path / "home")
    assert [a["state"] for a in found] == ["complete"] * 16
    confirmed = ask(
        tmp_path / "home",
        "select side, confirmed, count(*) as n from rows where stage = 'exam' group by all"
        " order by all",
    )
    assert [tuple(line.values()) for line in confirmed] == [
        (side, name, 2) for side in ("left", "right") for name in ("best", "default")
    ]
    assert run(of, tmp_path / "home").executed == 0
    more = study(tmp_path, confirm=confirm, trials=9)
    assert run(more, tmp_path / "home").executed >= 2 * 2 * 2  # a point more for each search
    assert asks(tmp_path / "home")[:8] == found[:8]


@pytest.mark.usefixtures("ray_session")
def test_a_budget_interrupts_a_sequential_search_which_then_goes_on_with_the_same_points(
    tmp_path: Path,
) -> None:
    whole = study(tmp_path, parallel=1)
    run(whole, tmp_path / "whole")
    part = Study.from_dict(block(parallel=1) | {"budget": {"trials": 23}}, folder=tmp_path)
    stopped = run(part, tmp_path / "part")
    assert stopped.stopped is not None
    assert 0 < len(asks(tmp_path / "part")) < 16
    run(whole, tmp_path / "part")
    assert asks(tmp_path / "part") == asks(tmp_path / "whole")
    assert Home(tmp_path / "part").canonical() == Home(tmp_path / "whole").canonical()


@pytest.mark.usefixtures("ray_session")
def test_a_hopeless_point_is_stopped_while_it_trains_and_keeps_its_rows(tmp_path: Path) -> None:
    stop = {"by": "median", "rungs": "steps", "options": {"n_startup_trials": 2}}
    loss = [{"name": "slow_loss", "stage": "train", "direction": "minimize"}]
    points = [{"x": x} for x in (0.5, 0.4, 1.9, 1.8)]
    of = study(tmp_path, stop=stop, objectives=loss, enqueue=points, trials=4, seeds=1, parallel=1)
    run(of, tmp_path / "home")
    found = ask(
        tmp_path / "home",
        "select t.side, t.x, t.status, max(r.step) as step from trials t join rows r"
        " using (trial_id) where t.stage = 'train' group by all order by all",
    )
    by_x = {(line["side"], line["x"]): (line["status"], line["step"]) for line in found}
    for side in ("left", "right"):
        assert by_x[side, 0.4] == by_x[side, 0.5] == ("done", 20)
        for x in (1.8, 1.9):
            status, step = by_x[side, x]
            assert status == "stopped"
            assert 1 <= step < 20
    states = [a["state"] for a in asks(tmp_path / "home")]
    assert states == ["complete", "complete", "pruned", "pruned"] * 2
    assert run(of, tmp_path / "home").executed == 0


def test_a_kill_in_the_middle_of_a_search_loses_nothing(tmp_path: Path) -> None:
    import yaml

    shutil.copy(TASKS, tmp_path)
    path = tmp_path / "valley.yaml"
    path.write_text(yaml.safe_dump(block(parallel=1, trials=12, confirm={"seeds": 2})))
    command = [str(Path(sys.executable).with_name("sensweep")), "run", str(path), "--cpus", "2"]
    subprocess.run([*command, "--home", str(tmp_path / "whole")], check=True, capture_output=True)
    home = tmp_path / "home"
    killed = subprocess.Popen(
        [*command, "--home", str(home)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if Home(home).sweeps() and Home(home).read("asks").num_rows > 10:
            break
        time.sleep(0.05)
    kill_all(killed)
    before = asks(home)
    assert before
    done = subprocess.run([*command, "--home", str(home)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert asks(home) == asks(tmp_path / "whole")
    assert Home(home).canonical() == Home(tmp_path / "whole").canonical()
