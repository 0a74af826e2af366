"""A Ray cluster on this machine, started for one sweep and gone with it."""

from __future__ import annotations

import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil
from pydantic import Field

from sensweep.clusters.job import (
    ClusterError,
    Handle,
    Job,
    Kind,
    Lines,
    Seen,
    environment,
    script,
    tail,
)

#: What Ray's processes are started with, on any kind of cluster. The malloc settings keep large
#: activations from being unmapped and faulted in again at every step. Workers get the priority of
#: an ordinary process: by Ray's default (nice 15) whatever else runs on the machine goes first.
#: None of these changes a number.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SCHEDULER_EVENTS": "0",
    "RAY_worker_niceness": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(8 * 2**30),
    "MALLOC_TOP_PAD_": str(64 * 2**20),
}


def usable_cpus() -> int:
    """Count the cores that this process may use (its affinity, not the machine's size)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class LocalCluster:
    """What to start: `cpus` cores and `gpus` GPUs (logical ones where there is no hardware)."""

    cpus: int
    gpus: int = 0

    def environment(self) -> dict[str, str]:
        """Give the variables to set before Ray starts; its processes inherit them."""
        return dict(ENVIRONMENT)

    def init_options(self) -> dict[str, Any]:
        """Give the arguments of `ray.init`.

        The address is always named: a bare `ray.init()` would join whatever cluster this machine
        remembers.
        """
        return {
            "address": "local",
            "num_cpus": self.cpus,
            "num_gpus": self.gpus,
            "include_dashboard": False,
            "log_to_driver": False,
            "logging_level": "error",
            "object_store_memory": 200 * 2**20,
            "namespace": "sensweep",
        }


class Local(Kind):
    """`kind: local`: this machine; the sweep runs in the background, and outlives the shell.

    Attributes:
        cpus: cores to use; all that the process may use by default.
        gpus: GPUs to use.
        setup: shell lines that come first, such as the activation of an environment.
    """

    kind: Literal["local"] = "local"
    cpus: int | None = Field(default=None, ge=1, le=100_000)
    gpus: int = Field(default=0, ge=0, le=10_000)
    setup: Lines = ()

    def render(self, job: Job) -> str:
        """Write the script that runs the job."""
        sized = ["--gpus", str(self.gpus)] if self.gpus else []
        if self.cpus is not None:
            sized += ["--cpus", str(self.cpus)]
        return script(job, (), self.setup, f"exec {job.words(*sized)}")

    def command(self, job: Job, text: Path) -> list[str]:
        """Give what is called with the script."""
        return ["bash", str(text)]

    def send(self, job: Job, text: Path) -> Handle:
        """Start the script in a session of its own."""
        log = job.records / f"{job.number:04d}.log"
        with log.open("ab") as out:
            process = subprocess.Popen(
                self.command(job, text),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=environment(),
            )
        started = psutil.Process(process.pid).create_time()
        return {"id": str(process.pid), "started": repr(started), "log": str(log)}

    def state(self, name: str, handle: Handle) -> Seen:
        """Look for the process."""
        if _process(handle) is not None:
            return Seen("running", f"pid {handle['id']}")
        return Seen("gone", "its process has ended; `sensweep status` tells how far it came")

    def cancel(self, name: str, handle: Handle) -> None:
        """Ask the process to end, as a sweep's command politely does."""
        process = _process(handle)
        if process is not None:
            process.send_signal(signal.SIGTERM)

    def logs(self, name: str, handle: Handle) -> str:
        """Read what the script printed."""
        return tail(handle.get("log"))


def _process(handle: Handle) -> psutil.Process | None:
    """Find the process by pid and start time: pids are used again."""
    if "id" not in handle:
        raise ClusterError("it cannot be told whether this job was started; look for its process")
    try:
        process = psutil.Process(int(handle["id"]))
        same = repr(process.create_time()) == handle["started"]
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None
