"""A study's profiles: named overrides of what the file says."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sensweep.orchestrator.errors import InputError, shown, suggest


def profile_names(data: Mapping[str, Any]) -> list[str]:
    """Name the profiles of a study's plain data; none where they are not even a mapping."""
    profiles = data.get("profiles")
    return list(profiles) if isinstance(profiles, Mapping) else []


def axis_variants(data: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return each axis as the file and each of its profiles write it."""
    sources = [data, *(data["profiles"][name] for name in profile_names(data))]
    found: dict[str, list[Any]] = {}
    for source in sources:
        axes = source.get("axes") if isinstance(source, Mapping) else None
        for name, axis in axes.items() if isinstance(axes, Mapping) else ():
            found.setdefault(name, []).append(axis)
    return found


def merged(data: Mapping[str, Any], profile: str, keys: Collection[str]) -> dict[str, Any]:
    """Apply a profile: mappings merge deeply, lists and scalars replace.

    An axis is replaced whole, for half of its labels would be the other profile's; the claims and
    the figures are lists, and so replaced whole, too.

    Args:
        data: the study's plain data.
        profile: the profile's name; one that the data does not have changes nothing.
        keys: what a profile may override.

    Raises:
        InputError: the profile is not a mapping, or overrides something else.
    """
    override = data["profiles"].get(profile) if profile in profile_names(data) else None
    if override is None:
        return dict(data)
    if not isinstance(override, Mapping):
        raise InputError(f"profiles.{profile}: {shown(override)} is not a mapping of overrides")
    for key in override:
        if key not in keys:
            raise InputError(f"profiles.{profile}.{key}: unknown key{suggest(key, keys)}")
    result: dict[str, Any] = _overridden(data, override, ())
    return result


def _overridden(base: Any, override: Any, path: tuple[str, ...]) -> Any:
    an_axis = len(path) == 2 and path[0] == "axes"
    if an_axis or not isinstance(base, Mapping) or not isinstance(override, Mapping):
        return override
    common = {k: _overridden(v, override[k], (*path, k)) for k, v in base.items() if k in override}
    return {**base, **common, **{k: v for k, v in override.items() if k not in base}}
