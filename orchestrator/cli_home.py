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
    names = sweep_names(study, profile)
    for sweep in names:
        if sweep in known:
            return store, sweep
        if (store.path / "sweeps" / sweep / "jobs").is_dir():
            raise InputError(
                f"sweep {sweep} was submitted and has not begun: `sensweep job status {sweep} "
                f"--home {home}` tells what its cluster says"
            )
    raise InputError(f"no sweep {names[1]} in the home {home!r}{suggest(names[1], known)}")


def sweep_names(study: str, profile: str) -> list[str]:
    """List the ids that a sweep may have which is called by its id, its study's name or file."""
    a_file = study.endswith((".yaml", ".yml"))
    names = [study, f"{Path(study).stem if a_file else study}.{profile}"]
    if a_file and Path(study).is_file():
        from sensweep.orchestrator.study import load_study

        names.append(load_study(study, profile).sweep)
    return names


def print_json(value: object) -> None:
    """Print a value as JSON, for `--json`."""
    click.echo(json.dumps(value, indent=2, default=str, ensure_ascii=False))
