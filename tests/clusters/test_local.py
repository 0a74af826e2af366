"""The local cluster: what it asks of Ray, and what it leaves behind."""

from __future__ import annotations

import os
import subprocess
import sys

from sensweep.clusters.local import LocalCluster, usable_cpus


def test_the_address_is_always_named() -> None:
    options = LocalCluster(cpus=3, gpus=2).init_options()
    assert options["address"] == "local"
    assert (options["num_cpus"], options["num_gpus"]) == (3, 2)
    assert not options["include_dashboard"]


def test_usable_cpus_respects_affinity() -> None:
    assert usable_cpus() == len(os.sched_getaffinity(0))


def test_the_environment_is_as_it_was_after_the_cluster_is_gone() -> None:
    """Ray switches its token authentication on in this process's environment."""
    code = (
        "from sensweep.clusters.local import LocalCluster\n"
        "from sensweep.orchestrator.ray_driver import connected\n"
        "import os; before = dict(os.environ)\n"
        "with connected(LocalCluster(cpus=1)):\n"
        "    import ray; assert ray.is_initialized()\n"
        "    assert os.environ['RAY_USAGE_STATS_ENABLED'] == '0'\n"
        "assert dict(os.environ) == before, set(os.environ.items()) ^ set(before.items())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
