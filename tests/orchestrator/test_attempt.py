"""An attempt in a plain process: rows, checkpoints, resumption, logs, isolation."""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from sensweep.orchestrator.attempt import Assignment, Selected, execute
from sensweep.orchestrator.isolation import Snapshot
from sensweep.tasks.api import Context
from sensweep.tasks.toy import toy


@pytest.fixture
def user(tmp_path: Path) -> Iterator[Path]:
    """A folder with a user's module in it; as with a worker, it is gone with the process."""
    shutil.copy(Path(__file__).with_name("misbehaving.py"), tmp_path / "bad_day.py")
    yield tmp_path
    sys.modules.pop("bad_day", None)
    sys.path[:] = [entry for entry in sys.path if entry != str(tmp_path)]


def assignment(home: Path, task: str, params: dict | None = None, **fields: object) -> Assignment:
    key = fields.pop("key", ("a" * 24, 1, 1))
    values = {"seed": 0, "sweep": "s.cpu", "home": str(home), "log": f"logs/{key[0]}.{key[1]}.log"}
    roots = (str(home),) if task.startswith("bad_day") else ()
    return Assignment(key, task, params or {}, **{**values, "roots": roots, **fields})


def names(outcome: object) -> list[tuple[str, float]]:
    return [(row[0], row[1]) for row in outcome.rows]


def test_rows_are_those_of_the_plain_generator(tmp_path: Path) -> None:
    params = {"x": 0.5, "steps": 4}
    outcome = execute(assignment(tmp_path, "sensweep.tasks.toy:toy", params, seed=7), {})
    plain = [(m.name, m.value, m.step, m.unit, "{}") for m in toy(params, Context(seed=7))]
    assert outcome.status == "done"
    assert outcome.rows == plain


@pytest.mark.parametrize(
    ("task", "error"),
    [
        ("raises", "RuntimeError: the loss went through the roof (bad_day.py:"),
        ("exits", "SystemExit: enough"),
        ("nothing", "yielded no measurement"),
        ("no_generator", "a task must be a generator"),
        ("not_a_measurement", "use `yield measure(name, value, ...)`"),
        ("missing", "has no attribute 'missing'"),
    ],
)
def test_what_goes_wrong_is_one_line_with_a_traceback_in_the_log(
    user: Path, task: str, error: str
) -> None:
    outcome = execute(assignment(user, f"bad_day:{task}", {"x": 1}), {})
    assert outcome.status == "failed"
    assert error in outcome.error
    assert "\n" not in outcome.error
    assert "Traceback" in outcome.trace
    assert outcome.trace.strip() in next(user.glob("logs/*")).read_text()


def test_everything_printed_lands_in_the_attempts_log(
    user: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    execute(assignment(user, "bad_day:threads"), {})
    text = next(user.glob("logs/*")).read_text()
    assert "printed by the task" in text
    assert "printed by a child" in text
    print("after")
    assert capfd.readouterr().out == "after\n"


def test_a_users_module_starts_afresh_and_global_generators_are_fixed(user: Path) -> None:
    first = execute(assignment(user, "bad_day:good", {"x": 1}, seed=3), {})
    random.seed(99)
    second = execute(assignment(user, "bad_day:good", {"x": 1}, seed=3), {})
    assert first.rows == second.rows
    assert ("seen", 1.0) in names(second)


def test_a_warm_process_is_recognised_as_changed(user: Path) -> None:
    folder, environment, gauss = os.getcwd(), dict(os.environ), random.gauss
    try:
        outcome = execute(assignment(user, "bad_day:changes_globals"), {})
    finally:
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        random.gauss = gauss
    assert outcome.status == "done"
    assert outcome.changed == "working directory changed"
    assert execute(assignment(user, "bad_day:leaks"), {}).changed == "threads changed"
    assert execute(assignment(user, "bad_day:good", {"x": 1}), {}).changed is None


def test_snapshot_names_what_was_patched() -> None:
    snapshot = Snapshot()
    snapshot.take()
    assert snapshot.difference() is None
    kept, random.gauss = random.gauss, lambda *_: 0.0
    try:
        assert snapshot.difference() == "random.gauss was replaced"
    finally:
        random.gauss = kept
    os.environ["SURPRISE"] = "1"
    try:
        assert snapshot.difference() == "environment changed: SURPRISE"
    finally:
        del os.environ["SURPRISE"]


def test_a_snapshot_is_taken_again_only_where_a_module_was_loaded(user: Path) -> None:
    snapshot = Snapshot()

    def changed() -> str | None:
        good = assignment(user, "bad_day:good", {"x": 1})
        return execute(good, {}, snapshot=snapshot).changed

    assert changed() is None
    os.environ["BETWEEN"] = "1"
    try:
        assert changed() == "environment changed: BETWEEN"
        sys.modules["surprise"] = types.ModuleType("surprise")
        assert changed() is None
    finally:
        del os.environ["BETWEEN"]
        sys.modules.pop("surprise", None)


def test_stops_between_two_measurements_and_keeps_the_rows(user: Path) -> None:
    seen = []

    def observe(row: object) -> bool:
        seen.append(row)
        return len(seen) == 3

    outcome = execute(assignment(user, "bad_day:slow"), {}, observe)
    assert outcome.status == "stopped"
    assert [row[1] for row in outcome.rows] == [0, 1, 2]


def test_keeps_the_checkpoints_that_later_stages_select(user: Path) -> None:
    keep = ("every:2", "final", "first:accuracy>=0.3", "first:accuracy>=0.9")
    outcome = execute(assignment(user, "bad_day:checkpointed", keep=keep), {})
    chosen = {a["step"]: a["selects"] for a in outcome.artifacts}
    assert chosen == {
        2: ["every:2"],
        3: ["first:accuracy>=0.3"],
        4: ["every:2"],
        6: ["every:2", "final", "first:accuracy>=0.9"],
    }
    for artifact in outcome.artifacts:
        assert (user / artifact["path"]).read_text() == str(artifact["step"])
    assert len(list(user.glob("checkpoints/*/*/*.pt"))) == 4


def test_an_analysis_runs_once_per_selected_checkpoint(user: Path) -> None:
    trained = execute(assignment(user, "bad_day:checkpointed", keep=("every:3",)), {})
    parents = (Selected("train", "every:3", tuple(trained.artifacts)),)
    key = ("b" * 24, 1, 1)
    read = execute(assignment(user, "bad_day:reads_checkpoint", key=key, parents=parents), {})
    assert [(row[1], row[2]) for row in read.rows] == [(3.0, 3), (6.0, 6)]
    nothing = (Selected("train", "first:accuracy>=0.9", ()),)
    missed = execute(
        assignment(user, "bad_day:reads_checkpoint", key=("c" * 24, 1, 1), parents=nothing), {}
    )
    assert missed.status == "done"
    assert missed.rows[0][0] == "unreached"
    assert json.loads(missed.rows[0][4])["select"] == "first:accuracy>=0.9"


@pytest.mark.parametrize("died_at", [1, 2, 3])
def test_resumes_with_the_rows_so_far(tmp_path: Path, died_at: int, monkeypatch: object) -> None:
    monkeypatch.setattr("sensweep.orchestrator.attempt.RESUME_EVERY", -1.0)
    params = {"x": 0.2, "steps": 4}
    whole = execute(assignment(tmp_path / "whole", "sensweep.tasks.toy:toy", params), {})
    counted = iter(range(1, 100))

    def die(row: object) -> bool:
        if next(counted) > died_at:
            raise MemoryError
        return False

    home = tmp_path / "home"
    assert execute(assignment(home, "sensweep.tasks.toy:toy", params), {}, die).status == "failed"
    again = assignment(home, "sensweep.tasks.toy:toy", params, key=("a" * 24, 2, 1))
    steps: list[int] = []
    resumed = execute(again, {}, lambda row: bool(steps.append(row.step)))
    assert steps[0] == died_at + 1
    assert resumed.rows == whole.rows
    assert len(list(home.glob("checkpoints/*/*"))) == 1


def test_a_task_that_does_not_resume_starts_anew(user: Path) -> None:
    first = execute(assignment(user, "bad_day:checkpointed"), {})
    again = execute(assignment(user, "bad_day:checkpointed", key=("a" * 24, 2, 1)), {})
    assert again.rows == first.rows


def test_a_damaged_checkpoint_is_not_resumed_from(tmp_path: Path) -> None:
    params = {"steps": 2}
    execute(assignment(tmp_path, "sensweep.tasks.toy:toy", params), {})
    saved = next(tmp_path.glob("checkpoints/*/*/*.pt"))
    saved.write_text("{}")
    again = assignment(tmp_path, "sensweep.tasks.toy:toy", params, key=("a" * 24, 2, 1))
    assert execute(again, {}).status == "done"
