"""What the commands share: the options that name a home and a sweep, and finding them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sensweep.orchestrator.errors import InputError, suggest

if TYPE_CHECKING:
    from sensweep.results.store import Home

home_option = click.option(
    "--home", default="runs", show_default=True, help="Folder of the results."
)
profile_option = click.option(
    "--profile", default="cpu", show_default=True, help="Profile of the study."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")


def open_home(home: str) -> Home:
    """Open a home that exists."""
    from sensweep.results.store import Home

    if not Path(home).is_dir():
        raise InputError(f"no home at {home!r}: give --home, or make one with `sensweep run`")
    return Home(home)


def find_sweep(study: str, home: str, profile: str) -> tuple[Home, str]:
    """Find a sweep of a home by its study's name or file, or by its own id."""
    store = open_home(home)
    known = store.sweeps()
    name = Path(study).stem if study.endswith((".yaml", ".yml")) else study
    for sweep in (study, f"{name}.{profile}"):
        if sweep in known:
            return store, sweep
    if study.endswith((".yaml", ".yml")) and Path(study).is_file():
        from sensweep.orchestrator.study import load_study

        sweep = load_study(study, profile).sweep
        if sweep in known:
            return store, sweep
    raise InputError(
        f"no sweep {name}.{profile} in the home {home!r}{suggest(f'{name}.{profile}', known)}"
    )


def print_json(value: object) -> None:
    """Print a value as JSON, for `--json`."""
    click.echo(json.dumps(value, indent=2, default=str, ensure_ascii=False))
