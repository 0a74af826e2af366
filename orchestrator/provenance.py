"""Where results come from: commit, versions, machine. No secrets, no environment."""

from __future__ import annotations

import importlib.metadata
import platform
import socket
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

PACKAGES = (
    "sensweep",
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "ray",
    "optuna",
    "pyarrow",
    "mlflow",
)


def provenance(folder: Path, cluster: Mapping[str, object]) -> dict[str, object]:
    """Describe the run that is about to start, as plain data.

    Args:
        folder: of the study file; its git commit is recorded, with whether files differed from it.
        cluster: what the sweep is given: `cpus` and `gpus`, or the `address` of a Ray cluster.
    """
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": _git(folder, "rev-parse", "HEAD"),
        "git_dirty": bool(_git(folder, "status", "--porcelain", "--untracked-files=no")),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "processor": _processor(),
        **cluster,
        # Arguments may hold a tracking URI with a password: the command's name alone is kept.
        "command": " ".join(["sensweep", *sys.argv[1:2]]),
    }


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor())
