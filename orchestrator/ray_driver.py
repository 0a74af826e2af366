"""The driver as a Ray actor, and the Ray that it runs in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import ray

from sensweep.clusters.attach import AttachedCluster
from sensweep.clusters.job import ClusterError
from sensweep.clusters.local import LocalCluster
from sensweep.orchestrator.driver import Driver
from sensweep.orchestrator.errors import InputError
from sensweep.orchestrator.executor import RayExecutor
from sensweep.orchestrator.roll import Orders
from sensweep.orchestrator.search_values import Row

THREADS = 8  # one runs the sweep, the others take beats


class DriverActor:
    """Runs a sweep inside the cluster, so that it outlives whoever asked for it."""

    def __init__(self, orders: Orders) -> None:
        executor = RayExecutor(ray.get_runtime_context().current_actor)
        self._driver = Driver(orders, executor)

    def run(self) -> dict[str, Any]:
        """Run the sweep to its end; see `Driver.run`."""
        return self._driver.run()

    def beat(
        self,
        key: tuple[str, int, int],
        latest: tuple[str, float, int | None] | None,
        observed: tuple[Row, ...],
    ) -> bool:
        """Take a worker's sign of life; see `Driver.beat`."""
        return self._driver.beat(key, latest, observed)


@contextmanager
def running(orders: Orders) -> Iterator[Future[dict[str, Any]]]:
    """Run a driver while this lasts; the future holds what `Driver.run` returns or raises."""
    actor: Any = ray.remote(DriverActor).options(num_cpus=0, max_concurrency=THREADS).remote(orders)
    answer: Future[dict[str, Any]] = Future()

    def settle(done: Future[dict[str, Any]]) -> None:
        error = done.exception()
        if error is None:
            answer.set_result(done.result())
        else:
            answer.set_exception(getattr(error, "cause", None) or error)

    actor.run.remote().future().add_done_callback(settle)
    try:
        yield answer
    finally:
        ray.kill(actor)


@contextmanager
def connected(cluster: LocalCluster | AttachedCluster) -> Iterator[None]:
    """Use the Ray that this process is connected to, or start or join one while this lasts.

    Raises:
        InputError: the cluster to join does not answer.
    """
    if ray.is_initialized():
        yield
        return
    before = dict(os.environ)
    os.environ.update(cluster.environment())
    try:
        _init(cluster)
        yield
    finally:
        ray.shutdown()
        # Starting Ray switches its token authentication on for everything this process starts
        # later; a second, explicit connection would then fail without saying why.
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


def _init(cluster: LocalCluster | AttachedCluster) -> None:
    if isinstance(cluster, LocalCluster):
        ray.init(**cluster.init_options())
        return
    try:
        cluster.knock()
        ray.init(**cluster.init_options())
    except ClusterError as error:
        raise InputError(str(error)) from None
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise InputError(
            f"the Ray cluster at {cluster.address} cannot be joined ({type(error).__name__}): is "
            "this machine one of its nodes, of the same versions of Python and Ray, and are "
            "RAY_AUTH_MODE and RAY_AUTH_TOKEN set as there?"
        ) from None
