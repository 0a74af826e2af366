"""A Ray cluster that is there already: joined from one of its nodes, or reached by Ray Jobs."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import shlex
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from sensweep.clusters.job import (
    SHOWN_LOG,
    ClusterError,
    Handle,
    Job,
    Kind,
    Line,
    Seen,
    State,
    Variables,
)

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

ANSWERS = 20.0  # seconds within which a cluster must answer

# HOST:PORT, an IPv6 host in brackets.
_GCS = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.-]*|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})")
_STATES: dict[str, State] = {
    "PENDING": "waiting",
    "RUNNING": "running",
    "SUCCEEDED": "ended",
    "FAILED": "failed",
    "STOPPED": "cancelled",
}


@dataclass(frozen=True, slots=True)
class AttachedCluster:
    """A running Ray, by the address HOST:PORT of its GCS; this machine is one of its nodes.

    Raises:
        ClusterError: the address is not of that form. (`auto`, or none, would join whatever
            cluster this machine remembers.)
    """

    address: str

    def __post_init__(self) -> None:
        found = _GCS.fullmatch(self.address)
        if found is None or not 0 < int(found[2]) < 65_536:
            raise ClusterError(
                f"{self.address!r} is not the address of a Ray cluster: give HOST:PORT as its "
                "`ray start` printed it, such as 10.0.0.1:6379; to reach it by Ray Jobs "
                "(http://...), use `sensweep submit`"
            )

    def knock(self) -> None:
        """See whether anybody answers there: Ray itself would try for minutes.

        Raises:
            ClusterError: nobody does.
        """
        host, _, port = self.address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWERS).close()
        except OSError as error:
            raise ClusterError(f"no Ray cluster answers at {self.address}: {error}") from None

    def environment(self) -> dict[str, str]:
        """Give the variables to set before connecting."""
        return {"RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}

    def init_options(self) -> dict[str, Any]:
        """Give the arguments of `ray.init`."""
        return {
            "address": self.address,
            "log_to_driver": False,
            "logging_level": "error",
            "namespace": "sensweep",
        }


def _jobs_url(address: str) -> str:
    """Accept http(s)://HOST[:PORT]."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("is not the address of Ray Jobs, such as http://127.0.0.1:8265")
    if parts.username or parts.password:
        raise ValueError("holds a password: name the variable of a token in token_env instead")
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError("must end after the port")
    return address.rstrip("/")


class Ray(Kind):
    """`kind: ray`: an existing Ray cluster, by Ray Jobs.

    Attributes:
        address: of its dashboard, such as `http://127.0.0.1:8265`.
        token_env: the environment variable of this machine that holds the cluster's token. The
            token itself is in no file, and is not recorded.
        insecure: allow a cluster on another machine without a token: whoever reaches it may run
            anything on it.
        home: the home as the cluster's nodes see it; the same path as here if not given.
        send_folder: whether the working folder travels with the job; without, it must be on
            the cluster's nodes at the same path.
        excludes: what of the folder stays here, as in a `.gitignore`.
        env: variables for the sweep and its trials.
    """

    suffix: ClassVar[str] = "request.json"

    kind: Literal["ray"] = "ray"
    address: Annotated[Line, AfterValidator(_jobs_url)]
    token_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    insecure: bool = False
    home: Annotated[Line, Field(pattern=r"^(/|[a-z0-9]+://)")] | None = None
    send_folder: bool = True
    excludes: tuple[Line, ...] = ()
    env: Variables = Field(default_factory=dict)

    @model_validator(mode="after")
    def _guarded(self) -> Self:
        if self.token_env is None and not self.insecure and not _loopback(self.address):
            raise ValueError(
                f"the cluster at {self.address} is not on this machine, and no token_env is "
                "given: whoever reaches such a cluster may run anything on it; start it with "
                "token authentication, or write insecure: true"
            )
        return self

    def render(self, job: Job) -> str:
        """Write the request."""
        folder, study = job.folder, job.study
        if job.study_text is not None and self.send_folder:
            path = Path(job.study)
            if not path.is_relative_to(folder):
                folder = path.parent
            study = str(path.relative_to(folder))
        sent: dict[str, Any] = {"working_dir": str(folder)} if self.send_folder else {}
        if self.send_folder and self.excludes:
            sent["excludes"] = list(self.excludes)
        if self.env:
            sent["env_vars"] = dict(self.env)
        # The job's own environment says where its cluster is.
        run = f'{job.words(study=study, home=self.home)} --address "$RAY_ADDRESS"'
        request = {
            "submission_id": job.name,
            "entrypoint": run if self.send_folder else f"cd {shlex.quote(str(folder))} && {run}",
            "runtime_env": sent,
            "metadata": {"sweep": job.sweep},
        }
        return json.dumps(request, indent=2, ensure_ascii=False) + "\n"

    def command(self, job: Job, text: Path) -> list[str]:
        """Give the request's method and address; the text is its body (and the folder's upload)."""
        return ["POST", f"{self.address}/api/jobs/"]

    def send(self, job: Job, text: Path) -> Handle:
        """Submit the request."""
        request = json.loads(text.read_text())
        with _translated(self.address):
            return {"id": self._client().submit_job(**request)}

    def state(self, name: str, handle: Handle) -> Seen:
        """Ask Ray Jobs."""
        with _translated(self.address):
            try:
                info = self._client().get_job_info(handle.get("id", name))
            except RuntimeError as error:
                if "404" in str(error):
                    return Seen("gone", "this Ray cluster has no such job")
                raise
        said = info.message or ""
        return Seen(
            _STATES[str(info.status.value)], " ".join(f"{info.status.value}: {said}".split())
        )

    def cancel(self, name: str, handle: Handle) -> None:
        """Stop the job."""
        with _translated(self.address):
            self._client().stop_job(handle.get("id", name))

    def logs(self, name: str, handle: Handle) -> str:
        """Fetch what the sweep's command printed."""
        with _translated(self.address):
            return str(self._client().get_job_logs(handle.get("id", name)))[-SHOWN_LOG:]

    def _client(self) -> JobSubmissionClient:
        headers = {}
        if self.token_env is not None:
            token = os.environ.get(self.token_env, "")
            if not token.strip():
                raise ClusterError(
                    f"the variable {self.token_env}, which token_env names, is empty or not set"
                )
            headers["Authorization"] = f"Bearer {token.strip()}"
        self._knock(headers)
        from ray.job_submission import JobSubmissionClient

        return JobSubmissionClient(self.address, headers=headers)

    def _knock(self, headers: dict[str, str]) -> None:
        """See whether anybody answers: Ray's client would wait for ever for one who does not."""
        request = urllib.request.Request(f"{self.address}/api/version", headers=headers)
        try:
            urllib.request.urlopen(request, timeout=ANSWERS).close()
        except urllib.error.HTTPError:
            pass  # that is an answer, on which Ray's client has a better message
        except OSError as error:
            reason = getattr(error, "reason", None) or error
            raise ClusterError(f"Ray Jobs at {self.address} does not answer: {reason}") from None


@contextmanager
def _translated(address: str) -> Iterator[None]:
    """Turn what Ray's client raises into a `ClusterError`."""
    try:
        yield
    except ClusterError:
        raise
    except Exception as error:  # of requests, aiohttp, Ray
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        said = lines[0] if lines else type(error).__name__
        if "authentication" in said.lower() or "401" in said or "403" in said:
            said += " (is the token in token_env's variable the cluster's own?)"
        raise ClusterError(f"Ray Jobs at {address}: {said}") from None


def _loopback(address: str) -> bool:
    host = urlsplit(address).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
