"""The MLflow mirror, against a real MLflow: in sqlite, and one server over loopback."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_study import (
    EPOCHS,
    POINTS,
    STUDY,
    SWEEP,
    PlannedTrial,
    accuracy_value,
    attempt,
    plan,
    run_study,
    sensitivity_trial,
    train_trial,
)

from sensweep.results.errors import UnknownSweep
from sensweep.results.mlflow_mirror import MirrorError, MirrorReport, mirror
from sensweep.results.mlflow_runs import MOST_TEXT, metric_name, safe_name
from sensweep.results.queries import select_sweep
from sensweep.results.store import Home

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
RECORD = {"study": dict(STUDY), "profile": "cpu"}
QUIET = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without runs: to make one takes seconds, to copy it none."""
    import mlflow

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def home(tmp_path: Path, empty_database: Path) -> Home:
    """A home without sweeps, with a database for MLflow."""
    home = Home(tmp_path / "home")
    home.path.mkdir()
    shutil.copy(empty_database, home.path / "mlflow.db")
    return home


@pytest.fixture(scope="session")
def mirrored(
    finished_home: Path, empty_database: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Home, MirrorReport]:
    """A finished home, mirrored once; no test may change it."""
    path = shutil.copytree(finished_home, tmp_path_factory.mktemp("mirrored") / "home")
    shutil.copy(empty_database, path / "mlflow.db")
    report = path / "sweeps" / SWEEP / "report"
    report.mkdir()
    (report / "index.html").write_text("<h1>small</h1>")
    extra = path / "notes.txt"
    extra.write_text("seen")
    return Home(path), mirror(Home(path), SWEEP, artifacts=[extra])


def client_of(home: Home) -> Any:
    import mlflow

    return mlflow.MlflowClient(f"sqlite:///{home.path}/mlflow.db")


def runs_of(client: Any, wanted: str = "", study: str = "small") -> list[Any]:
    experiment = client.get_experiment_by_name(study)
    return list(client.search_runs([experiment.experiment_id], wanted))


def contents(client: Any, *, ids: bool = False) -> dict[str, Any]:
    """All that MLflow knows of the trials' runs, by name, metric histories included."""
    found = {}
    for run in runs_of(client, "tags.stage != ''"):
        run_id = run.info.run_id
        history = {
            name: [(m.step, repr(m.value), m.timestamp) for m in points]
            for name in run.data.metrics
            if (points := client.get_metric_history(run_id, name))
        }
        tags = {k: v for k, v in run.data.tags.items() if k != "mlflow.parentRunId" or ids}
        info = (run.info.status, run.info.start_time, run.info.end_time)
        info += (run.info.run_id,) if ids else ()
        found[run.info.run_name] = (info, run.data.params, history, tags)
    return found


def half_done_sweep(home: Home) -> list[PlannedTrial]:
    """Plan four models; one is done, one failed, one stopped, one waits."""
    trained = [train_trial(point, 0) for point in POINTS]
    done, failed, stopped, _ = trained
    with home.open_sweep(SWEEP, study=RECORD) as writer:
        plan(writer, [*trained, *map(sensitivity_trial, trained)])
        attempt(writer, [done])
        attempt(writer, [failed], "failed", error="ValueError: lr is nan")
        attempt(writer, [stopped], "stopped")
    return trained


# ---- what MLflow shows


def test_a_sweep_is_a_run_that_carries_its_results(mirrored: tuple[Home, MirrorReport]) -> None:
    home, report = mirrored
    assert (report.created, report.updated, report.unchanged) == (24, 0, 0)
    client = client_of(home)
    run = client.get_run(report.run_id)
    assert (run.info.run_name, run.info.status) == (SWEEP, "FINISHED")
    assert run.data.metrics["trials.done"] == 24
    assert run.data.tags["claim.1"].startswith("supported: -0.1454 [-0.15")
    assert run.data.metrics["claim.1.estimate"] == pytest.approx(-0.14535)
    assert STUDY["question"] in run.data.tags["mlflow.note.content"]
    assert run.data.tags["mlflow.source.git.commit"] == "abc"
    names = {file.path for file in client.list_artifacts(report.run_id)}
    assert names == {"cells.csv", "cells.parquet", "study.json", "report", "files"}
    folder = Path(client.download_artifacts(report.run_id, ""))
    assert folder.is_relative_to(home.path / "mlartifacts")
    assert (folder / "report/index.html").read_text() == "<h1>small</h1>"
    assert (folder / "files/notes.txt").read_text() == "seen"
    assert json.loads((folder / "study.json").read_text())["study"]["study"] == "small"
    cells = pq.read_table(folder / "cells.parquet")
    assert cells.num_rows == select_sweep(home, "cells", SWEEP).num_rows > 0


def test_a_trial_is_a_nested_run_with_params_curves_and_times(
    mirrored: tuple[Home, MirrorReport],
) -> None:
    home, report = mirrored
    client = client_of(home)
    assert len(runs_of(client, f"tags.`mlflow.parentRunId` = '{report.run_id}'")) == 24
    wanted = "tags.stage = 'train' and params.arch = 'vit' and params.strength = 'n/a'"
    run = min(runs_of(client, wanted), key=lambda run: run.data.params["seed"])
    assert run.info.run_name == "train vit digits none s0"
    assert (run.info.status, run.info.end_time - run.info.start_time) == ("FINISHED", 2500)
    assert run.data.params == {
        "arch": "vit",
        "arch.name": "vit_tiny_patch16_224",
        "arch.depth": "2",
        "arch.hidden": "n/a",
        "dataset": "digits",
        "intervention": "none",
        "strength": "n/a",
        "seed": "0",
        "epochs": "3",
        "lr": "0.002",
    }
    curve = client.get_metric_history(run.info.run_id, "train_accuracy")
    assert [(m.step, m.value) for m in curve] == [
        (epoch, accuracy_value({"arch": "vit"}, 0, epoch)) for epoch in range(1, EPOCHS + 1)
    ]
    assert run.data.metrics == {
        "train_accuracy": accuracy_value({"arch": "vit"}, 0),
        "parameters": 1000.0,
    }
    tags = {"sweep": SWEEP, "stage": "train", "arch": "vit", "seed": "0", "status": "done"}
    assert tags.items() <= run.data.tags.items()
    assert len(run.data.tags["sensweep.trial_id"]) == 24
    by_stage: dict[str, set[frozenset[str]]] = {}
    for other in runs_of(client, "tags.stage != ''"):
        by_stage.setdefault(other.data.tags["stage"], set()).add(frozenset(other.data.params))
    assert {stage: len(keys) for stage, keys in by_stage.items()} == {"train": 1, "sensitivity": 1}


def test_mlflows_own_search_works_on_it(mirrored: tuple[Home, MirrorReport]) -> None:
    client = client_of(mirrored[0])
    experiment = client.get_experiment_by_name("small").experiment_id
    name = "metrics.`sensitivity.sigma_0.1.split_train`"
    found = client.search_runs([experiment], f"{name} < 0.2", order_by=[f"{name} desc"])
    values = [run.data.metrics["sensitivity.sigma_0.1.split_train"] for run in found]
    assert len(values) == 6
    assert values == sorted(values, reverse=True)
    assert {run.data.tags["arch"] for run in found} == {"vit"}
    wanted = "attributes.status = 'FINISHED' and params.arch = 'mlp' and tags.seed = '2'"
    assert len(runs_of(client, wanted)) == 4


# ---- doing it again


def test_twice_is_once_and_more_trials_are_only_added(mirrored: tuple[Home, MirrorReport],
                                                      tmp_path: Path) -> None:  # fmt: skip
    path = shutil.copytree(mirrored[0].path, tmp_path / "home")
    home, client = Home(path), client_of(Home(path))
    before = contents(client, ids=True)
    again = mirror(home, SWEEP, artifacts=[path / "notes.txt"])
    assert (again.created, again.updated, again.unchanged) == (0, 0, 24)
    assert again.run_id == mirrored[1].run_id
    assert contents(client, ids=True) == before

    run_study(home, seeds=range(4))
    more = mirror(home, SWEEP)
    assert (more.created, more.updated, more.unchanged) == (8, 0, 24)
    after = contents(client, ids=True)
    assert {name: after[name] for name in before} == before
    assert len(after) == 32
    assert client.get_run(more.run_id).data.metrics["trials.done"] == 32
    assert len(runs_of(client)) == 33


def test_a_mirror_made_anew_equals_one_that_grew(home: Home, empty_database: Path) -> None:
    _, failed, _, waiting = half_done_sweep(home)
    first = mirror(home, SWEEP)
    assert (first.created, first.updated) == (4, 0)  # the skipped one too, none that waits
    client = client_of(home)
    grown = contents(client)
    status = {name.split(" s0")[0]: entry[0][0] for name, entry in grown.items()}
    assert status == {
        "train vit digits none": "FINISHED",
        "train vit digits noise_augmentation 0.1": "FAILED",
        "train mlp digits none": "KILLED",
        "sensitivity vit digits noise_augmentation 0.1": "KILLED",
    }
    tags = grown["train vit digits noise_augmentation 0.1 s0"][3]
    assert (tags["status"], tags["sensweep.error"]) == ("failed", "ValueError: lr is nan")
    assert grown["sensitivity vit digits noise_augmentation 0.1 s0"][3]["status"] == "skipped"
    parent = client.get_run(first.run_id)
    assert parent.info.status == "FAILED"
    assert parent.data.metrics["trials.pending"] == 4

    with home.open_sweep(SWEEP, study=RECORD) as writer:
        every = [train_trial(point, 0) for point in POINTS]
        plan(writer, [*every, *map(sensitivity_trial, every)])
        attempt(writer, [failed], number=2)
        attempt(writer, [waiting])
        attempt(writer, [sensitivity_trial(trial) for trial in every])
    second = mirror(home, SWEEP)
    assert (second.created, second.updated, second.unchanged) == (4, 2, 2)
    grown = contents(client)
    (home.path / "mlflow.db").rename(home.path / "grown.db")
    for left in home.path.glob("mlflow.db-*"):
        left.rename(home.path / left.name.replace("mlflow", "grown"))
    fresh = Home(shutil.copytree(home.path, home.path.parent / "fresh"))
    shutil.copy(empty_database, fresh.path / "mlflow.db")
    assert mirror(fresh, SWEEP).created == 8
    anew = contents(client_of(fresh))
    assert anew == grown
    assert {entry[0][0] for entry in anew.values()} == {"FINISHED", "KILLED"}


def test_an_interrupted_mirroring_is_mended(home: Home) -> None:
    half_done_sweep(home)
    mirror(home, SWEEP)
    client = client_of(home)
    whole = contents(client)
    [broken] = runs_of(client, "params.arch = 'vit' and attributes.status = 'FINISHED'")
    client.delete_tag(broken.info.run_id, "sensweep.core")
    client.delete_tag(broken.info.run_id, "sensweep.digest")
    parent = broken.data.tags["mlflow.parentRunId"]
    tags = {k: broken.data.tags[k] for k in ("sensweep.trial_id", "stage", "sensweep.cell")}
    client.create_run(broken.info.experiment_id, tags={**tags, "mlflow.parentRunId": parent})
    assert mirror(home, SWEEP).updated == 1
    assert contents(client) == whole
    assert len(runs_of(client)) == 5


def test_an_edit_of_the_study_marks_old_runs_in_place(home: Home) -> None:
    trained = [train_trial(POINTS[0], 0)]
    run_study(home, trials=trained)
    mirror(home, SWEEP)
    client = client_of(home)
    [old] = runs_of(client, "tags.stage = 'train'")
    run_study(home, trials=[train_trial(POINTS[0], 0, lr=0.1, warmup=2)])
    report = mirror(home, SWEEP)
    assert (report.created, report.updated) == (1, 1)
    runs = {run.info.run_id: run for run in runs_of(client, "tags.stage = 'train'")}
    assert len(runs) == 2
    was = runs.pop(old.info.run_id)
    [new] = runs.values()
    assert was.data.tags["sensweep.current"] == "false"
    assert was.data.params == {**old.data.params, "warmup": "n/a"}
    assert (new.data.tags["sensweep.current"], new.data.params["lr"]) == ("true", "0.1")


# ---- what MLflow cannot hold


def test_many_odd_and_infinite_values_arrive(home: Home) -> None:
    params = {f"p{i:03}": i for i in range(120)} | {
        "long": "x" * 9000,
        "a": {"b": [1, {"c": None}]},
    }
    rows = [("loss", 1 / (1 + i), i, "nats", {}) for i in range(2500)]
    rows += [("loss", math.nan, 2500, "nats", {}), ("loss", -math.inf, 2501, "nats", {})]
    odd = {"layer": "blocks.0/attn.q@k", "on": True, "p": 1e-5}
    rows += [
        ("m: é", 1.0, None, "1", odd),
        ("x/../y", 2.0, None, "1", {}),
        ("z" * 300, 3.0, 1, "1", {}),
    ]
    run_study(home, trials=[PlannedTrial("toy", {"x": 0.5}, 3, params, rows=rows)])
    mirror(home, SWEEP)
    client = client_of(home)
    [run] = runs_of(client, "tags.stage = 'toy'")
    curve = client.get_metric_history(run.info.run_id, "loss")
    assert [m.value for m in curve[:2500]] == [row[1] for row in rows[:2500]]
    assert all(math.isnan(m.value) for m in curve[2500:])
    assert run.data.tags["sensweep.infinite"] == "loss@2501=-inf"
    assert run.data.params["p119"] == "119"
    assert run.data.params["a.b"] == '[1,{"c":null}]'
    assert len(run.data.params["long"]) == MOST_TEXT
    assert sorted(run.data.metrics.values(), key=str)[:3] == [1.0, 2.0, 3.0]
    assert run.info.run_name == "toy 0.5 s3"


@settings(deadline=None)
@given(st.lists(st.text(max_size=12) | st.text("ab./_ ", max_size=12), unique=True, max_size=8))
def test_safe_names_stay_different(names: list[str]) -> None:
    from mlflow.utils.validation import _validate_metric_name

    safe = [safe_name(name) for name in names]
    assert len(set(safe)) == len(names)
    for name in safe:
        _validate_metric_name(name)


def test_coordinates_become_part_of_a_metrics_name() -> None:
    assert metric_name("accuracy", "{}") == "accuracy"
    assert metric_name("sensitivity", '{"sigma":0.1,"split":"train"}') == (
        "sensitivity.sigma_0.1.split_train"
    )


# ---- when MLflow is not there


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("http://ana:secret@127.0.0.1:{port}", "Connection refused"),
        ("postgresql://ana:secret@127.0.0.1:{port}/db", "Connection refused"),
        ("sqlite:////proc/none/mlflow.db", "/proc/none"),
        ("./mlruns", "maintenance mode"),
        ("nonsense://x", "nonsense"),
    ],
)
def test_a_dead_mlflow_fails_fast_with_one_line(small_home: Home, uri: str, words: str) -> None:
    before = dict(os.environ)
    start = time.monotonic()
    with pytest.raises(MirrorError) as failure:
        mirror(small_home, SWEEP, uri.format(port=free_port()))
    assert time.monotonic() - start < 10
    text = str(failure.value)
    assert words in text
    assert "\n" not in text
    assert "secret" not in text
    assert len(text) < 500
    assert dict(os.environ) == before


def test_a_server_that_never_answers_is_given_up(small_home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        start = time.monotonic()
        with pytest.raises(MirrorError, match="timed out"):
            mirror(small_home, SWEEP, f"http://127.0.0.1:{deaf.getsockname()[1]}")
        assert time.monotonic() - start < 10


def test_bad_input_is_refused_before_anything_is_written(small_home: Home) -> None:
    with pytest.raises(MirrorError, match=r"no file .*none\.png"):
        mirror(small_home, SWEEP, artifacts=["none.png"])
    with pytest.raises(UnknownSweep, match=r"did you mean small\.cpu"):
        mirror(small_home, "smal.cpu")
    assert not (small_home.path / "mlflow.db").exists()


def test_a_deleted_experiment_is_named_with_the_remedy(home: Home) -> None:
    half_done_sweep(home)
    mirror(home, SWEEP)
    client = client_of(home)
    experiment = client.get_experiment_by_name("small").experiment_id
    client.delete_experiment(experiment)
    with pytest.raises(MirrorError, match=f"mlflow experiments restore -x {experiment}"):
        mirror(home, SWEEP)


def test_the_database_writes_ahead(mirrored: tuple[Home, MirrorReport]) -> None:
    with contextlib.closing(sqlite3.connect(mirrored[0].path / "mlflow.db")) as database:
        assert database.execute("pragma journal_mode").fetchone() == ("wal",)


# ---- a server


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.fixture
def server(empty_database: Path, tmp_path: Path) -> Iterator[str]:
    shutil.copy(empty_database, tmp_path / "served.db")
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path}/served.db"]
    command += ["--artifacts-destination", str(tmp_path / "served")]
    with (tmp_path / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=QUIET, cwd=tmp_path, start_new_session=True
        )
    try:
        for _ in range(600):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
                break
            assert process.poll() is None, (tmp_path / "server.log").read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, 15)
        process.wait(20)


@pytest.mark.slow
def test_a_server_shows_the_same_as_a_database(server: str, home: Home) -> None:
    import mlflow

    rows = [("loss", v, i, "1", {}) for i, v in enumerate([math.nan, math.inf, 1.0])]
    odd = PlannedTrial("odd", {}, 0, {}, rows=rows)
    trials = half_done_sweep(home)
    with home.open_sweep(SWEEP, study=RECORD) as writer:
        plan(writer, [*trials, odd])
        attempt(writer, [odd])
    mirror(home, SWEEP)
    report = mirror(home, SWEEP, server)
    client = mlflow.MlflowClient(server)
    over_http = contents(client, ids=True)
    assert contents(client) == contents(client_of(home))
    assert len(over_http) == 4
    names = {file.path for file in client.list_artifacts(report.run_id)}
    assert names == {"cells.csv", "cells.parquet", "study.json"}
    again = mirror(home, SWEEP, server)
    assert (again.created, again.updated, again.unchanged) == (0, 0, 4)
    assert contents(client, ids=True) == over_http
