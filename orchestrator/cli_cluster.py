"""Commands about clusters: sending a sweep to one, and asking after the job that runs it there."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sensweep.orchestrator.cli_home import (
    home_option,
    json_option,
    print_json,
    profile_option,
    sweep_names,
)
from sensweep.orchestrator.errors import InputError, suggest

if TYPE_CHECKING:
    from sensweep.orchestrator.jobs import Jobs, Sent


@click.command()
@click.argument("study")
@click.option("--cluster", required=True, help="Cluster file; see docs/clusters.md.")
@home_option
@profile_option
@click.option("--retry-failed", is_flag=True, help="Run again what raised before.")
@click.option("--dry-run", is_flag=True, help="Print what would be sent, and send nothing.")
@json_option
def submit(
    study: str,
    cluster: str,
    home: str,
    profile: str,
    retry_failed: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Send the sweep of STUDY to a cluster; if it runs already, say so and send nothing.

    `status`, `watch`, `logs` and `stop` then work from any machine that sees the home.

    Example: sensweep submit quickstart --cluster examples/clusters/slurm.yaml --dry-run
    """
    from sensweep.orchestrator.cluster_file import read_cluster
    from sensweep.orchestrator.jobs import Jobs
    from sensweep.orchestrator.study import load_study

    loaded = load_study(study, profile)
    target = read_cluster(cluster)
    jobs = Jobs(home, loaded.sweep)
    job = jobs.next(loaded, study, ("--retry-failed",) if retry_failed else ())
    text = target.render(job)
    path = jobs.folder / f"{job.number:04d}.{target.suffix}"
    if dry_run:
        if as_json:
            called = target.command(job, path)
            print_json({"sweep": loaded.sweep, "name": job.name, "command": called, "text": text})
        else:
            click.echo(text, nl=False)
        return
    joined = jobs.underway()
    sent = jobs.send(job, target, cluster) if joined is None else jobs.last()
    if as_json:
        recorded = asdict(sent) if sent else None
        print_json({"sweep": loaded.sweep, "joined": joined, "job": recorded})
        return
    if joined is not None:
        click.echo(f"{loaded.sweep}: joined, nothing was sent: {joined}")
    elif sent is not None:
        click.echo(f"{loaded.sweep}: sent as {sent.kind} job {sent.id} ({sent.name})")
        click.echo(f"text     {path}")
    click.echo(f"follow   sensweep watch {loaded.sweep} --home {home}")
    click.echo(f"job      sensweep job status {loaded.sweep} --home {home}")


@click.group()
def job() -> None:
    """Ask after, read or end the cluster job that last ran a sweep.

    Example: sensweep job status quickstart
    """


@job.command("status")
@click.argument("study")
@home_option
@profile_option
@json_option
def job_status(study: str, home: str, profile: str, as_json: bool) -> None:
    """Show what the cluster says of the job that runs STUDY.

    Example: sensweep job status quickstart
    """
    jobs, sent = _last(study, home, profile)
    seen = jobs.state(sent)
    if as_json:
        print_json({**asdict(sent), "state": seen.state, "detail": seen.detail})
        return
    click.echo(f"{sent.sweep}: {sent.kind} job {sent.id} is {seen.state}: {seen.detail}")
    click.echo(f"  sent {sent.when} from {sent.host} as {sent.name}: {sent.command}")
    click.echo(f"  text {jobs.folder / sent.text}")


@job.command("logs")
@click.argument("study")
@home_option
@profile_option
def job_logs(study: str, home: str, profile: str) -> None:
    """Print what the job that runs STUDY printed; `sensweep logs` has the logs of trials.

    Example: sensweep job logs quickstart
    """
    jobs, sent = _last(study, home, profile)
    click.echo(jobs.logs(sent), nl=False)


@job.command("cancel")
@click.argument("study")
@home_option
@profile_option
def job_cancel(study: str, home: str, profile: str) -> None:
    """End the job that runs STUDY at once; `sensweep stop` is the polite way.

    What is committed stays, and submitting again continues.

    Example: sensweep job cancel quickstart
    """
    jobs, sent = _last(study, home, profile)
    jobs.cancel(sent)
    click.echo(f"{sent.sweep}: asked {sent.kind} to cancel job {sent.id}")


def _last(study: str, home: str, profile: str) -> tuple[Jobs, Sent]:
    """Find the last job of a sweep, which need not have begun."""
    from sensweep.orchestrator.jobs import Jobs

    names = sweep_names(study, profile)
    known = sorted(path.parent.name for path in Path(home).glob("sweeps/*/jobs"))
    for sweep in names:
        if sweep in known:
            jobs = Jobs(home, sweep)
            if (sent := jobs.last()) is not None:
                return jobs, sent
    raise InputError(
        f"no job of a sweep {names[1]} in the home {home!r}"
        f"{suggest(names[1], known)}; `sensweep submit` sends one"
    )
