"""One Ray for the whole suite, and small studies to run on it."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """Connect this process to a Ray of two cores and two logical GPUs."""
    import ray

    from sensweep.clusters.local import LocalCluster
    from sensweep.orchestrator.ray_driver import connected

    with connected(LocalCluster(cpus=2, gpus=2)):
        assert ray.cluster_resources()["CPU"] == 2
        yield


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], Path]:
    """Write a dedented text into the test's folder."""

    def writer(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    return writer
