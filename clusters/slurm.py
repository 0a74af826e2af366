"""A Slurm allocation: a batch script that starts Ray on its nodes and runs the sweep in it.

The script is called on the first node. It starts `ray symmetric-run` on every node, which brings a
Ray up, runs the sweep's command on the first one, and takes it down again. What the script relies
on, beyond the man pages of sbatch and srun:

- `ray symmetric-run` ends with 0 where its head could not be started, so the sweep's exit code goes
  by a file; without one, the job has failed.
- `ray stop` ends every Ray that its user has on the node, so a job has its nodes for itself.
- The workers of a Ray that has ended linger for a minute: the script does not wait for them.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from sensweep.clusters.job import (
    ClusterError,
    Handle,
    Job,
    Kind,
    Line,
    Lines,
    Seen,
    State,
    call,
    script,
    tail,
)
from sensweep.clusters.local import ENVIRONMENT

#: Seconds between the polite stop of the sweep and the end of the step that runs it, and then
#: until Ray has been stopped: a driver gives its tasks ten, then writes the report.
STOPPING, LEAVING = 90, 30

_STATES: dict[str, State] = {
    **dict.fromkeys(("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "SUSPENDED"), "waiting"),
    **dict.fromkeys(("REQUEUE_HOLD", "SPECIAL_EXIT", "STOPPED", "RESIZING"), "waiting"),
    **dict.fromkeys(("RUNNING", "COMPLETING", "SIGNALING", "STAGE_OUT"), "running"),
    "COMPLETED": "ended",
    "CANCELLED": "cancelled",
}


def _option(text: str) -> str:
    if not text.startswith("--"):
        raise ValueError("is not an option of sbatch: write it in full, such as --constraint=a100")
    return text


# One word of an #SBATCH line: nothing in it ends the line, the word, or begins a comment.
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.,:@+/-]*$", max_length=200)]
Time = Annotated[
    str,
    BeforeValidator(lambda v: str(v) if isinstance(v, int) and not isinstance(v, bool) else v),
    Field(pattern=r"^([0-9]+-)?[0-9]+(:[0-9]{1,2}){0,2}$", max_length=40),
]
Option = Annotated[Line, AfterValidator(_option), Field(pattern=r"^[ -~]*$")]


class Slurm(Kind):
    """`kind: slurm`: nodes of a Slurm cluster, each wholly this job's.

    The home, the working folder and Python are at the same paths on its nodes.

    Attributes:
        nodes: how many.
        cpus: cores of each that trials may use.
        gpus: GPUs of each; `gres` says it in the site's own words instead, such as `gpu:a100:4`.
        memory: of each, such as `64G`; the partition's default if not given.
        time: limit, as sbatch takes it: minutes, `24:00:00` or `2-12:00:00`.
        partition, account, qos: where, for whom, how.
        requeue: begin again after a preemption, and after the time limit until the sweep is done.
        grace: seconds before its time limit at which the sweep is stopped politely.
        extra: further options of sbatch, one each.
        setup: shell lines that come first, such as the activation of an environment.
    """

    suffix: ClassVar[str] = "sbatch"

    kind: Literal["slurm"] = "slurm"
    nodes: int = Field(default=1, ge=1, le=100_000)
    cpus: int = Field(ge=1, le=10_000)
    gpus: int = Field(default=0, ge=0, le=1000)
    gres: Word | None = None
    memory: Annotated[str, Field(pattern=r"^[0-9]+[KMGT]?$", max_length=20)] | None = None
    time: Time | None = None
    partition: Word | None = None
    account: Word | None = None
    qos: Word | None = None
    requeue: bool = True
    grace: int = Field(default=180, ge=30, le=65_535)
    extra: tuple[Option, ...] = ()
    setup: Lines = ()

    def render(self, job: Job) -> str:
        """Write the batch script."""
        options = [f"#SBATCH {option}" for option in (*self._options(job), *self.extra)]
        return script(job, [*options, ""], self.setup, self._body(job))

    def _options(self, job: Job) -> list[str]:
        given = {
            "job-name": job.name,
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "nodes": self.nodes,
            "ntasks-per-node": 1,
            "cpus-per-task": self.cpus,
            "gres": self.gres or (f"gpu:{self.gpus}" if self.gpus else None),
            "mem": self.memory,
            "time": self.time,
            "open-mode": "append",
            "signal": f"B:TERM@{self.grace}",
        }
        flags = ["--exclusive", "--requeue" if self.requeue else "--no-requeue"]
        return [*(f"--{name}={value}" for name, value in given.items() if value), *flags]

    def _body(self, job: Job) -> str:
        code = shlex.quote(str(job.records / f"{job.number:04d}.exit"))
        stop = shlex.join(["sensweep", "stop", job.sweep, "--home", job.home])
        variables = " ".join(f"{name}={value}" for name, value in ENVIRONMENT.items())
        gpus = f" --num-gpus={self.gpus or _count(self.gres)}" if self.gpus or self.gres else ""
        requeue = _REQUEUE if self.requeue else ""
        return _BODY.format(
            variables=variables,
            code=code,
            stop=stop,
            stopping=STOPPING,
            leaving=LEAVING,
            nodes=self.nodes,
            cpus=self.cpus,
            gpus=gpus,
            run=job.words(),
            requeue=requeue,
        )

    def command(self, job: Job, text: Path) -> list[str]:
        """Give the call of sbatch; paths are options here, where no line is parsed."""
        log = str(job.records / f"{job.number:04d}.log").replace("%", "%%")
        return ["sbatch", "--parsable", f"--output={log}", str(text)]

    def send(self, job: Job, text: Path) -> Handle:
        """Submit the batch script."""
        said = call(self.command(job, text)).strip().splitlines()
        number = said[-1].partition(";")[0] if said else ""  # NUMBER[;CLUSTER]
        if not number.isdigit():
            raise ClusterError(f"sbatch gave no job number but {' '.join(said)!r}")
        return {"id": number, "log": str(job.records / f"{job.number:04d}.log")}

    def state(self, name: str, handle: Handle) -> Seen:
        """Ask squeue, and sacct for what squeue has forgotten."""
        number = handle.get("id")
        which = f"--jobs={number}" if number else f"--name={name}"
        try:
            queued = call(["squeue", "--noheader", "--states=all", "--format=%i|%T|%r", which])
        except ClusterError as error:
            if "invalid job id" not in str(error).lower():
                raise
            queued = ""
        for line in queued.splitlines():
            job, state, reason = (*line.strip().split("|"), "", "")[:3]
            because = f" ({reason})" if reason not in ("", "None") else ""
            return Seen(_STATES.get(state, "failed"), f"job {job}: {state}{because}")
        return self._accounted(which)

    def _accounted(self, which: str) -> Seen:
        forgotten = Seen("gone", "Slurm has forgotten it; `sensweep status` tells how far it came")
        asked = ["sacct", "--noheader", "--allocations", "--parsable2", "--starttime=now-30days"]
        try:
            told = call([*asked, "--format=JobID,State,ExitCode", which]).splitlines()
        except ClusterError:  # many sites keep no accounts
            return forgotten
        for line in reversed(told):
            job, state, code = (*line.strip().split("|"), "", "")[:3]
            word = state.partition(" ")[0]  # CANCELLED by 1000
            return Seen(_STATES.get(word, "failed"), f"job {job}: {state}, exit code {code}")
        return forgotten

    def cancel(self, name: str, handle: Handle) -> None:
        """Call scancel."""
        number = handle.get("id")
        call(["scancel", number if number else f"--name={name}"])

    def logs(self, name: str, handle: Handle) -> str:
        """Read what the batch script printed, over all its requeues."""
        return tail(handle.get("log"))


def _count(gres: str | None) -> int:
    """Count the GPUs of a gres: `gpu`, `gpu:4`, `gpu:a100:4`."""
    parts = [part.split(":") for part in (gres or "").split(",")]
    return sum(int(p[-1]) if p[-1].isdigit() else 1 for p in parts if p[0] == "gpu")


_BODY = """
export {variables}
# Nobody but this job's processes knows the token, so nobody else on its network can use its Ray.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN="$(od -An -vtx1 -N32 /dev/urandom | tr -d ' \\n')"
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300
# This is the first node. Where it has several networks, setup lines may name its address.
head="${{SENSWEEP_HEAD_IP:-$(hostname -I | cut -d' ' -f1)}}"
export SENSWEEP_ADDRESS="$head:$((20000 + SLURM_JOB_ID % 10000))"
export SENSWEEP_CODE={code}
rm -f "$SENSWEEP_CODE"

interrupted= alarm=
on_term() {{
    interrupted=yes
    echo "sensweep: Slurm wants the nodes back; stopping the sweep"
    {stop}
    (sleep {stopping}; kill -TERM "$step") >/dev/null 2>&1 &
    alarm=$!
}}
trap on_term TERM

srun --nodes={nodes} --ntasks={nodes} --ntasks-per-node=1 --cpus-per-task={cpus} \\
    ray symmetric-run --address "$SENSWEEP_ADDRESS" --min-nodes {nodes} --num-cpus={cpus}{gpus} \\
    -- bash -c '"$@" --address "$SENSWEEP_ADDRESS"; echo $? >"$SENSWEEP_CODE"' sweep \\
    {run} &
step=$!
while kill -0 "$step" 2>/dev/null && [ ! -s "$SENSWEEP_CODE" ]; do
    sleep 1 & wait $!
done
for _ in $(seq {leaving}); do
    kill -0 "$step" 2>/dev/null || break
    sleep 1 & wait $!
done
kill -TERM "$step" $alarm 2>/dev/null

code="$(cat "$SENSWEEP_CODE" 2>/dev/null)"
{requeue}if [ -z "$code" ]; then
    echo "sensweep: the sweep did not begin or was cut off: Ray's messages above say why"
    exit 1
fi
exit "$code"
""".strip("\n")

_REQUEUE = """\
# 130: stopped before its plan was done. A job that somebody cancels is not RUNNING any more.
if [ -n "$interrupted" ] && [ "${code:-130}" = 130 ] &&
    [ "$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)" = RUNNING ]; then
    trap "" TERM # by which Slurm ends a job that it requeues
    echo "sensweep: requeued"
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
fi
"""
