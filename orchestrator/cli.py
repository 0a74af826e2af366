"""The command line. Each command reads like its help; what it needs is imported when it runs."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click

from sensweep.orchestrator.cli_cluster import job, submit
from sensweep.orchestrator.cli_home import (
    find_sweep,
    home_option,
    json_option,
    open_home,
    print_json,
    profile_option,
)
from sensweep.orchestrator.cli_search import export_optuna
from sensweep.orchestrator.errors import InputError

if TYPE_CHECKING:
    from sensweep.orchestrator.session import Sweep

DONE, SOME_FAILED, BAD_INPUT, STOPPED = 0, 1, 2, 130


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="sensweep")
def cli() -> None:
    """Sweeps for the science of input sensitivity and robustness.

    Example: sensweep run quickstart
    """


@cli.command()
@click.argument("study")
@home_option
@profile_option
@click.option("--cpus", type=click.IntRange(1), help="Cores to use; all by default.")
@click.option("--gpus", type=click.IntRange(0), default=0, show_default=True, help="GPUs to use.")
@click.option("--address", help="HOST:PORT of a Ray cluster to run in, instead of this machine.")
@click.option("--retry-failed", is_flag=True, help="Run again what raised before.")
@click.option("--tracking-uri", help="MLflow to mirror to; a sqlite file in the home by default.")
@json_option
@click.pass_context
def run(
    context: click.Context,
    study: str,
    home: str,
    profile: str,
    cpus: int | None,
    gpus: int,
    address: str | None,
    retry_failed: bool,
    tracking_uri: str | None,
    as_json: bool,
) -> None:
    """Run what of STUDY is not done yet, then report.

    STUDY is the name of a shipped study or a file. Ctrl-C stops politely; the same command resumes.

    Example: sensweep run quickstart --home runs
    """
    from sensweep.orchestrator.progress import Progress
    from sensweep.orchestrator.session import run as run_study

    sweep = run_study(
        study,
        home,
        profile=profile,
        cpus=cpus,
        gpus=gpus,
        address=address,
        retry_failed=retry_failed,
        progress=Progress,
    )
    summary = _finish(sweep, tracking_uri)
    if as_json:
        print_json(summary)
    else:
        _print_summary(sweep, summary)
    if sweep.stopped and not sweep.stopped.startswith("the budget"):
        context.exit(STOPPED)
    context.exit(SOME_FAILED if sweep.failed else DONE)


@cli.command()
@click.argument("study")
@home_option
@profile_option
@click.option("--cpus", type=click.IntRange(1), help="Cores to plan for; all by default.")
@click.option("--retry-failed", is_flag=True, help="Plan again what raised before.")
@click.option("--why", "explain", is_flag=True, help="Say what made each new trial new.")
@json_option
def plan(
    study: str,
    home: str,
    profile: str,
    cpus: int | None,
    retry_failed: bool,
    explain: bool,
    as_json: bool,
) -> None:
    """Show what running STUDY would do: trials per stage, what is done, time and cost.

    Example: sensweep plan quickstart --why
    """
    from sensweep.clusters.local import usable_cpus
    from sensweep.orchestrator.plan import estimate, searched_counts
    from sensweep.orchestrator.session import prepare
    from sensweep.orchestrator.study import load_study
    from sensweep.orchestrator.why import why

    prepared = prepare(load_study(study, profile), home, retry_failed)
    planned, slots = prepared.plan, cpus or usable_cpus()
    cost = estimate(planned, prepared.recorded, slots)
    reasons = why(planned, prepared.recorded) if explain else []
    known = cost.measured + cost.stated
    if as_json:
        print_json(
            {
                "sweep": planned.study.sweep,
                "stages": {stage: dict(counts) for stage, counts in planned.counts().items()},
                "to_run": len(planned.to_run),
                "searched": dict(searched_counts(planned)),
                "seconds": cost.seconds if known else None,
                "worker_hours": cost.worker_hours if known else None,
                "gpu_hours": cost.gpu_hours if known else None,
                "measured_trials": cost.measured,
                "stated_trials": cost.stated,
                "unknown_trials": cost.unknown,
                "cpus": slots,
                "why": [
                    {"stage": r.stage, "trials": len(r.trials), "reason": r.text} for r in reasons
                ],
            }
        )
        return
    from sensweep.orchestrator.cli_text import plan_text

    click.echo(plan_text(planned, cost, slots, reasons))


@cli.command()
@click.argument("study")
@home_option
@profile_option
@json_option
def status(study: str, home: str, profile: str, as_json: bool) -> None:
    """Show how far the sweep of STUDY is.

    Example: sensweep status quickstart
    """
    from sensweep.orchestrator.cli_text import status_text
    from sensweep.orchestrator.sweep_status import sweep_status

    store, sweep = find_sweep(study, home, profile)
    found = sweep_status(store, sweep)
    if as_json:
        print_json(found)
    else:
        click.echo(status_text(found))


@cli.command()
@click.argument("study")
@home_option
@profile_option
def watch(study: str, home: str, profile: str) -> None:
    """Follow the sweep of STUDY until it ends, from any machine that sees the home.

    Example: sensweep watch quickstart
    """
    from sensweep.orchestrator.cli_text import status_text
    from sensweep.orchestrator.progress import Progress
    from sensweep.orchestrator.sweep_status import sweep_status

    store, sweep = find_sweep(study, home, profile)
    with Progress(store, sweep) as display:
        while sweep_status(store, sweep)["state"] == "running":
            display.update()
            time.sleep(0.5)
    click.echo(status_text(sweep_status(store, sweep)))


@cli.command()
@click.argument("study")
@home_option
@profile_option
def stop(study: str, home: str, profile: str) -> None:
    """Ask the sweep of STUDY to stop; what is committed stays, and `run` resumes.

    Example: sensweep stop quickstart
    """
    store, sweep = find_sweep(study, home, profile)
    if store.alive(sweep) is not False and store.request_stop(sweep, "stopped by the user"):
        click.echo(f"{sweep}: asked to stop; `sensweep watch` shows when it has")
    else:
        click.echo(f"{sweep}: is not running")


@cli.command()
@click.argument("trial")
@home_option
@click.option("--path", "only_path", is_flag=True, help="Print only where the log file is.")
def logs(trial: str, home: str, only_path: bool) -> None:
    """Print the log of TRIAL's last attempt; the first characters of its id suffice.

    Example: sensweep logs 3fa9c1
    """
    from sensweep.orchestrator.sweep_status import last_log

    path = last_log(open_home(home), trial)
    if only_path:
        click.echo(path)
    else:
        click.echo(path.read_text(errors="replace"), nl=False)


@cli.command()
@click.argument("sql")
@home_option
@json_option
def query(sql: str, home: str, as_json: bool) -> None:
    """Run one SELECT over the views rows, trials, attempts, asks, cells and claims.

    Example: sensweep query "select arch, sigma, avg(value) from rows where name = 'sensitivity'
    group by all order by all"
    """
    from sensweep.results.queries import QueryError
    from sensweep.results.queries import query as select

    try:
        found = select(open_home(home), sql)
    except QueryError as error:
        raise InputError(str(error)) from None
    if as_json:
        print_json(found)
    else:
        from sensweep.orchestrator.cli_text import table_text

        click.echo(table_text(found))


@cli.command()
@click.argument("study")
@home_option
@profile_option
@json_option
def claims(study: str, home: str, profile: str, as_json: bool) -> None:
    """Print the verdict on each claim of STUDY, from the trials that its sweep recorded.

    Example: sensweep claims quickstart
    """
    from sensweep.results.queries import claims_of

    store, sweep = find_sweep(study, home, profile)
    found = [_with_interval(claim) for claim in claims_of(store, sweep)]
    if as_json:
        print_json(found)
    else:
        from sensweep.orchestrator.cli_text import claims_text

        click.echo(claims_text(found))


@cli.command()
@click.argument("study")
@home_option
@profile_option
@json_option
def report(study: str, home: str, profile: str, as_json: bool) -> None:
    """Write the report of STUDY: one HTML page and its figures.

    Example: sensweep report quickstart
    """
    from sensweep.orchestrator.reporting import report_sweep

    store, sweep = find_sweep(study, home, profile)
    page = report_sweep(store, sweep)
    if as_json:
        print_json({"report": str(page)})
    else:
        click.echo(page)


@cli.command()
@click.argument("study")
@home_option
@profile_option
@click.option("--tracking-uri", help="Where to mirror to; a sqlite file in the home by default.")
@json_option
def mirror(study: str, home: str, profile: str, tracking_uri: str | None, as_json: bool) -> None:
    """Bring MLflow level with what STUDY's sweep has committed; may be repeated at any time.

    Example: sensweep mirror quickstart --tracking-uri http://127.0.0.1:5000
    """
    from sensweep.results.mlflow_mirror import MirrorError
    from sensweep.results.mlflow_mirror import mirror as mirror_sweep

    store, sweep = find_sweep(study, home, profile)
    try:
        done = mirror_sweep(store, sweep, tracking_uri)
    except MirrorError as error:
        raise InputError(str(error)) from None
    if as_json:
        print_json(vars(done))
    else:
        click.echo(done)


@cli.command()
@json_option
def studies(as_json: bool) -> None:
    """List the studies that come with sensweep.

    Example: sensweep studies
    """
    from sensweep.orchestrator.study import load_study, shipped_studies

    found = []
    for name in shipped_studies():
        study = load_study(name)
        found.append(
            {
                "study": name,
                "profiles": ", ".join(dict.fromkeys(["cpu", *study.profiles])),
                "question": study.question,
            }
        )
    if as_json:
        print_json(found)
    else:
        from sensweep.orchestrator.cli_text import table_text

        click.echo(table_text(found, wrapped="question"))


@cli.command()
@home_option
@click.option("--dry-run", is_flag=True, help="Only say what would be freed.")
@json_option
def gc(home: str, dry_run: bool, as_json: bool) -> None:
    """Free checkpoints that no trial still needs, down to the quotas of the studies.

    Example: sensweep gc --dry-run
    """
    from sensweep.orchestrator.checkpoint_gc import collect

    freed = collect(open_home(home), dry_run)
    if as_json:
        print_json(freed)
    else:
        verb = "would free" if dry_run else "freed"
        click.echo(
            f"{verb} {freed['freed']} of {freed['checkpoints']} checkpoints "
            f"({freed['freed_bytes'] / 1e6:.1f} of {freed['bytes'] / 1e6:.1f} MB)"
        )


def _finish(sweep: Sweep, tracking_uri: str | None) -> dict[str, Any]:
    """Write cells, report and mirror of a sweep that ended; say where they are."""
    from sensweep.results.cells import write_cells
    from sensweep.results.mlflow_mirror import MirrorError, mirror
    from sensweep.results.store import Home

    store = Home(sweep.home)
    summary: dict[str, Any] = {
        "sweep": sweep.name,
        "home": str(sweep.home),
        "executed": sweep.executed,
        "stages": sweep.counts,
        "failed": sweep.failed,
        "stopped": sweep.stopped,
        "cells": str(write_cells(store, sweep.name)),
        "report": str(sweep.report()),
        "claims": [_with_interval(claim) for claim in sweep.claims()],
        "mlflow": None,
        "mlflow_error": None,
    }
    try:
        mirror(store, sweep.name, tracking_uri)
        summary["mlflow"] = tracking_uri or f"sqlite:///{sweep.home / 'mlflow.db'}"
    except MirrorError as error:
        summary["mlflow_error"] = str(error)
    return summary


def _with_interval(claim: dict[str, Any]) -> dict[str, Any]:
    return claim | {"interval": [claim["low"], claim["high"]]}


def _print_summary(sweep: Sweep, summary: dict[str, Any]) -> None:
    from sensweep.orchestrator.cli_text import claims_text, failures_text
    from sensweep.results.store import Home

    if sweep.executed == 0 and not sweep.stopped:
        click.echo("nothing to run: every trial of this study is in the home already")
    if sweep.stopped:
        click.echo(f"{sweep.stopped}; the same command resumes")
    if summary["failed"]:
        click.echo(failures_text(Home(sweep.home), sweep.name))
    if summary["claims"]:
        click.echo(claims_text(summary["claims"]))
    click.echo(f"report   {summary['report']}")
    if summary["mlflow"]:
        click.echo(f"mlflow   mlflow ui --backend-store-uri {summary['mlflow']}")
    else:
        click.echo(f"mlflow   not mirrored: {summary['mlflow_error']}")
    click.echo(f'query    sensweep query "select * from cells" --home {summary["home"]}')


cli.add_command(export_optuna)
cli.add_command(submit)
cli.add_command(job)


def main() -> None:
    """Run the command line; bad input ends it with one line and exit code 2."""
    from sensweep.results.errors import StoreError

    try:
        sys.exit(cli.main(standalone_mode=False) or DONE)
    except click.ClickException as error:
        problem = error.format_message()
    except (InputError, StoreError) as error:
        problem = str(error)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(STOPPED)
    click.echo(f"error: {' '.join(problem.split())}", err=True)
    sys.exit(BAD_INPUT)
