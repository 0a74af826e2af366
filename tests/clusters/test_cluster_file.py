"""Cluster files: what they may say, and how one that is wrong is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sensweep.clusters.kubernetes import Kubernetes
from sensweep.clusters.slurm import Slurm
from sensweep.orchestrator.cluster_file import cluster_of, read_cluster
from sensweep.orchestrator.errors import InputError

K8S = "kind: kubernetes\nimage: x\nworkers: [{cpus: 1, memory: 1Gi}]\n"
SLURM = "kind: slurm\ncpus: 4\n"
BAD = [
    ("kind: slrum", "kind: unknown value \"slrum\"; did you mean 'slurm'?"),
    ("nodes: 2", "missing key 'kind'"),
    ("- slurm", "a cluster file is a mapping (kind: slurm, nodes: 2, ...)"),
    ("", "a cluster file is a mapping"),
    ("kind: local\ncpus: &a 2", "aliases and anchors"),
    ("kind: local\nkind: slurm", "the key is given twice"),
    (f"{SLURM}nods: 2", "nods: unknown key; did you mean 'nodes'?"),
    ("kind: slurm", "cpus: missing key"),
    (f"{SLURM}nodes: 0", "nodes: 0 is not valid"),
    (f"{SLURM}time: 1 day", 'time: "1 day" is not valid'),
    (f"{SLURM}time: true", "time: true is not valid"),
    (f"{SLURM}memory: 64 GB", 'memory: "64 GB" is not valid'),
    (f"{SLURM}partition: gpu cpu", 'partition: "gpu cpu" is not valid'),
    (f'{SLURM}partition: "gpu\\n#SBATCH --uid=0"', "partition: "),
    (f"{SLURM}gres: gpu:1;rm", "gres: "),
    (f"{SLURM}extra: [-n 4]", "extra[0]: "),
    (f'{SLURM}extra: ["--comment=a\\nrm -rf ~"]', "must be one line of printable text"),
    (f'{SLURM}setup: ["a\\nb"]', "must be one line of printable text"),
    ("kind: ray", "address: missing key"),
    ("kind: ray\naddress: lab:6379", "such as http://127.0.0.1:8265"),
    ("kind: ray\naddress: ray://lab:10001", "such as http://127.0.0.1:8265"),
    ("kind: ray\naddress: http://ana:pw@127.0.0.1:8265", "token_env instead"),
    ("kind: ray\naddress: http://lab:8265", "no token_env is given"),
    ("kind: ray\naddress: http://127.0.0.1:8265\ntoken: s3cret", "did you mean 'token_env'?"),
    ("kind: ray\naddress: http://127.0.0.1:8265\nhome: runs", 'home: "runs" is not valid'),
    (f"{K8S}home: /h", "so pvc must name the claim"),
    (f"{K8S}home: s3://b/h\npvc: p", "leave pvc out"),
    (f"{K8S}home: /sensweep/runs\npvc: p", "where the job's own script is mounted"),
    (f"{K8S}home: /h\npvc: My Claim", "pvc: "),
    (f"{K8S}home: /h\npvc: p\nenv: {{A-B: x}}", "env"),
    ("kind: kubernetes\nimage: x\nhome: /h\npvc: p\nworkers: []", "workers: "),
    (
        "kind: kubernetes\nimage: x\nhome: /h\npvc: p\n"
        "workers: [{cpus: 1, memory: 1Gi}, {cpus: 2, memory: 2Gi}]",
        "two groups of workers have the same name",
    ),
    ("kind: kubernetes\nimage: x\nhome: /h\npvc: p\nworkers: [{cpu: 1}]", "did you mean 'cpus'?"),
]


@pytest.mark.parametrize(("text", "hint"), BAD)
def test_what_is_wrong_is_said_in_one_line(
    text: str, hint: str, write: Callable[[str, str], Path]
) -> None:
    with pytest.raises(InputError) as error:
        read_cluster(write("lab.yaml", text))
    assert str(error.value).startswith("lab.yaml")
    assert hint in str(error.value)
    assert "\n" not in str(error.value)


def test_the_nearest_file_is_not_guessed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_cluster(tmp_path / "lab.yaml")


def test_a_description_survives_being_recorded() -> None:
    given = cluster_of({"kind": "slurm", "cpus": 4, "time": 60, "gres": "gpu:a100:4"}, "lab")
    assert cluster_of(given.model_dump(mode="json"), "record") == given
    assert isinstance(given, Slurm)
    assert given.time == "60"


def test_a_bucket_is_a_home_without_a_claim() -> None:
    pods = {"workers": [{"cpus": 1, "memory": "1Gi"}], "secret": "s3"}
    given = cluster_of({"kind": "kubernetes", "image": "x", "home": "s3://b/h", **pods}, "lab")
    assert isinstance(given, Kubernetes)


@pytest.mark.parametrize(
    ("gres", "gpus"), [("gpu:4", 4), ("gpu:a100:2", 2), ("gpu", 1), ("tmpdisk:100,gpu:h100:8", 8)]
)
def test_ray_is_told_of_the_gpus_of_a_gres(gres: str, gpus: int) -> None:
    from test_rendered import JOB

    assert f"--num-gpus={gpus} " in Slurm(cpus=1, gres=gres).render(JOB)
