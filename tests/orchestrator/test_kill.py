"""SIGKILL of the command and of every process it started, at random moments; then resume."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from sensweep.results.queries import query
from sensweep.results.store import Home

STUDY = """
    study: bowl
    seeds: {seeds}
    axes: {{x: [0.0, 0.5, 1.0, 1.5]}}
    stages:
      toy: {{task: toy, params: {{steps: 3, sleep: 0.02}}}}
      after: {{task: toy, needs: toy@every:2, params: {{x: 3.0}}}}
"""


def command(study: Path, home: Path) -> list[str]:
    script = Path(sys.executable).with_name("sensweep")
    return [str(script), "run", str(study), "--home", str(home), "--cpus", "2"]


def kill_all(process: subprocess.Popen[bytes]) -> int:
    """Kill the process and all that it started, found by pid; return how many there were."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for member in family:
        member.suspend()  # so that none can tidy up after another
    for member in family:
        member.kill()
    process.wait()
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive
    return len(family)


def run_and_kill(study: Path, home: Path, moment: float) -> int:
    """Start the sweep, wait `moment` seconds from when its driver opened it, kill everything."""
    epoch = Home(home).manifest("bowl.cpu").epoch if Home(home).sweeps() else 0
    process = subprocess.Popen(
        command(study, home), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if Home(home).sweeps() and Home(home).manifest("bowl.cpu").epoch > epoch:
            break
        time.sleep(0.05)
    time.sleep(moment)
    assert process.poll() is None, "the sweep ended before it could be killed"
    return kill_all(process)


def survives(write: Callable[[str, str], Path], tmp_path: Path, kills: int, seeds: int) -> None:
    study = write("bowl.yaml", STUDY.format(seeds=seeds))
    undisturbed, home = tmp_path / "undisturbed", tmp_path / "home"
    subprocess.run(command(study, undisturbed), check=True, capture_output=True, timeout=300)
    moments = random.Random(20261121)
    committed = 0
    for _ in range(kills):
        assert run_and_kill(study, home, moments.uniform(0.0, 5.0)) > 5
        now = Home(home).read("measurements").num_rows
        assert now >= committed  # what was committed stays
        committed = now
    done = subprocess.run(command(study, home), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert Home(home).canonical() == Home(undisturbed).canonical()
    double = "select trial_id, seq from rows group by all having count(*) > 1"
    assert query(Home(home), double) == []
    assert query(Home(home), "select count(*) as n from trials where status = 'done'") == [
        {"n": 8 * seeds}
    ]
    print(f"{kills} kills, {committed} rows committed before the last one: none lost, none double")


def test_two_kills_lose_nothing(write: Callable[[str, str], Path], tmp_path: Path) -> None:
    survives(write, tmp_path, kills=2, seeds=60)


@pytest.mark.slow
def test_ten_kills_lose_nothing(write: Callable[[str, str], Path], tmp_path: Path) -> None:
    survives(write, tmp_path, kills=10, seeds=250)
