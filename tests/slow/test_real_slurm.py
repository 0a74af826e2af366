"""A real Slurm and a real Ray on this machine: submit, stop before a limit, requeue, finish."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

MISSING = [name for name in ("slurmctld", "slurmd", "munged", "unshare") if not shutil.which(name)]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for namespaces"),
    pytest.mark.skipif(
        bool(MISSING), reason=f"apt-get install slurm-wlm munge: {', '.join(MISSING)} not found"
    ),
]
STUDY = """
    study: slow
    seeds: 30
    stages:
      toy: {task: toy, params: {steps: 10, sleep: 0.1}}
"""
# Inside the namespaces: submit, submit again, warn the job as its time limit would, wait.
LIFE = """
    set -eu
    job() { sensweep job status slow --home runs --json | python -c "$1"; }
    state='import json, sys; print(json.load(sys.stdin)["state"])'
    done='import json, sys; print(json.load(sys.stdin)["stages"]["toy"].get("done", 0))'
    sensweep submit slow.yaml --cluster lab.yaml --home runs
    sensweep submit slow.yaml --cluster lab.yaml --home runs | grep joined
    trials() { sensweep status slow --home runs --json | python -c "$done"; }
    until n="$(trials 2>/dev/null)" && [ "$n" -gt 2 ]; do sleep 1; done
    scancel --batch --signal=TERM "$(squeue --noheader --format=%i)"
    until sensweep job logs slow --home runs | grep requeued; do sleep 1; done
    until [ "$(job "$state")" = ended ] || [ "$(job "$state")" = failed ]; do sleep 2; done
    sensweep job status slow --home runs
    sensweep job logs slow --home runs
"""


def test_a_job_that_must_stop_is_requeued_and_finishes(
    write: Callable[[str, str], Path], tmp_path: Path
) -> None:
    from sensweep.results.store import Home

    write("slow.yaml", STUDY)
    write("lab.yaml", "kind: slurm\ncpus: 2\ntime: 30\ngrace: 60\n")
    life = write("life.sh", LIFE)
    (tmp_path / "slurm").mkdir()
    script = Path(__file__).with_name("real_slurm.sh")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", str(script), str(tmp_path / "slurm"), "bash", str(life)],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=600,
    )
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    home = Home(tmp_path / "runs")
    assert home.manifest("slow.cpu").epoch == 2  # one driver before the requeue, one after
    winners = home.done()
    assert winners.num_rows == 30
    assert set(winners["status"].to_pylist()) == {"done"}
