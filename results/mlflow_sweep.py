"""What the MLflow mirror says of a sweep as a whole: its run's text, and the files attached."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.csv
import pyarrow.parquet

from sensweep.results.cells import cells_of
from sensweep.results.mlflow_runs import MOST_TEXT, STATUS, digest, safe_name

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from sensweep.results.store import Home


@dataclass(frozen=True)
class SweepText:
    """The run of a sweep as MLflow will show it.

    Attributes:
        name: the sweep.
        status: RUNNING until its driver has ended it; then FINISHED, FAILED where a trial has,
            KILLED where trials are left to be run.
        started, ended: of its attempts, milliseconds since 1970.
        step: generation of the sweep's log, so that the newest verdicts come last in MLflow.
        metrics: trials by status; estimate, ends of the interval and p-value of each claim.
        tags: study, origin, and the verdict on each claim.
    """

    name: str
    status: str
    started: int
    ended: int
    step: int
    metrics: dict[str, float]
    tags: dict[str, str]

    def digest(self, folder: Path) -> str:
        """Identify all of it, and the files in `folder`, but not the step."""
        files = {
            str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        return digest([{**asdict(self), "step": 0}, files])


def sweep_text(home: Home, connection: DuckDBPyConnection, sweep: str) -> SweepText:
    """Make the text of a sweep.

    Args:
        home: its home.
        connection: of `views.connect` for that home.
        sweep: the sweep.
    """
    record: dict[str, Any] = home.study(sweep)
    study, origin = record["study"], record.get("provenance", {})
    counts = dict(
        connection.execute(
            "select status, count(*) from trials where sweep = ? and current group by all", [sweep]
        ).fetchall()
    )
    started, ended = connection.execute(
        "select min(epoch_ms(started)), max(epoch_ms(started) + (1000 * seconds)::bigint) "
        "from attempts where sweep = ?",
        [sweep],
    ).fetchall()[0]
    state = home.manifest(sweep)
    claims = (
        connection.sql("from claims where sweep = ?", params=[sweep]).to_arrow_table().to_pylist()
    )
    # All of them, for MLflow would go on showing a number that is gone.
    metrics = {f"trials.{status}": float(counts.get(status, 0)) for status in (*STATUS, "pending")}
    for claim in claims:
        for part in ("estimate", "low", "high", "p_value"):
            if claim[part] is not None:
                metrics[f"{_claim_name(claim)}.{part}"] = claim[part]
    tags = {
        "sensweep.kind": "sweep",
        "sensweep.question": study.get("question", ""),
        "sensweep.home": str(home.path.resolve()),
        "mlflow.source.git.commit": origin.get("git_commit") or "",
        "mlflow.note.content": _note(study, claims),
        "sweep": sweep,
        "study": study["study"],
        "profile": record.get("profile", ""),
    }
    tags |= {_claim_name(claim): _verdict(claim) for claim in claims}
    return SweepText(
        name=sweep,
        status=_status(state.closed, counts),
        started=started or 0,
        ended=ended or 0,
        step=state.generation,
        metrics=metrics,
        tags={key: value[:MOST_TEXT] for key, value in tags.items() if value},
    )


def write_artifacts(
    home: Home,
    connection: DuckDBPyConnection,
    sweep: str,
    folder: Path,
    artifacts: Sequence[str | Path],
) -> None:
    """Gather in `folder` what the sweep's run carries: cells, study, report, and `artifacts`."""
    cells = cells_of(connection, sweep)
    pyarrow.parquet.write_table(cells, folder / "cells.parquet")
    pyarrow.csv.write_csv(cells, folder / "cells.csv")  # MLflow shows it as a table
    study = json.dumps(home.study(sweep), indent=2, ensure_ascii=False)
    (folder / "study.json").write_text(study, encoding="utf-8")
    report = home.path / "sweeps" / sweep / "report"
    if report.is_dir():
        shutil.copytree(report, folder / "report")
    for path in map(Path, artifacts):
        (folder / "files").mkdir(exist_ok=True)
        shutil.copy(path, folder / "files")


def _status(closed: bool, counts: dict[str, int]) -> str:
    if not closed:
        return "RUNNING"
    if counts.get("failed") or counts.get("skipped"):
        return "FAILED"
    return "KILLED" if counts.get("pending") else "FINISHED"


def _claim_name(claim: dict[str, Any]) -> str:
    """Write `1.1[sigma=0.1,than arch=mlp]` as `claim.1.1 sigma_0.1 than arch_mlp`."""
    plain = str.maketrans({"[": " ", "]": None, "=": "_", ",": " "})
    return safe_name(f"claim.{claim['key'].translate(plain)}")


def _verdict(claim: dict[str, Any]) -> str:
    verdict = claim["verdict"] or "described"
    if claim["estimate"] is None:
        return f"{verdict}: {claim['reason'] or 'no estimate'}"
    interval = "" if claim["low"] is None else f" [{claim['low']:.4g}, {claim['high']:.4g}]"
    return f"{verdict}: {claim['estimate']:.4g}{interval}"


def _note(study: dict[str, Any], claims: list[dict[str, Any]]) -> str:
    """Write the description that MLflow shows above the sweep's run, in Markdown."""
    lines = [f"- {claim['key']} {claim['statement']}: **{_verdict(claim)}**" for claim in claims]
    return "\n".join([study.get("question", ""), "", *lines]).strip()
