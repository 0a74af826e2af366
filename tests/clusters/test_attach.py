"""Joining a running Ray: which addresses are one, and what is said if nobody is there."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from sensweep.clusters.attach import AttachedCluster
from sensweep.clusters.job import ClusterError
from sensweep.orchestrator.cli import main


@pytest.mark.parametrize("address", ["10.0.0.1:6379", "head.lab:6379", "[fd00::2]:6379"])
def test_the_address_is_always_named(address: str) -> None:
    assert AttachedCluster(address).init_options()["address"] == address


@pytest.mark.parametrize(
    "address",
    ["", "auto", "local", "head", "head:0", "head:70000", "ray://h:1", "http://h:1", "h:1 x"],
)
def test_what_would_join_anything_is_refused(address: str) -> None:
    with pytest.raises(ClusterError, match="give HOST:PORT"):
        AttachedCluster(address)


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        (("--address", "auto"), "give HOST:PORT"),
        (("--address", "127.0.0.1:6379", "--cpus", "2"), "leave them out with an address"),
        (("--address", "127.0.0.1:{free}"), "no Ray cluster answers at 127.0.0.1:"),
    ],
)
def test_a_cluster_that_is_not_there_is_told_at_once(
    options: tuple[str, ...], hint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = server.getsockname()[1]
    words = [option.format(free=free) for option in options]
    sys.argv = ["sensweep", "run", "quickstart", "--home", str(tmp_path / "runs"), *words]
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert hint in error.splitlines()[-1]
    assert "Traceback" not in error
