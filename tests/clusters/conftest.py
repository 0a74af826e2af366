"""Schedulers of the tests: `fakes/` as commands on the PATH, and what they hold."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

FAKES = Path(__file__).with_name("fakes")
SLURM = ("sbatch", "squeue", "sacct", "scancel", "scontrol", "srun", "ray", "preempt")


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Put the fakes first on the PATH; give the folder of what they hold."""
    held, commands = tmp_path / "fakes", tmp_path / "bin"
    for folder in (held / "slurm", held / "kubernetes", commands):
        folder.mkdir(parents=True)
    (held / "starts").write_text("1")
    calls = {name: ["slurm.py", name] for name in SLURM}
    calls |= {"kubectl": ["kubectl.py"], "sensweep": ["command.py"]}
    for name, (file, *first) in calls.items():
        call = shlex.join([sys.executable, str(FAKES / file), *first])
        (commands / name).write_text(f'#!/bin/sh\nexec {call} "$@"\n')
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKES", str(held))
    monkeypatch.chdir(tmp_path)
    yield held
    for job in held.glob("slurm/[0-9]*"):
        (job / "state").write_text("CANCELLED")  # one that is held ends by itself
        with suppress(ProcessLookupError):
            os.killpg(int((job / "group").read_text()), signal.SIGKILL)
