"""The texts that are sent: pinned word by word, and safe whatever a path is called.

`python tests/clusters/test_rendered.py` writes golden/ anew; read the difference before you commit.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

import pytest
import yaml

from sensweep.clusters.attach import Ray
from sensweep.clusters.job import Job, Kind
from sensweep.clusters.kubernetes import Kubernetes
from sensweep.clusters.local import Local
from sensweep.clusters.slurm import Slurm
from sensweep.orchestrator.cluster_file import read_cluster

GOLDEN = Path(__file__).with_name("golden")
EXAMPLES = Path(__file__).parents[2] / "examples" / "clusters"
KINDS = ("local", "ray", "slurm", "kubernetes")
JOB = Job(
    name="sensweep-quickstart-cpu-0a1b2c-1",
    number=1,
    sweep="quickstart.cpu",
    study="/work/ana/studies/quickstart.yaml",
    study_text="study: quickstart\nstages:\n  toy: {task: toy}\n",
    profile="cpu",
    home="/work/ana/runs",
    records=Path("/work/ana/runs/sweeps/quickstart.cpu/jobs"),
    folder=Path("/work/ana"),
    options=("--retry-failed",),
)


def rendered(kind: str) -> str:
    cluster = read_cluster(EXAMPLES / f"{kind}.yaml")
    if isinstance(cluster, Kubernetes):  # by default the Ray that is installed
        cluster = cluster.model_copy(update={"ray_version": "2.60.0"})
    called = cluster.command(JOB, JOB.records / f"0001.{cluster.suffix}")
    return f"{' '.join(called)}\n\n{cluster.render(JOB)}"


@pytest.mark.parametrize("kind", KINDS)
def test_the_example_renders_as_pinned(kind: str) -> None:
    assert rendered(kind) == (GOLDEN / f"{kind}.txt").read_text()


@pytest.mark.parametrize("kind", ["local", "slurm"])
def test_the_scripts_are_valid_shell(kind: str, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(rendered(kind).partition("\n\n")[2])
    subprocess.run(["bash", "-n", str(script)], check=True)


# ---- hostile names

HOSTILE = [
    "two words",
    "it's",
    '"quoted"',
    "$(touch PWNED)",
    "`touch PWNED`",
    "x; touch PWNED #",
    "two\nlines\n#SBATCH --uid=0",
    "tab\tand\u2028separator",
    "%j%x",
    "{run} {{}}",
    "back\\slash\\",
    "- &a *b !!c | > é✓ 'x': y",
    "--flag",
]
CLUSTERS: list[Kind] = [
    Local(),
    Slurm(cpus=2),
    Ray(address="http://127.0.0.1:8265", send_folder=False),
    Kubernetes(image="x", home="/h", pvc="p", workers=({"cpus": 1, "memory": "1Gi"},)),
]


@pytest.fixture
def spies(tmp_path: Path) -> dict[str, str]:
    """Commands that do nothing, but for `sensweep run`, which says what it was given and where."""
    commands = tmp_path / "spies"
    commands.mkdir()
    report = tmp_path / "said.json"
    said = f"json.dump([sys.argv[1:], os.getcwd()], open({str(report)!r}, 'w'))"
    texts = {
        "sensweep": f"#!{sys.executable}\nimport json, os, sys\nif 'run' in sys.argv: {said}\n",
        "srun": '#!/bin/bash\nwhile [[ $1 == --* ]]; do shift; done\nexec "$@"\n',
        "sleep": "#!/bin/sh\nexec /bin/sleep 0.02\n",
        "ray": '#!/bin/bash\nwhile [ "$1" != -- ]; do shift; done\nshift\n"$@"\n',
    }
    for name, text in texts.items():
        (commands / name).write_text(text)
        (commands / name).chmod(stat.S_IRWXU)
    path = f"{commands}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "RAY_ADDRESS": "ADDRESS", "SLURM_JOB_ID": "7"}


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("cluster", CLUSTERS, ids=lambda cluster: cluster.kind)
def test_no_name_is_more_than_a_name(
    cluster: Kind, hostile: str, spies: dict[str, str], tmp_path: Path
) -> None:
    """Run what was rendered: the command gets exactly the words that it should."""
    folder = tmp_path / hostile
    (folder / "jobs").mkdir(parents=True)
    study = str(folder / "study.yaml")
    job = replace(
        JOB,
        study=study,
        study_text=hostile,
        home=str(folder),
        records=folder / "jobs",
        folder=folder,
    )
    text, home = cluster.render(job), str(folder)
    if isinstance(cluster, Ray):
        text = json.loads(text)["entrypoint"]
    elif isinstance(cluster, Kubernetes):
        data = next(yaml.safe_load_all(text))["data"]
        assert data["study.yaml"] == hostile
        text, study, home = data["run.sh"], "/sensweep/study.yaml", "/h"
    elif isinstance(cluster, Slurm):  # sbatch reads options up to the first line of another kind
        head = takewhile(lambda line: line.startswith("#") or not line, text.split("\n"))
        assert len([line for line in head if line.startswith("#SBATCH")]) == 8
    subprocess.run(["bash", "-c", text], env=spies, cwd=tmp_path, check=False, timeout=60)
    words, where = json.loads((tmp_path / "said.json").read_text())
    address = [] if isinstance(cluster, Local) else words[-2:]
    assert address[:1] in ([], ["--address"])
    given = words[: len(words) - len(address)]
    assert [w for w in given if w not in ("--gpus", "0")] == [
        "run", study, "--home", home, "--profile", "cpu", "--retry-failed"
    ]  # fmt: skip
    if not isinstance(cluster, Kubernetes):
        assert where == str(folder)
    assert not list(tmp_path.rglob("PWNED"))


def test_paths_are_options_of_sbatch_and_not_patterns() -> None:
    job = replace(JOB, records=Path("/runs/100%j"))
    command = Slurm(cpus=1).command(job, Path("/runs/0001.sbatch"))
    assert command[2:] == ["--output=/runs/100%%j/0001.log", "/runs/0001.sbatch"]


@pytest.mark.parametrize("value", ["1e3", "0o14", "yes", "y", "~", "12:30", "0x1F", "", " a ", "#"])
def test_every_reader_of_yaml_takes_a_variable_for_text(value: str) -> None:
    cluster = CLUSTERS[3].model_copy(update={"env": {"GIVEN": value}})
    text = cluster.render(JOB)
    quoted = [line for line in text.splitlines() if line.strip().startswith("value: ")]
    assert all(line.strip()[7] in "\"'" for line in quoted)
    manifest = list(yaml.safe_load_all(text))[1]
    head = manifest["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    assert {"name": "GIVEN", "value": value} in head["env"]


# ---- what the manifest and the request hold


def test_the_manifest_is_what_kuberay_asks_for() -> None:
    """Asserted by hand from KubeRay 1.7; with $KUBERAY_CRD also against its published schema."""
    config, manifest = yaml.safe_load_all(rendered("kubernetes").partition("\n\n")[2])
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayJob")
    assert len(manifest["metadata"]["name"]) <= 47
    assert manifest["metadata"]["namespace"] == config["metadata"]["namespace"] == "research"
    spec = manifest["spec"]
    assert spec["entrypoint"] == "bash /sensweep/run.sh"  # pasted into a shell as it is
    assert spec["shutdownAfterJobFinishes"] is True  # or ttlSecondsAfterFinished is refused
    cluster = spec["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        pod = group["template"]["spec"]
        container = pod["containers"][0]
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        assert all(set(variable) == {"name", "value"} for variable in container["env"])
        mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounted == {"job": "/sensweep", "home": "/home/sensweep/runs"}
        assert {volume["name"] for volume in pod["volumes"]} == set(mounted)
        assert container["resources"]["requests"] == container["resources"]["limits"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert groups[1]["minReplicas"] == groups[1]["replicas"] == groups[1]["maxReplicas"] == 2
    assert groups[1]["template"]["spec"]["containers"][0]["resources"]["limits"] == {
        "cpu": "16", "memory": "120Gi", "nvidia.com/gpu": "4"
    }  # fmt: skip


@pytest.mark.skipif("KUBERAY_CRD" not in os.environ, reason="no schema: set KUBERAY_CRD")
def test_the_manifest_fits_the_published_schema() -> None:
    """KUBERAY_CRD is KubeRay's ray-operator/config/crd/bases/ray.io_rayjobs.yaml."""
    jsonschema = pytest.importorskip("jsonschema")
    definition = yaml.load(Path(os.environ["KUBERAY_CRD"]).read_text(), yaml.CSafeLoader)
    versions = {v["name"]: v for v in definition["spec"]["versions"]}
    schema = _closed(versions["v1"]["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    _, manifest = yaml.safe_load_all(rendered("kubernetes").partition("\n\n")[2])
    jsonschema.validate(manifest, schema)
    manifest["spec"]["rayClusterSpec"]["bogus"] = 1
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(manifest, schema)


def _closed(schema):
    """Allow no other keys than the schema's own, as `kubectl create` does."""
    if isinstance(schema, dict):
        for inner in schema.values():
            _closed(inner)
        if schema.pop("x-kubernetes-int-or-string", False):
            schema.pop("type", None)
        if "properties" in schema and "x-kubernetes-preserve-unknown-fields" not in schema:
            schema.setdefault("additionalProperties", False)
    elif isinstance(schema, list):
        for inner in schema:
            _closed(inner)
    return schema


def test_a_study_file_travels_with_the_working_folder_or_with_its_own() -> None:
    inside = json.loads(Ray(address="http://127.0.0.1:1").render(JOB))
    assert inside["runtime_env"] == {"working_dir": "/work/ana"}
    assert "sensweep run studies/quickstart.yaml --home /work/ana/runs" in inside["entrypoint"]
    elsewhere = replace(JOB, folder=Path("/tmp"))
    outside = json.loads(Ray(address="http://127.0.0.1:1").render(elsewhere))
    assert outside["runtime_env"] == {"working_dir": "/work/ana/studies"}
    assert "sensweep run quickstart.yaml --home" in outside["entrypoint"]


if __name__ == "__main__":
    for each in KINDS:
        (GOLDEN / f"{each}.txt").write_text(rendered(each))
