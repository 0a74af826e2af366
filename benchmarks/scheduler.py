"""How many events a second the scheduler takes on one core, and in how much memory.

    python benchmarks/scheduler.py --trials 1000000 --workers 10000

Trains and their analyses (one of each per pair of trials, the analysis after its train), finished
in random order on workers that are always busy, with a timeout on each attempt. Goals: at least
20,000 trials a second, at most 1 GB for a million finished trials and 10,000 live ones.
"""

from __future__ import annotations

import json
import random
import resource
import statistics
import time

import click
import numpy as np

from sensweep.orchestrator.events import (
    Dispatch,
    Finished,
    NodeDown,
    NodeUp,
    StartWorker,
    WorkerReady,
)
from sensweep.orchestrator.nodes import Shape
from sensweep.orchestrator.policy import Group
from sensweep.orchestrator.scheduler import Scheduler


def rss() -> float:
    """Peak resident memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(trials: int, workers: int) -> dict[str, float]:
    """Run a sweep of `trials` trials on `workers` one-gpu workers, eight to a node."""
    before, draw = rss(), random.Random(0)
    scheduler, running, seconds = Scheduler(), [], []
    shape = Shape(1, 1, 10**9)
    train = scheduler.add_group(Group("train", shape, timeout_s=3600))
    score = scheduler.add_group(Group("score", shape, timeout_s=600))
    half = trials // 2
    started = time.process_time()
    offsets = np.concatenate([np.zeros(half, np.int64), np.arange(half + 1)])
    scheduler.add(
        0.0, np.repeat([train, score], half), (offsets, np.arange(half)), np.repeat([0, 1], half)
    )
    added = time.process_time()
    starts = []
    for node in range(-(-workers // 8)):
        starts += scheduler.handle(NodeUp(0.0, f"n{node}", 8, 8, 10**11))
    for command in starts:
        if isinstance(command, StartWorker):
            running += scheduler.handle(WorkerReady(0.0, command.worker))
    filled = time.process_time()
    done, now = 0, 0.0
    while running:
        # Any running attempt may be the next to finish.
        last = draw.randrange(len(running))
        running[last], running[-1] = running[-1], running[last]
        end = running.pop()
        now += 1e-3
        event = Finished(now, end.trial, end.attempt, end.worker, "done")
        begun = time.perf_counter()
        commands = scheduler.handle(event)
        scheduler.next_deadline()
        seconds.append(time.perf_counter() - begun)
        running += [command for command in commands if isinstance(command, Dispatch)]
        done += 1
    ran = time.process_time()
    assert scheduler.finished
    assert done == 2 * half
    for node in range(-(-workers // 8)):
        scheduler.handle(NodeDown(now, f"n{node}"))
    downed = time.process_time()
    return {
        "trials": done,
        "workers": workers,
        "plan_s": added - started,
        "start_workers_s": filled - added,
        "trials_per_s": done / (ran - filled),
        "event_us_median": statistics.median(seconds) * 1e6,
        "event_us_p99": statistics.quantiles(seconds, n=100)[98] * 1e6,
        "event_ms_max": max(seconds) * 1e3,
        "nodes_down_s": downed - ran,
        "peak_rss_mb": rss(),
        "rss_of_scheduler_mb": rss() - before,
    }


@click.command()
@click.option("--trials", default=100_000, show_default=True, help="Trials in the sweep.")
@click.option("--workers", default=1_000, show_default=True, help="Workers, eight to a node.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(trials: int, workers: int, as_json: bool) -> None:
    """Measure the scheduler alone: no Ray, no commits, no tasks."""
    figures = measure(trials, workers)
    if as_json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:22} {value:14,.6g}")


if __name__ == "__main__":
    main()
