"""From `sensweep run` to the first trial running, with its parts.

    .venv/bin/python benchmarks/startup.py --repeats 3
    .venv/bin/python benchmarks/startup.py --json

Each repeat is a process of its own that starts a Ray of its own, as the command does.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time

CHILD = """
import json, sys, time
began = float(sys.argv[1])
marks = {}
def mark(name):
    marks[name] = time.time()
from sensweep.orchestrator.cli import cli
from sensweep.orchestrator.session import prepare
from sensweep.orchestrator.study import load_study
mark("python and imports")
study = load_study(sys.argv[2], "smoke")
prepared = prepare(study, sys.argv[3])
orders = prepared.orders({"study": study.to_dict(), "profile": "smoke"})
mark("read and plan the study")
from sensweep.clusters.local import LocalCluster
from sensweep.orchestrator.ray_driver import connected, running
from sensweep.results.store import Home
with connected(LocalCluster(2)):
    mark("start Ray")
    with running(orders) as finished:
        home = Home(sys.argv[3])
        while not (home.sweeps() and (home.live(study.sweep) or {}).get("order")):
            time.sleep(0.01)
        mark("start the driver")
        while not home.live(study.sweep).get("running"):
            time.sleep(0.01)
        mark("start a worker, dispatch the first trial")
        home.request_stop(study.sweep, "measured")
        finished.result(timeout=120)
parts, before = {}, began
for name, at in marks.items():
    parts[name], before = at - before, at
print(json.dumps(parts))
"""


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", default="quickstart")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    runs = []
    for _ in range(options.repeats):
        with tempfile.TemporaryDirectory() as home:
            done = subprocess.run(
                [sys.executable, "-c", CHILD, str(time.time()), options.study, home],
                capture_output=True,
                text=True,
                check=True,
            )
            runs.append(json.loads(done.stdout.splitlines()[-1]))
    parts = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    total = statistics.median(sum(run.values()) for run in runs)
    if options.json:
        print(json.dumps({"benchmark": "startup", "parts_s": parts, "total_s": total}))
        return
    for name, seconds in parts.items():
        print(f"{name:<44}{seconds:>8.2f} s")
    print(f"{'until the first trial runs (median)':<44}{total:>8.2f} s")


if __name__ == "__main__":
    main()
