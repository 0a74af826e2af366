"""The trace that a study leaves when it is changed after results were there to be looked at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sensweep.results.schema import canonical_json

# How a study is run and shown, as opposed to what it asks and measures.
_OF_A_STUDY = {"figures", "budget", "checkpoints", "profiles"}
_OF_A_STAGE = {"resources", "timeout", "retries"}
_LONGEST = 80  # characters of a value
_NOTHING = object()


def changes(studies: Sequence[Mapping[str, Any]], committed: Sequence[int]) -> list[str]:
    """Say what was changed from one driver epoch to the next after trials had been committed.

    Args:
        studies: the resolved study of each epoch, in order.
        committed: for each epoch, how many trials' results were committed before it began.

    Returns:
        One sentence per change: added or removed seeds; added, removed or altered claims; any
        other field that decides what is asked or measured, with its path, old and new value.
    """
    said = []
    for epoch in range(1, len(studies)):
        if not committed[epoch]:
            continue
        trials = f"{committed[epoch]} trial{'s' * (committed[epoch] > 1)}"
        after = f"after results of {trials} were committed (epoch {epoch + 1})."
        before, now = studies[epoch - 1], studies[epoch]
        found = [*_seeds(before, now), *_claims(before, now), *_fields(before, now)]
        said += [f"{change} {after}" for change in found]
    return said


def _seeds(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    old, new = (list(study.get("seeds", [])) for study in (before, now))
    for verb, seeds in (
        ("added", [seed for seed in new if seed not in old]),
        ("removed", [seed for seed in old if seed not in new]),
    ):
        if seeds:
            several = len(seeds) > 1
            names = ", ".join(map(str, seeds))
            yield f"seed{'s' * several} {names} {'were' if several else 'was'} {verb}"


def _claims(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    old, new = ({c["id"]: c for c in study.get("claims", [])} for study in (before, now))
    for name in [*old, *(name for name in new if name not in old)]:
        if name not in new:
            yield f"claim {name} was removed"
        elif name not in old:
            yield f"claim {name} was added"
        else:
            for path, was, becomes in _differences(old[name], new[name], ()):
                if path != "figure":
                    yield f"claim {name}: {path} was changed from {was} to {becomes}"


def _fields(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    old, new = map(_science, (before, now))
    for path, was, becomes in _differences(old, new, ()):
        yield f"{path} was changed from {was} to {becomes}"


def _science(study: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the questions and numbers, seeds and claims aside."""
    kept = {k: v for k, v in study.items() if k not in {"seeds", "claims"} | _OF_A_STUDY}
    stages = study.get("stages", {}).items()
    return kept | {
        "stages": {
            name: {key: value for key, value in stage.items() if key not in _OF_A_STAGE}
            for name, stage in stages
        }
    }


def _differences(old: Any, new: Any, path: tuple[str, ...]) -> Iterator[tuple[str, str, str]]:
    """Yield (path, old, new) of each leaf that differs."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in [*old, *(key for key in new if key not in old)]:
            below = (*path, str(key))
            yield from _differences(old.get(key, _NOTHING), new.get(key, _NOTHING), below)
    elif old != new:
        yield ".".join(path), _shown(old), _shown(new)


def _shown(value: Any) -> str:
    if value is _NOTHING:
        return "nothing"
    text = canonical_json(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
