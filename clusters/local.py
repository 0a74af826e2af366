"""A Ray cluster on this machine, started for one sweep and gone with it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any


def usable_cpus() -> int:
    """Count the cores that this process may use (its affinity, not the machine's size)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class LocalCluster:
    """What to start: `cpus` cores and `gpus` GPUs (logical ones where there is no hardware)."""

    cpus: int
    gpus: int = 0

    def environment(self) -> dict[str, str]:
        """Give the variables to set before Ray starts; its processes inherit them.

        The malloc settings keep large activations from being unmapped and faulted in again at
        every step. Workers get the priority of an ordinary process: by Ray's default (nice 15)
        whatever else runs on the machine goes first. None of these changes a number.
        """
        return {
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_SCHEDULER_EVENTS": "0",
            "RAY_worker_niceness": "0",
            "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
            "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
            "MALLOC_TRIM_THRESHOLD_": str(8 * 2**30),
            "MALLOC_TOP_PAD_": str(64 * 2**20),
        }

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
