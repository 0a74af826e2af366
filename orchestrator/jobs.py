"""Jobs: sweeps that were sent to a cluster. The home records each, beside the sweep that it runs.

HOME/sweeps/<sweep>/jobs/0001.json    what was sent, where and when, and what finds it again
HOME/sweeps/<sweep>/jobs/0001.sbatch  the text that was sent (.sh, .sbatch, .request.json, .yaml)
HOME/sweeps/<sweep>/jobs/0001.log     what it prints, where its cluster writes into the home

A record is created exclusively before its job is sent, so of two who submit at once one sends; and
it holds the job's name, so a job that was sent can be found even if whoever sent it died then.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import shlex
import socket
import time
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sensweep.clusters.job import ClusterError, Handle, Job, Kind, Seen
from sensweep.orchestrator.cluster_file import cluster_of
from sensweep.orchestrator.errors import InputError
from sensweep.orchestrator.study import Study, shipped_studies
from sensweep.results.files import LocalFiles
from sensweep.results.store import Home

LEASE = 15.0  # seconds within which a living driver shows itself
_RECORD = re.compile(r"(\d{4,})\.json")


@dataclass(frozen=True, slots=True)
class Sent:
    """What the home keeps of a job.

    Attributes:
        number: from 1, within the sweep.
        name: what its cluster calls it.
        kind: of the cluster.
        sweep: what it runs.
        status: sending (also if that broke off), sent, refused (by the cluster), or cancelled.
        handle: what finds it again at its cluster; empty until it was sent.
        when, host: when it was sent, in UTC, and from where.
        command: what was called, or requested.
        text: the file of the text that was sent, in the same folder.
        cluster_file: where the cluster's description was read from.
        cluster: that description.
        token: random; no two who submit write equal records, so one of them is the first.
        error: what the cluster said when it refused.
    """

    number: int
    name: str
    kind: str
    sweep: str
    status: str
    handle: Handle
    when: str
    host: str
    command: str
    text: str
    cluster_file: str
    cluster: dict[str, Any]
    token: str
    error: str | None = None

    @property
    def id(self) -> str:
        """What people call it: its number at the scheduler, or its name."""
        return self.handle.get("id", self.name)


class Jobs:
    """The jobs of one sweep of a home. The home's folder need not exist yet."""

    def __init__(self, home: str | Path, sweep: str) -> None:
        self.home, self.sweep = Path(home).absolute(), sweep
        self._files = LocalFiles(self.home)
        self._folder = f"sweeps/{sweep}/jobs"

    @property
    def folder(self) -> Path:
        """Where records, texts and logs are."""
        return self.home / self._folder

    def last(self) -> Sent | None:
        """Return the last job; None if there was none.

        Raises:
            InputError: its record is damaged.
        """
        number = self._last_number()
        if not number:
            return None
        path = f"{self._folder}/{number:04d}.json"
        try:
            return Sent(**json.loads(self._files.read(path)))
        except (ValueError, TypeError):
            raise InputError(
                f"{self._files.locate(path)} is damaged, or of another version of sensweep: "
                "delete it if its job is over"
            ) from None

    def next(self, study: Study, source: str, options: tuple[str, ...]) -> Job:
        """Describe the job that would be sent next; nothing is written.

        Args:
            study: what it runs.
            source: the study's name or file, as it was given.
            options: further options of `sensweep run`.
        """
        path = None if source in shipped_studies() else Path(source).absolute()
        number = self._last_number() + 1
        # One cluster may run the same study for two homes at once, or two studies of similar names.
        place = f"{socket.gethostname()}\0{self.home}\0{self.sweep}"
        digest = hashlib.sha256(place.encode()).hexdigest()[:6]
        slug = re.sub(r"[^a-z0-9]+", "-", self.sweep.lower())[:22].strip("-")
        return Job(
            name=f"sensweep-{slug}-{digest}-{number}",
            number=number,
            sweep=self.sweep,
            study=source if path is None else str(path),
            study_text=None if path is None else path.read_text(encoding="utf-8"),
            profile=study.profile,
            home=str(self.home),
            records=self.folder,
            folder=Path.cwd(),
            options=options,
        )

    def send(self, job: Job, cluster: Kind, cluster_file: str) -> Sent:
        """Record a job and send it.

        Raises:
            InputError: somebody else has just sent one, or the cluster refuses it.
        """
        text = self.folder / f"{job.number:04d}.{cluster.suffix}"
        sent = Sent(
            number=job.number,
            name=job.name,
            kind=cluster.kind,  # type: ignore[attr-defined]
            sweep=self.sweep,
            status="sending",
            handle={},
            when=datetime.now(UTC).isoformat(timespec="seconds"),
            host=socket.gethostname(),
            command=shlex.join(cluster.command(job, text)),
            text=text.name,
            cluster_file=str(Path(cluster_file).absolute()),
            cluster=cluster.model_dump(mode="json"),
            token=secrets.token_hex(8),
        )
        try:
            self._files.create_exclusive(self._path(sent), _encode(sent))
        except FileExistsError:
            raise InputError(
                f"sweep {self.sweep} was submitted by somebody else in this very moment: "
                "`sensweep job status` tells of that job"
            ) from None
        self._files.write(f"{self._folder}/{text.name}", cluster.render(job).encode())
        try:
            sent = replace(sent, status="sent", handle=cluster.send(job, text))
        except ClusterError as error:
            self._write(replace(sent, status="refused", error=str(error)))
            raise InputError(f"sweep {self.sweep} was not sent: {error}") from None
        self._write(sent)
        return sent

    def state(self, sent: Sent) -> Seen:
        """Ask the job's cluster for its state.

        Raises:
            InputError: the cluster cannot be asked.
        """
        if sent.status == "refused":
            return Seen("failed", sent.error or "")
        seen: Seen = self._ask(sent, lambda cluster: cluster.state(sent.name, sent.handle))
        if seen.state == "gone" and sent.status == "cancelled":
            return Seen("cancelled", seen.detail)
        return seen

    def logs(self, sent: Sent) -> str:
        """Return what the job printed. Raises as `state`."""
        printed: str = self._ask(sent, lambda cluster: cluster.logs(sent.name, sent.handle))
        return printed

    def cancel(self, sent: Sent) -> None:
        """End the job. Raises as `state`."""
        self._ask(sent, lambda cluster: cluster.cancel(sent.name, sent.handle))
        self._write(replace(sent, status="cancelled"))

    def underway(self) -> str | None:
        """Say what runs the sweep, or is going to, in words; None if nothing does.

        Raises:
            InputError: the last job's cluster cannot be asked.
        """
        sent = self.last()
        if sent is not None and sent.status != "refused":
            seen = self.state(sent)
            if seen.state in ("waiting", "running"):
                return f"{sent.kind} job {sent.id} ({sent.name}) is {seen.state}"
        home = Home(self.home)
        if self.sweep in home.sweeps() and _driven(home, self.sweep):
            owner = home.manifest(self.sweep).owner
            return f"{owner.name} runs it on {owner.host}, since {owner.since}" if owner else None
        return None

    def _ask(self, sent: Sent, question: Any) -> Any:
        cluster = cluster_of(sent.cluster, self._files.locate(self._path(sent)))
        try:
            return question(cluster)
        except ClusterError as error:
            raise InputError(
                f"{sent.kind} job {sent.id} of {self.sweep}: {error}; if it is known to be over, "
                f"delete {self._files.locate(self._path(sent))}"
            ) from None

    def _last_number(self) -> int:
        names = self._files.list(self._folder)
        return max((int(m[1]) for name in names if (m := _RECORD.fullmatch(name))), default=0)

    def _path(self, sent: Sent) -> str:
        return f"{self._folder}/{sent.number:04d}.json"

    def _write(self, sent: Sent) -> None:
        self._files.write(self._path(sent), _encode(sent))


def _encode(sent: Sent) -> bytes:
    return (json.dumps(asdict(sent), indent=2, ensure_ascii=False) + "\n").encode()


def _driven(home: Home, sweep: str) -> bool:
    """Tell whether a driver runs the sweep; one on another host is watched for a sign of life."""
    alive = home.alive(sweep)
    if alive is not None:
        return alive
    first, deadline = home.live(sweep), time.monotonic() + LEASE
    while time.monotonic() < deadline:
        time.sleep(0.2)
        if home.manifest(sweep).closed:
            return False
        if home.live(sweep) != first:
            return True
    return False
