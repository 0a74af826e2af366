"""Reading a cluster file, and what the home recorded of one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from sensweep.clusters.job import Kind
from sensweep.clusters.spec import Cluster
from sensweep.orchestrator.errors import InputError, located
from sensweep.orchestrator.validation import explain
from sensweep.orchestrator.yaml_file import read_yaml

WANTED = "a cluster file is a mapping (kind: slurm, nodes: 2, ...)"


def read_cluster(path: str | Path) -> Kind:
    """Read a cluster file.

    Raises:
        InputError: it cannot be read, or anything is wrong with it.
    """
    path = Path(path)
    return cluster_of(read_yaml(path, WANTED), path.name)


def cluster_of(data: Mapping[str, Any], source: str) -> Kind:
    """Make a cluster of plain data; `source` names it in messages. Raises as `read_cluster`."""
    try:
        cluster: Kind = TypeAdapter(Cluster).validate_python(data)
    except ValidationError as error:
        where, problem = explain(error, Cluster, data)
        raise InputError(f"{source}: {located(where, problem)}") from None
    return cluster
