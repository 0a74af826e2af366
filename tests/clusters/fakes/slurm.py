"""A Slurm for tests: sbatch, squeue, sacct, scancel, scontrol and srun, over a folder of jobs.

Which one it is, the first argument says. Batch scripts really run, with bash, on this machine.
$FAKES/<number>/ holds of each job its state, its script, where its output goes, and its pid.
`preempt NUMBER` sends the batch script the signal that --signal=B:TERM@n asks for.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

JOBS = Path(os.environ["FAKES"]) / "slurm"
SUBMISSION_HOST = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}


def put(job: Path, name: str, value: object) -> None:
    aside = job / f".{name}.{os.getpid()}"
    aside.write_text(str(value))
    aside.replace(job / name)


def get(job: Path, name: str) -> str:
    path = job / name
    return path.read_text() if path.exists() else ""


def start(job: Path) -> None:
    """Become the job's batch step, in a process of its own that outlives the caller."""
    if child := os.fork():
        put(job, "group", child)
        return
    os.setsid()
    quiet = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(quiet, stream)
    deadline = time.monotonic() + 120
    while (JOBS / "held").exists():
        if get(job, "state") != "PENDING" or not job.exists() or time.monotonic() > deadline:
            os._exit(0)
        time.sleep(0.02)
    environment = {**SUBMISSION_HOST, "SLURM_JOB_ID": job.name, "SLURM_NNODES": "1"}
    with open(get(job, "output"), "ab") as out:
        script = subprocess.Popen(
            ["bash", get(job, "script")], stdout=out, stderr=out, env=environment
        )
    put(job, "pid", script.pid)
    put(job, "state", "RUNNING")
    code = script.wait()
    if get(job, "requeue"):
        (job / "requeue").unlink()
        put(job, "state", "PENDING")
        put(job, "runs", int(get(job, "runs") or 1) + 1)
        start(job)
    elif get(job, "state") != "CANCELLED":
        put(job, "state", "FAILED" if code else "COMPLETED")
        put(job, "code", f"{max(code, 0)}:{max(-code, 0)}")
    os._exit(0)


def sbatch(*arguments: str) -> None:
    script = Path(arguments[-1])
    options = [a for a in arguments[:-1] if a.startswith("--")]
    options += [line[8:] for line in script.read_text().splitlines() if line.startswith("#SBATCH ")]
    given = dict(option[2:].partition("=")[::2] for option in options)
    if given.get("partition") == "closed":
        sys.exit("sbatch: error: Batch job submission failed: Invalid partition name specified")
    numbers = [int(p.name) for p in JOBS.iterdir() if p.name.isdigit()]
    job = JOBS / str(max(numbers, default=4710) + 1)
    job.mkdir()
    put(job, "name", given["job-name"])
    put(job, "script", script)
    put(job, "output", given["output"].replace("%%", "%"))
    put(job, "state", "PENDING")
    start(job)
    print(f"{job.name};lab")


def found(which: str) -> list[Path]:
    option, _, value = which.partition("=")
    jobs = sorted(p for p in JOBS.iterdir() if p.name.isdigit())
    return [j for j in jobs if (j.name if option == "--jobs" else get(j, "name")) == value]


def squeue(*arguments: str) -> None:
    which = next(a for a in arguments if a.startswith(("--jobs=", "--name=")))
    form = next(a for a in arguments if a.startswith("--format=")).partition("=")[2]
    if which.startswith("--jobs=") and (not found(which) or get(found(which)[0], "purged")):
        sys.exit("slurm_load_jobs error: Invalid job id specified")
    for job in found(which):
        if not get(job, "purged"):
            shown = {"%i": job.name, "%T": get(job, "state"), "%r": get(job, "reason") or "None"}
            for key, value in shown.items():
                form = form.replace(key, value)
            print(form)


def sacct(*arguments: str) -> None:
    if (JOBS / "no-accounts").exists():
        sys.exit("Slurm accounting storage is disabled")
    which = next(a for a in arguments if a.startswith(("--jobs=", "--name=")))
    for job in found(which):
        print(f"{job.name}|{get(job, 'state')}|{get(job, 'code')}")


def scancel(which: str) -> None:
    for job in found(which if which.startswith("--") else f"--jobs={which}"):
        put(job, "state", "CANCELLED")
        if pid := get(job, "pid"):
            os.kill(int(pid), signal.SIGTERM)


def scontrol(verb: str, number: str) -> None:
    assert verb == "requeue"
    job = JOBS / number
    put(job, "requeue", "yes")
    os.kill(int(get(job, "pid")), signal.SIGTERM)


def srun(*arguments: str) -> None:
    command = [
        a
        for i, a in enumerate(arguments)
        if any(not b.startswith("--") for b in arguments[: i + 1])
    ]
    os.execvp(command[0], command)


def ray(*arguments: str) -> None:
    """`ray symmetric-run ... -- command`, without a Ray."""
    assert arguments[0] == "symmetric-run"
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    if (JOBS / "no-ray").exists():
        print("Failed to start Ray: no port is free")
        return
    command = arguments[arguments.index("--") + 1 :]
    subprocess.run(command)


def preempt(number: str) -> None:
    os.kill(int(get(JOBS / number, "pid")), signal.SIGTERM)


if __name__ == "__main__":
    JOBS.mkdir(parents=True, exist_ok=True)
    globals()[sys.argv[1]](*sys.argv[2:])
