"""What a cluster is asked to run, and what the kinds of clusters have in common.

A kind (`local`, `ray`, `slurm`, `kubernetes`) renders a job as text that can be read before it is
sent, sends it, and asks after it. It keeps no state: what it needs later is in the job's handle,
which the home records.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

#: What is kept of a job besides its name: its number at the scheduler, where its log is.
Handle = dict[str, str]

#: waiting and running jobs will go on; of a job that is `gone` its cluster remembers nothing.
State = Literal["waiting", "running", "ended", "failed", "cancelled", "gone"]

PATIENCE = 60.0  # seconds that a scheduler's command may take to answer
SHOWN_LOG = 200_000  # characters of a log, from its end


class ClusterError(Exception):
    """A cluster could not be asked, or refused; the message is one line."""


@dataclass(frozen=True, slots=True)
class Job:
    """One `sensweep run` on a cluster.

    Attributes:
        name: unique for its home; a DNS label of at most 47 characters.
        number: its number within the sweep, from 1.
        sweep: the sweep that it runs.
        study: a shipped study's name, or the absolute path of a study file.
        study_text: the content of that file; None for a shipped study.
        profile: the study's profile.
        home: absolute path of the home on this machine.
        records: the folder in the home where this job's text and log are.
        folder: the working folder in which `sensweep submit` was called.
        options: further options of `sensweep run`.
    """

    name: str
    number: int
    sweep: str
    study: str
    study_text: str | None
    profile: str
    home: str
    records: Path
    folder: Path
    options: tuple[str, ...] = ()

    def argv(self, *more: str, study: str | None = None, home: str | None = None) -> list[str]:
        """Give the command; `study` and `home` stand for what the cluster calls them."""
        where = ["--home", home or self.home, "--profile", self.profile]
        return ["sensweep", "run", study or self.study, *where, *self.options, *more]

    def words(self, *more: str, study: str | None = None, home: str | None = None) -> str:
        """Write the command for a shell, every word quoted."""
        return shlex.join(self.argv(*more, study=study, home=home))


@dataclass(frozen=True, slots=True)
class Seen:
    """What a cluster says of a job: its state, and the cluster's own words for it."""

    state: State
    detail: str = ""


def one_line(text: str) -> str:
    """Refuse line breaks and control characters, which could smuggle in another line."""
    if not text.isprintable():
        raise ValueError("must be one line of printable text")
    return text


def _not_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not hold a NUL character")
    return text


Line = Annotated[str, AfterValidator(one_line), Field(min_length=1, max_length=4000)]
Lines = tuple[Line, ...]
Variables = dict[
    Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=256)],
    Annotated[str, AfterValidator(_not_nul), Field(max_length=32_000)],
]


class Part(BaseModel):
    """A block of a cluster file: no other keys than these, and no changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Kind(Part, ABC):
    """A kind of cluster. Every method may raise `ClusterError`."""

    suffix: ClassVar[str] = "sh"  # of the file that holds the text

    @abstractmethod
    def render(self, job: Job) -> str:
        """Write the text that is sent; the same job gives the same text."""

    @abstractmethod
    def command(self, job: Job, text: Path) -> list[str]:
        """Give the command, or the request, that sends the file `text`."""

    @abstractmethod
    def send(self, job: Job, text: Path) -> Handle:
        """Send the rendered text, which is in the file `text`; return what finds the job again."""

    @abstractmethod
    def state(self, name: str, handle: Handle) -> Seen:
        """Ask after a job; by its name where the handle is empty, for then sending broke off."""

    @abstractmethod
    def cancel(self, name: str, handle: Handle) -> None:
        """End a job, whatever it does; one that is over is no error."""

    @abstractmethod
    def logs(self, name: str, handle: Handle) -> str:
        """Return what the job printed."""


def script(job: Job, head: Sequence[str], setup: Sequence[str], body: str) -> str:
    """Write a shell script: lines of its head, then, in the working folder, set-up and body."""
    title = f"# {job.sweep} as {job.name}; written by `sensweep submit`."
    folder = f"cd {shlex.quote(str(job.folder))} || exit 2"
    return "\n".join(["#!/bin/bash", title, *head, folder, *setup, body, ""])


def call(argv: Sequence[str]) -> str:
    """Call a scheduler's command and return what it printed.

    Raises:
        ClusterError: it is not there, does not answer, or fails; with its own last words.
    """
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PATIENCE,
            check=True,
            env=environment(),
        )
    except FileNotFoundError:
        raise ClusterError(
            f"{argv[0]} is not on the PATH of this machine: submit from one that has it"
        ) from None
    except subprocess.TimeoutExpired:
        raise ClusterError(f"{argv[0]} did not answer within {PATIENCE:g} s") from None
    except subprocess.CalledProcessError as error:
        said = (error.stderr or error.stdout).strip().splitlines()
        last = said[-1] if said else "it said nothing"
        raise ClusterError(f"{argv[0]} failed (exit code {error.returncode}): {last}") from None
    return done.stdout


def environment() -> dict[str, str]:
    """Give this process's variables for what is called; their PATH finds `sensweep`."""
    ours = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": os.pathsep.join(filter(None, (os.environ.get("PATH"), ours)))}


def tail(path: str | None) -> str:
    """Read the end of a log file; nothing if the job has not begun one."""
    if path is None:
        return ""
    try:
        with open(path, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - SHOWN_LOG))
            return file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
