"""The MLflow mirror: what a home has committed, shown in MLflow, as often as one likes.

    mirror(Home("runs"), "quickstart.cpu")      # into HOME/mlflow.db
    mlflow server --backend-store-uri sqlite:///$PWD/runs/mlflow.db

An experiment per study; in it a parent run per sweep with its cells, study, report and verdicts,
and below that a run per trial. Nothing reads the mirror, so it may be deleted and made anew. Runs
are found again by their tags, and those that would not change are left alone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from sensweep.results.mlflow_runs import RunText, digest, run_texts
from sensweep.results.mlflow_sweep import SweepText, sweep_text, write_artifacts
from sensweep.results.views import connect

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

    from sensweep.results.store import Home

# MLflow's own patience with a server that is down is 247 s. The first request shows whether it is
# there, and the later ones bear a busy one. What the user has set himself counts more.
_ALWAYS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_FIRST = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "4", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
_LATER = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "30", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}

#: Ports of database servers, which MLflow would try to reach for 100 s.
_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}

# Per request. MLflow's limits are 1000 in all, 100 parameters, 100 tags, and 1 MB.
_METRICS, _PARAMS, _TAGS = 800, 50, 50

# Write-ahead logging makes a run a quarter cheaper; on a network's file system it is unsafe.
_LOCAL = {"apfs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "ntfs", "overlay", "tmpfs", "xfs", "zfs"}


class MirrorError(Exception):
    """MLflow cannot be written, in one line. The home still has everything."""


@dataclass(frozen=True)
class MirrorReport:
    """What a mirroring did.

    Attributes:
        tracking_uri: where MLflow's data are, without a password.
        experiment: the experiment's name.
        run_id: the sweep's run.
        created, updated, unchanged: numbers of trials' runs.
        seconds: how long it took.
    """

    tracking_uri: str
    experiment: str
    run_id: str
    created: int
    updated: int
    unchanged: int
    seconds: float


def mirror(
    home: Home,
    sweep: str,
    tracking_uri: str | None = None,
    artifacts: Sequence[str | Path] = (),
) -> MirrorReport:
    """Make MLflow show what is committed of a sweep. Doing it twice changes nothing.

    Args:
        home: the home.
        sweep: the sweep; it may be running.
        tracking_uri: an MLflow server or database; by default `HOME/mlflow.db`, with artifacts in
            `HOME/mlartifacts`.
        artifacts: files to attach to the sweep's run, beside its report.

    Raises:
        MirrorError: MLflow cannot be written, or a file of `artifacts` is missing.
        UnknownSweep: the home has no such sweep.
        StoreError: a file of the home is not what was committed.
    """
    start = time.perf_counter()
    for path in map(Path, artifacts):
        if not path.is_file():
            raise MirrorError(f"there is no file {path} to attach to the sweep's run")
    # The sweep's first epoch tells it from a sweep of the same name in another home.
    identity = digest(asdict(home.manifest(sweep).epochs[0]))
    experiment = str(home.study(sweep)["study"]["study"])  # type: ignore[index]
    uri = tracking_uri or f"sqlite:///{home.path.resolve()}/mlflow.db"
    place = None if tracking_uri else home.path.resolve() / "mlartifacts"
    with _environment(_ALWAYS), _quiet():
        with _one_line(uri), _environment(_FIRST):
            _reach(uri, write_ahead=tracking_uri is None)
            client, experiment_id = _open(uri, experiment, place)
        with connect(home) as connection, tempfile.TemporaryDirectory() as folder:
            parent, texts = sweep_text(home, connection, sweep), run_texts(connection, sweep)
            write_artifacts(home, connection, sweep, Path(folder), artifacts)
            with _one_line(uri), _environment(_LATER):
                run_id = _put_parent(client, experiment_id, identity, parent, Path(folder))
                counts = _put_trials(client, experiment_id, run_id, texts)
    seconds = time.perf_counter() - start
    return MirrorReport(_public(uri), experiment, run_id, *counts, seconds)


def _put_parent(
    client: MlflowClient, experiment_id: str, identity: str, text: SweepText, folder: Path
) -> str:
    """Create or update the sweep's run; return its id."""
    tags = {**text.tags, "sensweep.identity": identity}
    wanted = f"tags.`sensweep.identity` = '{identity}' and tags.`sensweep.kind` = 'sweep'"
    found = _search(client, experiment_id, wanted)
    run = min(found, key=lambda each: str(each.info.run_id), default=None)
    if run is not None:
        if run.data.tags.get("sensweep.digest") == text.digest(folder):
            return str(run.info.run_id)
        _drop_stale_tags(client, run, tags)
    else:
        first = {name: tags[name] for name in ("sensweep.kind", "sensweep.identity")}
        run = client.create_run(experiment_id, text.started, first, text.name)
    run_id = str(run.info.run_id)
    client.log_artifacts(run_id, str(folder))
    if text.status == "RUNNING":
        client.update_run(run_id, status=text.status)
    else:
        client.set_terminated(run_id, text.status, text.ended)
    metrics = [(name, value, text.step) for name, value in text.metrics.items()]
    tags["sensweep.digest"] = text.digest(folder)
    _log(client, run_id, text.ended, metrics, {}, tags)
    return run_id


def _put_trials(
    client: MlflowClient, experiment_id: str, parent: str, texts: Sequence[RunText]
) -> tuple[int, int, int]:
    """Create or update the trials' runs; return how many were created, updated, left alone."""
    there: dict[tuple[str, ...], Run] = {}
    for run in _search(client, experiment_id, f"tags.`mlflow.parentRunId` = '{parent}'"):
        tags = run.data.tags
        key = tuple(tags.get(name, "") for name in ("sensweep.trial_id", "stage", "sensweep.cell"))
        if key in there:  # two mirrorings at the same time
            client.delete_run(run.info.run_id)
        there.setdefault(key, run)
    created = updated = 0
    for text in texts:
        known = there.get((text.trial_id, text.stage, text.cell))
        if known is None:
            _create(client, experiment_id, parent, text)
            created += 1
        elif known.data.tags.get("sensweep.digest") != text.digest:
            _update(client, experiment_id, parent, text, known)
            updated += 1
    return created, updated, len(texts) - created - updated


def _create(client: MlflowClient, experiment_id: str, parent: str, text: RunText) -> None:
    tags = {**text.tags, "mlflow.parentRunId": parent}
    run = client.create_run(experiment_id, text.started, tags=tags, run_name=text.name)
    client.set_terminated(run.info.run_id, text.status, text.ended)
    _log(client, run.info.run_id, text.ended, text.metrics, text.params, _digests(text))


def _update(client: MlflowClient, experiment_id: str, parent: str, text: RunText, run: Run) -> None:
    """Bring a run up to date: in place if only names, tags or new parameters came.

    MLflow adds metrics and never replaces them, so a run with others, and one that an
    interrupted mirroring left half written, is deleted (which MLflow can undo) and made anew.
    """
    known = run.data.params
    same = all(known.get(key, value) == value for key, value in text.params.items())
    if not same or run.data.tags.get("sensweep.core") != text.core:
        client.delete_run(run.info.run_id)
        _create(client, experiment_id, parent, text)
        return
    _drop_stale_tags(client, run, text.tags)
    client.update_run(run.info.run_id, name=text.name)
    added = {key: value for key, value in text.params.items() if key not in known}
    _log(client, run.info.run_id, text.ended, [], added, {**text.tags, **_digests(text)})


def _digests(text: RunText) -> dict[str, str]:
    """Make the tags that are written last: they say that the run is whole."""
    return {"sensweep.core": text.core, "sensweep.digest": text.digest}


def _drop_stale_tags(client: MlflowClient, run: Run, tags: Mapping[str, str]) -> None:
    for name in run.data.tags:
        if name.startswith(("sensweep.", "claim.")) and name not in tags:
            client.delete_tag(run.info.run_id, name)


def _log(
    client: MlflowClient,
    run_id: str,
    timestamp: int,
    metrics: Sequence[tuple[str, float, int]],
    params: Mapping[str, str],
    tags: Mapping[str, str],
) -> None:
    """Log in as few requests as MLflow's limits allow, the last tags in the last one."""
    from mlflow.entities import Metric, Param, RunTag

    all_metrics = [Metric(name, value, timestamp, step) for name, value, step in metrics]
    all_params = [Param(name, value) for name, value in params.items()]
    all_tags = [RunTag(name, value) for name, value in tags.items()]
    parts = [
        (len(all_metrics), _METRICS),
        (len(all_params), _PARAMS),
        (len(all_tags), _TAGS),
    ]
    requests = max(-(-count // size) for count, size in parts)
    late = requests - -(-len(all_tags) // _TAGS)
    for i in range(requests):
        client.log_batch(
            run_id,
            metrics=all_metrics[i * _METRICS : (i + 1) * _METRICS],
            params=all_params[i * _PARAMS : (i + 1) * _PARAMS],
            tags=all_tags[max(i - late, 0) * _TAGS : max(i - late + 1, 0) * _TAGS],
        )


def _search(client: MlflowClient, experiment_id: str, wanted: str) -> list[Run]:
    found: list[Run] = []
    token: str | None = None
    while True:
        page = client.search_runs([experiment_id], wanted, max_results=1000, page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def _open(uri: str, experiment: str, place: Path | None) -> tuple[MlflowClient, str]:
    """Return a client and the id of the experiment, which is made if it is not there."""
    import mlflow

    client = mlflow.MlflowClient(uri)
    found = client.get_experiment_by_name(experiment)
    if found is None:
        try:
            return client, client.create_experiment(experiment, str(place) if place else None)
        except mlflow.MlflowException:
            found = client.get_experiment_by_name(experiment)  # another mirroring was faster
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        raise MirrorError(
            f"the experiment {experiment} at {_public(uri)} is deleted: restore it with "
            f"`mlflow experiments restore -x {found.experiment_id}`"
        )
    return client, found.experiment_id


def _reach(uri: str, *, write_ahead: bool) -> None:
    """Find out at once that a database cannot be reached, where MLflow tries for 100 s."""
    parts = urlsplit(uri)
    kind = parts.scheme.partition("+")[0]
    if kind == "sqlite":
        path = Path(parts.path[1:])
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.execute("pragma schema_version")
            if write_ahead and _is_local(path.parent):
                database.execute("pragma journal_mode = wal")
    elif kind in _PORTS and parts.hostname:
        socket.create_connection((parts.hostname, parts.port or _PORTS[kind]), 4).close()


def _is_local(folder: Path) -> bool:
    import psutil

    above = [
        part for part in psutil.disk_partitions(all=True) if folder.is_relative_to(part.mountpoint)
    ]
    return bool(above) and max(above, key=lambda part: len(part.mountpoint)).fstype in _LOCAL


@contextlib.contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for a while, except those that are set already."""
    added = {name: value for name, value in settings.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep MLflow from reporting migrations and retries; what matters comes as an error."""
    import mlflow  # noqa: F401  (it sets its logger's level when it is imported)

    logger = logging.getLogger("mlflow")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _one_line(uri: str) -> Iterator[None]:
    """Turn what MLflow, its database or the network raise into one line."""
    import mlflow
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (mlflow.MlflowException, SQLAlchemyError, sqlite3.Error, OSError) as error:
        text = _public(str(error)).strip() or type(error).__name__
        # The cause of a failed request stands in the middle of a long line.
        cause = re.search(r"\[Errno -?\d+\] [^\"'()]+|timed out", text)
        reason = cause[0] if cause else re.split(r"\. |\n", text)[0][:300]
        raise MirrorError(
            f"MLflow at {_public(uri)} cannot be written: {reason}; the results are safe in their "
            "home, so mirror again when it is there"
        ) from None


def _public(text: str) -> str:
    """Leave out user names and passwords of addresses."""
    return re.sub(r"//[^/@\s]+@", "//", text)
