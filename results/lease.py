"""The lease of a sweep: how a newcomer finds out whether the driver of the open epoch still lives.

The lease only spares a live driver from being fenced; it protects no data. (The log does that: see
`sensweep.results.manifest`.) Clocks of two hosts are never compared: a newcomer watches the
holder's counter by its own monotonic clock.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sensweep.results.files import Files
from sensweep.results.manifest import Owner, SweepState
from sensweep.results.schema import canonical_json

#: Heartbeats per lease time: a driver may miss four before it may be thought dead.
_BEATS = 5
_POLL_SECONDS = 0.1


def this_process(name: str, lease_seconds: float) -> Owner:
    """Describe this process as the owner of an epoch; an empty `name` becomes the user's."""
    return Owner(
        name=name or _user(),
        host=socket.gethostname(),
        machine=_machine(),
        pid=os.getpid(),
        started=_start_of(os.getpid()) or "",
        since=datetime.now(UTC).isoformat(timespec="seconds"),
        interval=lease_seconds / _BEATS,
    )


def known_alive(owner: Owner) -> bool | None:
    """Tell by its pid whether the owner's process exists; None if it cannot be told from here."""
    if not owner.machine or not owner.started:
        return None
    if (owner.host, owner.machine) != (socket.gethostname(), _machine()):
        return None
    start = _start_of(owner.pid)
    return None if start is None and _hidden(owner.pid) else start == owner.started


@dataclass(slots=True)
class Lease:
    """The lease file of the sweep whose folder is `folder`."""

    files: Files
    folder: str

    @property
    def path(self) -> str:
        """Where the lease is."""
        return f"{self.folder}/lease.json"

    def beat(self, epoch: int, owner: Owner, counter: int) -> None:
        """Show that the driver of `epoch` lives, by a counter that grows."""
        content = {"epoch": epoch, "counter": counter, "host": owner.host, "pid": owner.pid}
        self.files.write(self.path, canonical_json(content).encode(), durable=False)

    def last_beat(self) -> tuple[int, int] | None:
        """Return (epoch, counter) of the last beat; None if there is none that can be read."""
        try:
            content = json.loads(self.files.read(self.path))
            return int(content["epoch"]), int(content["counter"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None  # not written durably: a power loss may leave anything

    def held(self, state: SweepState, lease_seconds: float) -> bool:
        """Tell whether the driver of the open epoch lives: at once, or by watching its counter.

        It watches until the counter changes, at most for `lease_seconds`, or for three intervals
        of the holder if that is longer.
        """
        owner = state.owner
        if owner is None or known_alive(owner) is False:
            return False
        first = self.last_beat()
        patience = max(lease_seconds, 3 * owner.interval)
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            time.sleep(min(_POLL_SECONDS, patience / 10))
            beat = self.last_beat()
            # A fenced driver may beat once more; only the open epoch's counter counts.
            if beat is not None and beat != first and beat[0] == state.epoch:
                return True
        return False


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return f"user {os.getuid()}"


def _machine() -> str:
    """Name the boot and the pid namespace: a pid means nothing in another container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return ""


def _hidden(pid: int) -> bool:
    """Tell whether the process exists though /proc does not show it (mounted with hidepid)."""
    if Path(f"/proc/{pid}").exists():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return False


def _start_of(pid: int) -> str | None:
    """Return the start time of a process in ticks since boot; None if it is dead or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # Fields 3 and 22; field 2, the command in brackets, may itself hold blanks and brackets.
    fields = stat[stat.rindex(")") + 2 :].split()
    return None if fields[0] in "ZX" else fields[19]
