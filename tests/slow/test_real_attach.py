"""A real Ray with token authentication, started by `ray start`, and a sweep that joins it."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
BIN = Path(sys.executable).parent
STUDY = """
    study: bowl
    seeds: 3
    axes: {x: [0.0, 1.0]}
    stages:
      toy: {task: toy, params: {steps: 2}}
"""


def test_a_sweep_joins_a_running_cluster(write: Callable[[str, str], Path], tmp_path: Path) -> None:
    host = socket.gethostbyname(socket.gethostname())
    with socket.create_server((host, 0)) as server:
        port = server.getsockname()[1]
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    }
    study = write("bowl.yaml", STUDY)
    with tempfile.TemporaryDirectory(dir="/tmp") as short:  # sockets' paths must be
        start = ["ray", "start", "--head", "--block", f"--node-ip-address={host}"]
        start += [f"--port={port}", "--num-cpus=2", "--include-dashboard=false"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        head = subprocess.Popen([*start, f"--temp-dir={short}"], env=environment, **quiet)
        try:
            time.sleep(20)
            command = ["sensweep", "run", str(study), "--home", "runs"]
            joined = subprocess.run(
                [*command, "--address", f"{host}:{port}"],
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                timeout=180,
            )
        finally:
            head.terminate()
            head.wait(timeout=60)
    assert joined.returncode == 0, joined.stderr
    from sensweep.results.store import Home

    home = Home(tmp_path / "runs")
    assert home.done().num_rows == 6
    assert home.study("bowl.cpu")["provenance"]["address"] == f"{host}:{port}"  # type: ignore[index]
