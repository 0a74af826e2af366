"""Commands about searches."""

from __future__ import annotations

import click

from sensweep.orchestrator.cli_home import (
    find_sweep,
    home_option,
    json_option,
    print_json,
    profile_option,
)


@click.command("export-optuna")
@click.argument("study")
@home_option
@profile_option
@click.option("--to", help="Optuna storage: an sqlite file or a URL; HOME/optuna.db by default.")
@json_option
def export_optuna(study: str, home: str, profile: str, to: str | None, as_json: bool) -> None:
    """Copy the searches of STUDY into an Optuna storage, which optuna-dashboard opens.

    May be repeated at any time: what was exported of the sweep before is replaced.

    Example: sensweep export-optuna intervention_search --to sqlite:///search.db
    """
    from sensweep.orchestrator.search_export import export

    store, sweep = find_sweep(study, home, profile)
    url, written = export(store, sweep, to)
    if as_json:
        print_json({"storage": url, "studies": written})
        return
    for name, trials in written.items():
        click.echo(f"{name}: {trials} trial{'s' if trials != 1 else ''}")
    click.echo(f"storage  {url}")
