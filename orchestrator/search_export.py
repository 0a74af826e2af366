"""Searches as a standard Optuna storage, for optuna-dashboard and Optuna's own plots.

The storage is a copy that can be written again at any time: sensweep reads the home alone.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from sensweep.orchestrator.errors import InputError
from sensweep.orchestrator.search_sampler import quiet
from sensweep.orchestrator.search_trials import RecordedSearch, recorded_searches
from sensweep.results.store import Home

OURS = "sensweep"  # the attribute that marks a study as an export
Times = Mapping[str, tuple[datetime, datetime]]


def export(home: Home, sweep: str, to: str | None = None) -> tuple[str, dict[str, int]]:
    """Write the searches of a sweep into an Optuna storage; those of an earlier export go.

    Each search becomes a study named `SWEEP/SEARCH`: directions, names of the objectives, and a
    trial for each ask with its parameters, distributions, values, constraints, values at rungs
    (with one objective), and as attributes its labels, our trial ids and why it failed.

    Args:
        home: the home.
        sweep: a sweep of it.
        to: the URL of an Optuna storage, or a path of an sqlite file; `HOME/optuna.db` by default.

    Returns:
        the storage's URL, without a password; the name of each study -> its number of trials.

    Raises:
        InputError: the sweep has no search, or the storage cannot be written.
        UnknownSweep: the home has no such sweep.
        StoreError: a file of the home is not what was committed.
    """
    to = to if to is not None else str(home.path / "optuna.db")
    url = to if "://" in to else f"sqlite:///{to}"
    shown = _checked(url)
    searches = recorded_searches(home, sweep)
    if not searches:
        raise InputError(f"{sweep} has no search with points; there is nothing to export")
    times = _times(home)
    try:
        with quiet():
            storage = optuna.storages.RDBStorage(url)
            _remove_earlier(storage, sweep)
            written = {}
            for search in searches:
                name = f"{sweep}/{search.searched.name}"
                written[name] = _write(storage, name, sweep, search, times)
    except (SQLAlchemyError, ImportError, RuntimeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"cannot write to the Optuna storage {shown}: {reason}") from None
    return shown, written


def _checked(url: str) -> str:
    """Return a storage's URL as it may be shown, without a password.

    Raises:
        InputError: it is no URL of a database, or names a file that is no Optuna storage.
    """
    try:
        parsed = make_url(url)
    except SQLAlchemyError:
        raise InputError(
            "--to is not the URL of a database; wanted sqlite:///FILE, the path of a file, or the "
            "URL of another database"
        ) from None
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        _check_sqlite(Path(parsed.database))
    return parsed.render_as_string(hide_password=True)


def _check_sqlite(path: Path) -> None:
    """Refuse a file that is there and no Optuna storage: its tables must not mix with others.

    Raises:
        InputError: with what it is.
    """
    if not path.parent.is_dir():
        raise InputError(f"no folder {str(path.parent)!r} for the Optuna storage; make it first")
    if not path.exists() or path.stat().st_size == 0:
        return
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            listed = connection.execute("select name from sqlite_master where type = 'table'")
            tables = {name for (name,) in listed}
    except sqlite3.Error:
        tables = {"?"}
    if tables and not {"studies", "trials", "version_info"} <= tables:
        raise InputError(
            f"{str(path)!r} is there and no Optuna storage: give --to another file, "
            "such as --to optuna.db"
        )


def _remove_earlier(storage: optuna.storages.RDBStorage, sweep: str) -> None:
    """Remove what was exported of the sweep before, that of searches it no longer has included.

    Raises:
        InputError: a study has such a name, and sensweep did not write it.
    """
    for study in storage.get_all_studies():
        if study.study_name.startswith(f"{sweep}/"):
            if OURS not in study.user_attrs:
                raise InputError(
                    f"the storage has a study {study.study_name!r} that sensweep did not write; "
                    "give --to another storage"
                )
            storage.delete_study(study._study_id)


def _write(
    storage: optuna.storages.RDBStorage, name: str, sweep: str, search: RecordedSearch, times: Times
) -> int:
    """Write one search as a study; return its number of trials."""
    searched = search.searched
    study = optuna.create_study(
        storage=storage, study_name=name, directions=list(searched.directions)
    )
    study.set_metric_names(list(searched.objectives))
    spec = search.spec.model_dump(mode="json", include={"sampler", "objectives", "constraints"})
    study.set_user_attr(OURS, {"sweep": sweep, "search": searched.name, **spec})
    study.set_user_attr("cell", searched.cell)
    trials = search.trials()
    for trial in trials:
        _set_times(trial, trial.user_attrs.get("trial_ids", ()), times)
    study.add_trials(trials)
    return len(trials)


def _set_times(trial: optuna.trial.FrozenTrial, trial_ids: Iterable[str], times: Times) -> None:
    """Give a trial the time from the first start to the last end of our trials that answer it."""
    known = [times[trial_id] for trial_id in trial_ids if trial_id in times]
    if known:
        trial.datetime_start = min(start for start, _ in known)
        if trial.state.is_finished():
            trial.datetime_complete = max(end for _, end in known)


def _times(home: Home) -> Times:
    """Read when each trial of the home started and ended; local times, as Optuna has them."""
    columns = ["trial_id", "started", "seconds"]
    found: dict[str, tuple[datetime, datetime]] = {}
    attempts: list[dict[str, Any]] = home.read("attempts", columns=columns).to_pylist()
    for attempt in attempts:
        start = attempt["started"].astimezone().replace(tzinfo=None)
        end = start + timedelta(seconds=attempt["seconds"])
        first, last = found.get(attempt["trial_id"], (start, end))
        found[attempt["trial_id"]] = min(first, start), max(last, end)
    return found
