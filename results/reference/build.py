"""Copy a sweep's committed rows, cells and figures into a small home of its own.

    sensweep run low_sensitivity --home runs/low_sensitivity
    python results/reference/build.py low_sensitivity --home runs/low_sensitivity

The home is written to results/reference/STUDY: the plan, attempts, measurements and asks of the
sweep's last driver, compacted; the study and the provenance that it recorded; cells and figures.
Checkpoints, logs and the page itself stay behind. Claims are evaluated on these rows:

    sensweep claims low_sensitivity --home results/reference/low_sensitivity --json
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

import pyarrow.compute as pc

from sensweep.results.cells import write_cells
from sensweep.results.report import write_report
from sensweep.results.store import Home

LARGEST = 10 * 10**6  # bytes


def build(source: Home, sweep: str, folder: Path) -> int:
    """Write the sweep's home to `folder`, which is replaced; return its size in bytes."""
    results = source.results()
    trials = results["trials"].filter(pc.equal(results["trials"]["sweep"], sweep))
    trials = trials.filter(pc.equal(trials["epoch"], pc.max(trials["epoch"]))).drop(["epoch"])
    planned = trials["trial_id"].combine_chunks()
    winners = results["winners"].filter(pc.is_in(results["winners"]["trial_id"], planned))
    won = winners.select(["trial_id", "sweep", "attempt"])
    attempts = results["attempts"].join(won, ["trial_id", "sweep", "attempt"], join_type="inner")
    failed = results["attempts"].filter(pc.equal(results["attempts"]["status"], "failed"))
    failed = failed.filter(
        pc.and_(
            pc.is_in(failed["trial_id"], planned),
            pc.invert(pc.is_in(failed["trial_id"], winners["trial_id"].combine_chunks())),
        )
    )
    measurements = results["measurements"]
    measurements = measurements.filter(pc.is_in(measurements["trial_id"], planned))
    asks = source.read("asks", [sweep])
    with tempfile.TemporaryDirectory() as scratch:
        home = Home(scratch)
        with home.open_sweep(sweep, owner="reference", study=source.study(sweep)) as writer:
            writer.commit({"trials": trials.drop(["sweep"])})
            for table in (attempts, failed):
                columns = [name for name in table.column_names if name not in ("sweep", "epoch")]
                rows = measurements.filter(
                    pc.is_in(measurements["trial_id"], table["trial_id"].combine_chunks())
                )
                final = {"measurements": rows} if table is attempts else {}
                writer.commit({"attempts": table.select(columns), **final})
            writer.commit({"asks": asks.drop(["sweep"])})
            writer.compact()
            writer.collect(grace_seconds=0.0)
        write_cells(home, sweep)
        page = write_report(home, sweep)
        for path in (page, page.with_name("claims.json")):  # both are made again from the rows
            path.unlink()
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(Path(scratch), folder)
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    """Build one reference home and say how large it is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("study")
    parser.add_argument("--home", default="runs")
    parser.add_argument("--profile", default="cpu")
    options = parser.parse_args()
    folder = Path(__file__).with_name(options.study)
    size = build(Home(options.home), f"{options.study}.{options.profile}", folder)
    print(f"{folder}: {size / 1e6:.1f} MB")
    if size > LARGEST:
        raise SystemExit(f"{folder} is larger than {LARGEST / 1e6:.0f} MB; keep fewer rows")


if __name__ == "__main__":
    main()
