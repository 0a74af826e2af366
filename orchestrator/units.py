"""Durations (`30m`) and sizes (`2 GB`) as a study file writes them."""

from __future__ import annotations

import math
import re
from typing import Annotated

from pydantic import BeforeValidator

from sensweep.orchestrator.errors import shown, suggest

SECONDS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
# Decimal as in SI, binary as in IEC 80000-13.
BYTES = {
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
_PART = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")


def parse_duration(value: object) -> float:
    """Read a duration in seconds: ``30m``, ``1h 30m``, ``45 s``, ``500 ms``, or plain seconds.

    Raises:
        ValueError: not a positive duration; the message names the units.
    """
    return _parse(value, SECONDS, "a duration such as 30m or 1h 30m", several=True)


def parse_size(value: object) -> int:
    """Read a size in bytes: ``2 GB`` (10^9), ``512 MiB`` (2^20), or plain bytes.

    Raises:
        ValueError: not a positive size; the message names the units.
    """
    return round(_parse(value, BYTES, "a size such as 2 GB or 512 MiB", several=False))


def _parse(
    value: object, units: dict[str, float] | dict[str, int], wanted: str, several: bool
) -> float:
    total, position = 0.0, 0
    if isinstance(value, int | float) and not isinstance(value, bool):
        total = float(value) if abs(value) < 1e300 else math.inf
    elif isinstance(value, str):
        while position < len(value):
            part = _PART.match(value, position)
            if part is None or (position and not several):
                raise ValueError(f"{shown(value)} is not {wanted}")
            number, unit = part.groups()
            if unit not in units:
                what = f"unknown unit {unit!r}" if unit else "a unit is missing"
                raise ValueError(f"{shown(value)} is not {wanted}: {what}{suggest(unit, units)}")
            total += float(number) * units[unit]
            position = part.end()
    else:
        raise ValueError(f"{shown(value)} is not {wanted}")
    if not 0 < total < math.inf:
        raise ValueError(
            f"{shown(value)} is not {wanted}: it must be more than nothing, and finite"
        )
    return total


Duration = Annotated[float, BeforeValidator(parse_duration)]
Size = Annotated[int, BeforeValidator(parse_size)]


def format_duration(seconds: float) -> str:
    """Write seconds for people, in the two largest units: ``1h 30m``, ``45s``, ``0.2s``."""
    if seconds < 10:
        return f"{seconds:.2g}s"
    rest, parts = round(seconds), []
    for unit in ("d", "h", "m", "s"):
        count, rest = divmod(rest, int(SECONDS[unit]))
        if count:
            parts.append(f"{count}{unit}")
        elif parts:
            break
    return " ".join(parts[:2])


def format_size(size: float) -> str:
    """Write bytes for people, in decimal units: ``2 GB``, ``1.5 MB``."""
    for unit in ("TB", "GB", "MB", "kB"):
        if size >= BYTES[unit]:
            return f"{size / BYTES[unit]:.3g} {unit}"
    return f"{size:.0f} B"
