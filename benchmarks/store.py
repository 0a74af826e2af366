"""How fast the store commits and reads: python benchmarks/store.py [--json] [--folder DIR]

A commit is durable: its parts, its log entry and their folders are synced before it returns. The
yardstick is one exclusively created, synced file on the same disk: no commit can be faster.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from sensweep.results.files import LocalFiles
from sensweep.results.store import Home
from sensweep.results.writer import SweepWriter

SWEEP = "benchmark.cpu"


def trial_batch(first: int, trials: int, rows: int) -> dict[str, dict[str, list[object]]]:
    """Make what a driver commits for finished trials: one attempt and `rows` measurements each."""
    names = [f"{first + number:024x}" for number in range(trials)]
    constant: dict[str, object] = {
        "attempt": 1,
        "status": "done",
        "error": None,
        "traceback": None,
        "host": "node-17",
        "worker": "worker-3",
        "started": datetime.now(UTC),
        "queued_s": 0.1,
        "seconds": 12.5,
        "cpu_seconds": 12.25,
        "peak_rss_bytes": 600_000_000,
        "resources": '{"cpus":1}',
        "artifacts": "[]",
        "rows": rows,
    }
    attempts = {name: [value] * trials for name, value in constant.items()}
    attempts |= {"trial_id": names, "log": [f"logs/{SWEEP}/{name}.1.log" for name in names]}
    measurements = {
        "trial_id": [name for name in names for _ in range(rows)],
        "seq": list(range(rows)) * trials,
        "name": ["train_loss"] * (rows * trials),
        "value": [1 / (2 + first + number) for number in range(rows * trials)],
        "step": list(range(1, rows + 1)) * trials,
        "unit": ["nats"] * (rows * trials),
        "coordinates": ['{"sigma":0.1,"split":"train"}'] * (rows * trials),
    }
    return {"attempts": attempts, "measurements": measurements}


def timed(call: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def bare_creations(folder: Path, count: int) -> float:
    """Return the median seconds of an exclusive, durable creation of 1 kB."""
    files = LocalFiles(folder)
    data = [f"{number:01000d}".encode() for number in range(count)]
    return statistics.median(
        timed(lambda number=number: files.create_exclusive(f"bare/{number}", data[number]))
        for number in range(count)
    )


def commits(
    writer: SweepWriter, first: int, count: int, trials: int, rows: int
) -> dict[str, float]:
    """Commit `count` batches and describe how long they took."""
    batches = [trial_batch(first + number * trials, trials, rows) for number in range(count)]
    times = sorted(timed(lambda batch=batch: writer.commit(batch)) for batch in batches)
    return {
        "trials": trials,
        "rows": trials * rows,
        "p50_ms": 1e3 * statistics.median(times),
        "p99_ms": 1e3 * times[int(0.99 * (count - 1))],
        "commits_per_s": count / sum(times),
        "rows_per_s": count * trials * rows / sum(times),
    }


def measure(folder: Path, count: int) -> dict[str, object]:
    """Run the whole benchmark in `folder`."""
    home = Home(folder)
    writer = home.open_sweep(SWEEP, study={"study": "benchmark"})
    commits(writer, 0, 5, 1, 20)  # imports and first folders
    result: dict[str, object] = {
        "bare_creation_ms": 1e3 * bare_creations(folder, count),
        "commits": [
            commits(writer, 10**6, count, 1, 20),
            commits(writer, 2 * 10**6, count, 10, 20),
            commits(writer, 3 * 10**6, max(5, count // 10), 200, 50),
        ],
        "entries": writer.state.generation,
    }
    rows = home.read("measurements").num_rows
    result["rows"] = rows
    result["cold_read_s"] = timed(lambda: Home(folder).read("measurements"))
    result["log_read_s"] = timed(lambda: Home(folder).manifest(SWEEP))
    result["compact_s"] = timed(writer.compact)
    result["compacted_read_s"] = timed(lambda: Home(folder).read("measurements"))
    result["done_s"] = timed(lambda: Home(folder).done())
    writer.close()
    result["reopen_s"] = timed(lambda: home.open_sweep(SWEEP, study={}).close())
    result["peak_rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return result


def table(result: dict) -> str:
    """Lay the result out for people."""
    lines = [f"{'commit of':<26}{'p50 ms':>9}{'p99 ms':>9}{'commits/s':>11}{'rows/s':>10}"]
    for line in result["commits"]:
        name = f"{line['trials']} trials, {line['rows']} rows"
        lines.append(
            f"{name:<26}{line['p50_ms']:9.2f}{line['p99_ms']:9.2f}"
            f"{line['commits_per_s']:11.0f}{line['rows_per_s']:10.0f}"
        )
    lines.append(f"{'one bare durable file':<26}{result['bare_creation_ms']:9.2f}")
    lines.append(
        f"\n{result['rows']} rows in {result['entries']} entries: log {result['log_read_s']:.3f} s,"
        f" rows {result['cold_read_s']:.3f} s; compaction {result['compact_s']:.3f} s, then"
        f" rows {result['compacted_read_s']:.3f} s, winners {result['done_s']:.3f} s,"
        f" reopening {result['reopen_s']:.3f} s; peak memory {result['peak_rss_mb']:.0f} MB"
    )
    return "\n".join(lines)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--folder", help="a folder on the disk to measure (default: temporary)")
    parser.add_argument("--commits", type=int, default=200, help="commits of each small size")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        result = measure(Path(folder), options.commits)
    print(json.dumps(result) if options.json else table(result))


if __name__ == "__main__":
    main()
