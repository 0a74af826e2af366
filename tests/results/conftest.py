"""A small home, made once and copied for each test; see `small_study.py`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from small_study import run_study

from sensweep.results.store import Home


@pytest.fixture(scope="session")
def finished_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a home like `small_home`, which no test may change."""
    path = tmp_path_factory.mktemp("finished") / "home"
    run_study(Home(path))
    return path


@pytest.fixture
def small_home(finished_home: Path, tmp_path: Path) -> Home:
    """A home with the sweep `small.cpu`: 12 train and 12 sensitivity trials, all done."""
    return Home(shutil.copytree(finished_home, tmp_path / "home"))
