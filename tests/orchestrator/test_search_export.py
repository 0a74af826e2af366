"""A search as Optuna sees it: the exported storage, and the importance of its axes."""

from __future__ import annotations

import copy
import sqlite3
import sys
import warnings
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from search_home import (
    BASELINE,
    CNN,
    FATES,
    MLP,
    STARTED,
    STUDY,
    SWEEP,
    Ask,
    hunt,
    noise,
    penalty,
)

from sensweep.orchestrator.cli import main
from sensweep.orchestrator.errors import InputError
from sensweep.orchestrator.reporting import report_sweep
from sensweep.orchestrator.search_export import export
from sensweep.orchestrator.search_importance import importances
from sensweep.orchestrator.search_trials import recorded_searches
from sensweep.results import report
from sensweep.results.store import Home


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return hunt(Home(tmp_path_factory.mktemp("hunt")))


@pytest.fixture(scope="module")
def url(home: Home) -> str:
    url, written = export(home, SWEEP)
    assert written == {f"{SWEEP}/{CNN}": 9, f"{SWEEP}/{MLP}": 40}
    assert url == f"sqlite:///{home.path / 'optuna.db'}"
    return url


@pytest.fixture(scope="module")
def cnn(url: str) -> optuna.Study:
    return optuna.load_study(study_name=f"{SWEEP}/{CNN}", storage=url)


def single(home: Home) -> Home:
    """The same home with one objective, and a rule that Optuna has."""
    study = copy.deepcopy(STUDY)
    study["search"]["objectives"] = study["search"]["objectives"][:1]
    study["search"]["stop"] = {"by": "median", "rungs": "seeds", "options": {}}
    asks = [Ask(a.number, a.state, a.labels, a.values[:1], a.attributes) for a in FATES]
    return hunt(home, study, cnn=asks, mlp=[])


def test_the_study_is_what_the_search_is(cnn: optuna.Study) -> None:
    minimize, maximize = optuna.study.StudyDirection.MINIMIZE, optuna.study.StudyDirection.MAXIMIZE
    assert cnn.directions == [minimize, maximize]
    assert cnn.metric_names == ["loss", "accuracy"]
    assert cnn.user_attrs["cell"] == {"arch": "cnn"}
    assert cnn.user_attrs["sensweep"]["search"] == CNN


def test_every_ask_is_the_trial_of_its_number(cnn: optuna.Study) -> None:
    fates = {ask.number: ask for ask in FATES}
    states = {
        "complete": TrialState.COMPLETE,
        "pruned": TrialState.PRUNED,
        "failed": TrialState.FAIL,
        "duplicate": TrialState.FAIL,
        "running": TrialState.RUNNING,
    }
    assert [trial.number for trial in cnn.trials] == list(range(9))
    for trial in cnn.trials:
        ask = fates[trial.number]
        assert trial.state == states[ask.state]
        assert trial.user_attrs["labels"] == ask.labels
        if ask.state == "complete":
            assert trial.values == list(ask.values)
            assert trial.user_attrs["values"] == {"loss": ask.values[0], "accuracy": ask.values[1]}
            violation = ask.attributes["violations"][0]
            assert trial.constraints == {"clean": violation}
            assert len(trial.user_attrs["trial_ids"]) == 2
    assert cnn.trials[5].user_attrs["reports"] == {"1": [0.9, 0.3]}
    assert cnn.trials[6].user_attrs["reason"] == "train of seed 1 diverged"
    assert cnn.trials[7].user_attrs["reason"] == "repeats a point under way"


def test_parameters_have_their_distributions(cnn: optuna.Study) -> None:
    kinds = optuna.distributions.CategoricalDistribution(("none", "noise", "penalty"))
    uniform = optuna.distributions.FloatDistribution(0.0, 1.0)
    log = optuna.distributions.FloatDistribution(0.001, 1.0, log=True)
    first, second, third = (cnn.trials[number] for number in (0, 1, 2))
    assert (first.params, first.distributions) == ({"kind": "none"}, {"kind": kinds})
    assert second.params == {"kind": "noise", "strength[0]": 0.25}
    assert second.distributions == {"kind": kinds, "strength[0]": uniform}
    assert third.params == {"kind": "penalty", "strength[1]": 0.01}
    assert third.distributions == {"kind": kinds, "strength[1]": log}


def test_optuna_finds_the_front_that_the_report_shows(cnn: optuna.Study) -> None:
    assert sorted(trial.number for trial in cnn.best_trials) == [1, 2, 3]


def test_a_trial_lasts_from_the_first_start_to_the_last_end(cnn: optuna.Study) -> None:
    # Point 1 was planned first: the trials of its two seeds started 10 s apart and took 2 s each.
    trial = cnn.trials[1]
    assert trial.datetime_start == STARTED.astimezone().replace(tzinfo=None)
    assert trial.duration == timedelta(seconds=12)


def test_optunas_plots_open_it(url: str, cnn: optuna.Study) -> None:
    if find_spec("plotly") is not None:
        import optuna.visualization as plots
    else:
        import matplotlib as mpl

        mpl.use("agg")
        import optuna.visualization.matplotlib as plots
    mlp = optuna.load_study(study_name=f"{SWEEP}/{MLP}", storage=url)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert plots.plot_pareto_front(cnn) is not None
        assert plots.plot_hypervolume_history(cnn, [1.0, 0.0]) is not None
        assert plots.plot_timeline(cnn) is not None
        for plot in (plots.plot_slice, plots.plot_parallel_coordinate, plots.plot_contour):
            assert plot(mlp, target=lambda t: t.values[0], target_name="loss") is not None
        assert plots.plot_param_importances(mlp, target=lambda t: t.values[0]) is not None


def test_one_objective_keeps_its_values_at_rungs(tmp_path: Path) -> None:
    url, _ = export(single(Home(tmp_path / "home")), SWEEP, str(tmp_path / "one.db"))
    study = optuna.load_study(study_name=f"{SWEEP}/{CNN}", storage=url)
    pruned = study.trials[5]
    assert (pruned.state, pruned.intermediate_values) == (TrialState.PRUNED, {1: 0.9})
    assert study.trials[4].value == 0.1
    assert study.best_trial.number == 2  # the lower loss of point 4 breaks the constraint


def test_exporting_again_replaces_what_was_exported(tmp_path: Path) -> None:
    home = hunt(Home(tmp_path / "home"), mlp=[], confirm=False)
    path = tmp_path / "again.db"
    storage = f"sqlite:///{path}"
    own = optuna.create_study(storage=storage, study_name="my own")
    own.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    for to in (str(path), storage):
        export(home, SWEEP, to)
    assert sorted(optuna.get_all_study_names(storage)) == [f"{SWEEP}/{CNN}", "my own"]
    assert len(optuna.load_study(study_name=f"{SWEEP}/{CNN}", storage=storage).trials) == 9
    assert len(optuna.load_study(study_name="my own", storage=storage).trials) == 1


def test_a_study_that_sensweep_did_not_write_is_left_alone(home: Home, tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'theirs.db'}"
    optuna.create_study(storage=storage, study_name=f"{SWEEP}/{CNN}")
    with pytest.raises(InputError, match="that sensweep did not write; give --to another"):
        export(home, SWEEP, storage)


def test_no_other_file_is_written_into(home: Home, tmp_path: Path) -> None:
    database, text = tmp_path / "mlflow.db", tmp_path / "notes.txt"
    with sqlite3.connect(database) as connection:
        connection.execute("create table runs (id)")
    text.write_text("hello")
    for path in (database, text):
        before = path.read_bytes()
        with pytest.raises(InputError, match=r"is there and no Optuna storage: give --to another"):
            export(home, SWEEP, f"sqlite:///{path}")
        assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--to", "nowhere/optuna.db"], "no folder 'nowhere' for the Optuna storage"),
        (["--to", "odd://x:secret@y/z"], "cannot write to the Optuna storage odd://x:***@y/z"),
        (["--to", "in valid://"], "--to is not the URL of a database; wanted sqlite:///FILE"),
        (["--profile", "cup"], "no sweep hunt.cup in the home"),
    ],
)
def test_bad_input_is_one_line(
    home: Home,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    said: str,
) -> None:
    command = ["sensweep", "export-optuna", "hunt", "--home", str(home.path), *arguments]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.count("\n") == 1
    assert error.startswith("error: ")
    assert said in error
    assert "secret" not in error


def test_a_sweep_without_a_search_has_nothing_to_export(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with home.open_sweep(SWEEP, study={"study": {"study": "hunt"}}, owner="tester"):
        pass
    with pytest.raises(InputError, match=r"hunt\.cpu has no search with points"):
        export(home, SWEEP)


# ---- importance


def test_what_mattered_is_found_and_conditional_axes_are_told_apart(home: Home) -> None:
    found = importances(recorded_searches(home, SWEEP))
    assert {line["search"] for line in found} == {MLP}  # cnn has too few points
    loss = {(x["axis"], x["where"]): x["importance"] for x in found if x["objective"] == "loss"}
    assert loss.keys() == {
        ("kind", ""),
        ("strength", "kind noise"),
        ("strength", "kind penalty"),
    }
    assert sum(loss.values()) == pytest.approx(1)
    # With noise the loss is a bowl over its strength; that of the penalty changes nothing.
    assert max(loss, key=loss.__getitem__) == ("strength", "kind noise")
    assert loss["strength", "kind penalty"] < 0.01
    # The accuracy is the same everywhere, so nothing was important for it.
    assert {line["objective"] for line in found} == {"loss", "the front"}


def test_higher_is_better_where_the_search_maximises(tmp_path: Path) -> None:
    """Four points of weak noise stick out: upwards they are the best tenth, downwards no matter."""
    study: dict[str, Any] = copy.deepcopy(STUDY)
    study["search"]["objectives"] = study["search"]["objectives"][1:]
    study["search"]["constraints"] = []
    shares = []
    for sign in (1, -1):
        asks = [
            Ask(n, "complete", noise(n / 40) if n < 20 else penalty(0.1 + n / 50), [0.5])
            for n in range(40)
        ]
        for ask in asks[:4]:
            ask.values = [0.5 + 0.4 * sign]
        for ask in asks[4:]:
            ask.values = [0.5 + 0.001 * (ask.number * 7 % 36)]
        home = hunt(Home(tmp_path / str(sign)), study, cnn=asks, mlp=[], confirm=False)
        found = importances(recorded_searches(home, SWEEP))
        shares.append({(x["axis"], x["where"]): x["importance"] for x in found})
    assert shares[0]["strength", "kind noise"] > 0.8
    assert shares[1]["strength", "kind noise"] < 0.5


def test_the_report_is_given_the_importance(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    monkeypatch.setattr(report, "write_report", lambda *arguments: given.extend(arguments))
    report_sweep(home, SWEEP)
    assert given == [home, SWEEP, importances(recorded_searches(home, SWEEP))]


def test_the_baseline_is_a_point_of_its_own(cnn: optuna.Study) -> None:
    assert cnn.trials[0].user_attrs["labels"] == BASELINE
    assert cnn.trials[0].user_attrs["given"] == "enqueued"
