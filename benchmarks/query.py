"""How long answers take: a home of many rows, its views, cells, and its mirror in MLflow.

python benchmarks/query.py --rows 1000000 --runs 200
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from sensweep.results.cells import write_cells
from sensweep.results.mlflow_mirror import mirror
from sensweep.results.queries import connect, query
from sensweep.results.schema import canonical_json
from sensweep.results.store import Home

ROWS_PER_TRIAL = 50  # 10 epochs of 4 curves, and sensitivity at 10 noise sizes
SEEDS = 5
ARCHS = ("vit", "mlp", "cnn", "mixer")
QUESTIONS = {
    "count": "select count(*) as n from rows",
    "mean_by_arch": "select arch, avg(value) as m from rows where name = 'accuracy' group by arch",
    "curve": "select arch, sigma, avg(value) as m from rows where sigma > 0.01 group by all",
    "cells": "select count(*) as n, avg(high - low) as width from cells",
    "trials": "select status, count(*) as n from trials group by status",
    "hundred_thousand_lines": "select * from rows limit 100000",
}


def fill(home: Home, sweep: str, trials: int) -> None:
    """Commit a sweep of finished trials with ROWS_PER_TRIAL rows each."""
    ids = [hashlib.sha256(f"{sweep}/{i}".encode()).hexdigest()[:24] for i in range(trials)]
    points = [
        {"arch": ARCHS[i // SEEDS % 4], "strength": i // SEEDS // 4 * 0.01} for i in range(trials)
    ]
    cells = [hashlib.sha256(canonical_json(p).encode()).hexdigest()[:16] for p in points]
    params = [canonical_json({**point, "epochs": 10, "lr": 0.001}) for point in points]
    same = {"stage": "train", "task": "toy:toy", "parents": "[]", "code": "c", "code_files": "{}"}
    planned: dict[str, list[object]] = {name: [value] * trials for name, value in same.items()}
    planned |= {
        "trial_id": list(ids),
        "point": [canonical_json(point) for point in points],
        "params": list(params),
        "seed": [i % SEEDS for i in range(trials)],
        "data": ["{}"] * trials,
        "cell": list(cells),
    }
    constant = {"attempt": 1, "status": "done", "error": None, "traceback": None, "log": "x.log"}
    constant |= {"host": "h", "worker": "w", "started": 1_700_000_000_000_000, "queued_s": 0.1}
    constant |= {"seconds": 1.0, "cpu_seconds": 1.0, "peak_rss_bytes": 1, "resources": "{}"}
    constant |= {"artifacts": "[]", "rows": ROWS_PER_TRIAL}
    attempts: dict[str, list[object]] = {name: [value] * trials for name, value in constant.items()}
    curves = [("accuracy", "1"), ("loss", "nats"), ("entropy", "nats"), ("norm", "1")]
    rows = [(name, step, unit, "{}") for name, unit in curves for step in range(1, 11)]
    rows += [
        ("sensitivity", 10, "1", canonical_json({"sigma": 0.01 * i, "split": "train"}))
        for i in range(1, 11)
    ]
    names, steps, units, coordinates = (list(column) for column in zip(*rows, strict=True))
    measurements = {
        "trial_id": np.repeat(ids, ROWS_PER_TRIAL).tolist(),
        "seq": list(range(ROWS_PER_TRIAL)) * trials,
        "name": names * trials,
        "value": np.random.default_rng(0).random(trials * ROWS_PER_TRIAL),
        "step": steps * trials,
        "unit": units * trials,
        "coordinates": coordinates * trials,
    }
    with home.open_sweep(sweep, study={"study": {"study": "benchmark"}}, owner="bench") as writer:
        writer.commit({"trials": planned})
        writer.commit(
            {"attempts": {"trial_id": list(ids), **attempts}, "measurements": measurements}
        )


def seconds(action: Callable[[], object], repeats: int = 3) -> float:
    """Return the median time of some calls."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def measure(rows: int, runs: int) -> dict[str, float]:
    """Measure everything; times in seconds, those of the mirror per trial."""
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder) / "large")
        fill(home, "large.cpu", rows // ROWS_PER_TRIAL)
        found = {"rows": float(rows), "connect": seconds(lambda: connect(home, ()).close())}
        for name, sql in QUESTIONS.items():
            found[f"query_{name}"] = seconds(lambda sql=sql: query(home, sql))  # type: ignore[misc]
        found["write_cells"] = seconds(lambda: write_cells(home, "large.cpu"), 1)
        if runs:
            small = Home(Path(folder) / "small")
            fill(small, "first.cpu", 1)
            mirror(small, "first.cpu")  # makes the database
            fill(small, "small.cpu", runs)
            found["mirrored_runs"] = float(runs)
            found["mirror_per_run"] = mirror(small, "small.cpu").seconds / runs
            found["mirror_again_per_run"] = mirror(small, "small.cpu").seconds / runs
    return found


def main() -> None:
    """Print one line per measurement, or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="measurements in the home")
    parser.add_argument("--runs", type=int, default=200, help="trials to mirror; 0 for none")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    found = measure(arguments.rows, arguments.runs)
    if arguments.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:34}{value:12,.0f}" if value >= 100 else f"{name:34}{value:12.4f} s")


if __name__ == "__main__":
    main()
