"""A Ray cluster in Kubernetes, made for one sweep by KubeRay (a RayJob) and gone with it.

What the manifest relies on, of KubeRay 1.7: the entrypoint is pasted unquoted into the shell of
another pod, so it names a script of a ConfigMap and holds nothing else; every retry of a RayJob
makes a new Ray cluster, in which the sweep goes on from its home; a name has at most 47 characters.
"""

from __future__ import annotations

import json
import re
import shlex
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import yaml
from pydantic import AfterValidator, Field, model_validator

from sensweep.clusters.job import (
    ClusterError,
    Handle,
    Job,
    Kind,
    Line,
    Lines,
    Part,
    Seen,
    State,
    Variables,
    call,
)
from sensweep.clusters.local import ENVIRONMENT

MOUNT = "/sensweep"  # where the script and the study file are in a pod

_STATES: dict[str, State] = {
    **dict.fromkeys(("", "Initializing", "Waiting", "Suspended", "Suspending"), "waiting"),
    **dict.fromkeys(("Running", "Retrying"), "running"),
    "Complete": "ended",
}


def _not_code(path: str) -> str:
    if path == MOUNT or path.startswith(f"{MOUNT}/"):
        raise ValueError(f"is below {MOUNT}, where the job's own script is mounted")
    return path


# An RFC 1123 label, such as a namespace; names of claims and secrets may hold dots besides.
Label = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", max_length=63)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", max_length=253)]
Memory = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|k|M|G|T)?$", max_length=20)]
Home = Annotated[Line, Field(pattern=r"^(/.|[a-z0-9]+://.)"), AfterValidator(_not_code)]


class Pods(Part):
    """What one pod of a group is, and where it may be.

    Attributes:
        cpus: cores, requested and limited to.
        memory: such as `16Gi`, requested and limited to.
        node_selector: labels of the nodes that take such a pod.
    """

    cpus: int = Field(ge=1, le=10_000)
    memory: Memory
    node_selector: dict[Line, Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]*$")]] = Field(
        default_factory=dict
    )


class Head(Pods):
    """The head pod: Ray's own processes and the sweep's driver; no trial runs there."""

    cpus: int = Field(default=2, ge=1, le=10_000)
    memory: Memory = "8Gi"


class Workers(Pods):
    """A group of equal pods in which trials run.

    Attributes:
        name: unique among the groups.
        replicas: how many pods.
        gpus: GPUs of each.
        gpu_resource: what the cluster calls a GPU.
    """

    name: Label = "workers"
    replicas: int = Field(default=1, ge=1, le=100_000)
    gpus: int = Field(default=0, ge=0, le=1000)
    gpu_resource: Annotated[str, Field(pattern=r"^[a-z0-9.-]+/[A-Za-z0-9_.-]+$")] = "nvidia.com/gpu"


class Kubernetes(Kind):
    """`kind: kubernetes`: a RayJob of KubeRay, called by kubectl.

    Attributes:
        image: has Python, Ray and sensweep, each of the version that is used here.
        ray_version: the image's Ray; the one that is installed here if not given.
        home: the home in the pods: a folder on `pvc`, or an object store's address.
        pvc: the claim that holds the home's folder; ReadWriteMany where pods are on several nodes.
        secret: a Secret whose keys become variables, such as an object store's credentials.
        namespace, context: where; kubectl's own defaults if not given.
        image_pull_secret: the Secret for a private registry.
        folder: the folder in the image in which the sweep runs; its modules can be imported.
        head, workers: the pods.
        retries: new clusters after one that failed or was lost; the sweep goes on in each.
        time_limit: seconds that the job may take altogether; without a limit if not given.
        keep: seconds for which an ended cluster's pods stay.
        env: variables for the sweep and its trials.
        setup: shell lines that come first, in the head pod.
    """

    suffix: ClassVar[str] = "yaml"

    kind: Literal["kubernetes"] = "kubernetes"
    image: Annotated[Line, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_./:@-]*$", max_length=500)]
    ray_version: Annotated[str, Field(pattern=r"^[0-9]+\.[0-9]+\.[0-9]+$")] = Field(
        default_factory=lambda: version("ray")
    )
    home: Home
    pvc: Name | None = None
    secret: Name | None = None
    namespace: Label | None = None
    context: Line | None = None
    image_pull_secret: Name | None = None
    folder: Annotated[Line, Field(pattern="^/")] | None = None
    head: Head = Field(default_factory=Head)
    workers: tuple[Workers, ...] = Field(min_length=1)
    retries: int = Field(default=3, ge=0, le=1000)
    time_limit: int | None = Field(default=None, ge=60, le=2**31 - 1)
    keep: int = Field(default=60, ge=0, le=2**31 - 1)
    env: Variables = Field(default_factory=dict)
    setup: Lines = ()

    @model_validator(mode="after")
    def _stored(self) -> Self:
        if self.home.startswith("/") and self.pvc is None:
            raise ValueError(f"home is the folder {self.home}, so pvc must name the claim it is on")
        if not self.home.startswith("/") and self.pvc is not None:
            raise ValueError(f"home is {self.home}, which is on no claim: leave pvc out")
        names = [group.name for group in self.workers]
        if len(set(names)) < len(names):
            raise ValueError("two groups of workers have the same name: name each differently")
        return self

    def render(self, job: Job) -> str:
        """Write the manifest: a ConfigMap (the script, the study file) and the RayJob."""
        study, data = job.study, {}
        if job.study_text is not None:
            study, data["study.yaml"] = f"{MOUNT}/study.yaml", job.study_text
        run = f'{job.words(study=study, home=self.home)} --address "$RAY_ADDRESS"'
        entry = [f"cd {shlex.quote(self.folder)} || exit 2"] if self.folder else []
        data["run.sh"] = "\n".join(["#!/bin/bash", *entry, *self.setup, run, _ENDING])
        documents = [
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": self._metadata(job),
                "data": data,
            },
            {
                "apiVersion": "ray.io/v1",
                "kind": "RayJob",
                "metadata": self._metadata(job),
                "spec": self._spec(job),
            },
        ]
        text: str = yaml.dump_all(
            documents, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100
        )
        return f"# {job.sweep} as {job.name}; written by `sensweep submit`.\n{text}"

    def _metadata(self, job: Job) -> dict[str, Any]:
        placed = {"namespace": self.namespace} if self.namespace else {}
        return {
            "name": job.name,
            **placed,
            "labels": {"app.kubernetes.io/managed-by": "sensweep"},
            "annotations": {"sensweep/sweep": job.sweep},
        }

    def _spec(self, job: Job) -> dict[str, Any]:
        limited = {"activeDeadlineSeconds": self.time_limit} if self.time_limit else {}
        groups = [
            {
                "groupName": group.name,
                "replicas": group.replicas,
                "minReplicas": group.replicas,
                "maxReplicas": group.replicas,
                "rayStartParams": {},
                "template": self._template(job, "ray-worker", group, _gpus(group)),
            }
            for group in self.workers
        ]
        return {
            "entrypoint": f"bash {MOUNT}/run.sh",
            "submissionMode": "K8sJobMode",
            "backoffLimit": self.retries,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": self.keep,
            **limited,
            "rayClusterSpec": {
                "rayVersion": self.ray_version,
                "authOptions": {"mode": "token"},
                "headGroupSpec": {
                    "rayStartParams": {"num-cpus": "0", "dashboard-host": "0.0.0.0"},
                    "template": self._template(job, "ray-head", self.head, {}),
                },
                "workerGroupSpecs": groups,
            },
        }

    def _template(self, job: Job, name: str, pods: Pods, gpus: dict[str, str]) -> dict[str, Any]:
        amounts = {"cpu": str(pods.cpus), "memory": pods.memory, **gpus}
        volumes: list[dict[str, Any]] = [{"name": "job", "configMap": {"name": job.name}}]
        mounts: list[dict[str, Any]] = [{"name": "job", "mountPath": MOUNT, "readOnly": True}]
        if self.pvc:
            volumes.append({"name": "home", "persistentVolumeClaim": {"claimName": self.pvc}})
            mounts.append({"name": "home", "mountPath": self.home})
        variables = {**ENVIRONMENT, **self.env}
        container: dict[str, Any] = {
            "name": name,
            "image": self.image,
            "resources": {"requests": dict(amounts), "limits": dict(amounts)},
            "env": [{"name": key, "value": value} for key, value in variables.items()],
            "volumeMounts": mounts,
        }
        if self.secret:
            container["envFrom"] = [{"secretRef": {"name": self.secret}}]
        spec: dict[str, Any] = {"containers": [container], "volumes": volumes}
        if pods.node_selector:
            spec["nodeSelector"] = dict(pods.node_selector)
        if self.image_pull_secret:
            spec["imagePullSecrets"] = [{"name": self.image_pull_secret}]
        return {"spec": spec}

    def command(self, job: Job, text: Path) -> list[str]:
        """Give the call of kubectl; `create` refuses a name that exists."""
        return self._kubectl("create", "-f", str(text))

    def send(self, job: Job, text: Path) -> Handle:
        """Create what the manifest describes."""
        call(self.command(job, text))
        return {"id": job.name}

    def state(self, name: str, handle: Handle) -> Seen:
        """Ask for the RayJob's status."""
        try:
            told = call(self._kubectl("get", "rayjob", name, "--output=json"))
        except ClusterError as error:
            if "(NotFound)" in str(error):
                return Seen("gone", "there is no such RayJob")
            raise
        try:
            status = json.loads(told).get("status") or {}
        except (ValueError, AttributeError):
            raise ClusterError(f"kubectl gave no RayJob but {told[:80]!r}") from None
        stage, ray = status.get("jobDeploymentStatus", ""), status.get("jobStatus", "")
        why = ": ".join(filter(None, (status.get("reason"), status.get("message"))))
        detail = " ".join(filter(None, (stage or "not seen by KubeRay yet", ray, why)))
        state = "cancelled" if ray == "STOPPED" else _STATES.get(stage, "failed")
        return Seen(state, " ".join(detail.split()))

    def cancel(self, name: str, handle: Handle) -> None:
        """Delete the RayJob, its cluster with it, and its ConfigMap."""
        gone = ["--ignore-not-found", "--wait=false"]
        call(self._kubectl("delete", f"rayjob/{name}", f"configmap/{name}", *gone))

    def logs(self, name: str, handle: Handle) -> str:
        """Fetch what the submitter follows: the output of the sweep's command."""
        return call(self._kubectl("logs", f"job/{name}", "--tail=2000"))

    def _kubectl(self, *arguments: str) -> list[str]:
        where = [f"--context={self.context}"] if self.context else []
        if self.namespace:
            where.append(f"--namespace={self.namespace}")
        return ["kubectl", *where, *arguments]


def _gpus(group: Workers) -> dict[str, str]:
    return {group.gpu_resource: str(group.gpus)} if group.gpus else {}


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks, and every value out: no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    # Readers of YAML differ in what they take for a number or a truth (`1e3`, `0o14`, `y`), so
    # only plain words go without quotes.
    plain = re.fullmatch(r"[A-Za-z][A-Za-z./-]+", value)
    style = "|" if "\n" in value else None if plain else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)

_ENDING = """\
code=$?
# 1: some trials failed; 130: somebody stopped the sweep. Another cluster would mend neither.
case $code in 1 | 130) exit 0 ;; esac
exit $code
"""
