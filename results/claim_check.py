"""What can be found wrong in a study's claims before anything has run."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from sensweep.results.claim_spec import ClaimSpec, as_list
from sensweep.results.selector import Scalar, canonical, nearest


def check(
    claims: Sequence[ClaimSpec],
    *,
    axes: Mapping[str, Collection[Scalar] | None],
    stages: Collection[str],
    names: Collection[str] | None = None,
    coordinates: Collection[str] | None = None,
    figures: Collection[str] | None = None,
) -> list[str]:
    """Find what in the claims the study cannot give; one line per problem, [] if none.

    Args:
        claims: the study's claims.
        axes: label values of each axis; None for an axis without labels (a random range).
        stages: the stages' names.
        names, coordinates: what the study's tasks measure; None where that is not known.
        figures: names of the study's figures; None where not known.
    """
    problems: list[str] = []
    columns = None if coordinates is None else {*axes, *coordinates, "seed", "stage", "step"}
    for i, claim in enumerate(claims):
        for path, kind, given in _references(claim):
            at = f"claims[{i}] ({claim.id}).{path}"
            if kind == "column" and columns is not None and given not in columns:
                problems.append(f"{at}: unknown column {given!r}{nearest(given, columns)}")
            elif kind in ("stage", "name", "figure"):
                known = {"stage": stages, "name": names, "figure": figures}[kind]
                if known is not None and given not in known:
                    problems.append(f"{at}: unknown {kind} {given!r}{nearest(given, known)}")
            elif (labels := axes.get(kind.removeprefix("label of "))) is not None:
                known = {canonical(label) for label in labels}
                if canonical(given) not in known:
                    problems.append(
                        f"{at}: unknown {kind.removeprefix('label of ')} {canonical(given)!r}"
                        f"{nearest(canonical(given), known)}"
                    )
    return problems + _family_problems(claims)


def _family_problems(claims: Sequence[ClaimSpec]) -> list[str]:
    problems, ids, levels = [], set[str](), dict[str, float]()
    for i, claim in enumerate(claims):
        if claim.id in ids:
            problems.append(f"claims[{i}].id: {claim.id!r} is taken by an earlier claim")
        ids.add(claim.id)
        level = levels.setdefault(claim.family, claim.level)
        if claim.type != "descriptive" and level != claim.level:
            problems.append(
                f"claims[{i}] ({claim.id}).level: {claim.level:g} where its family "
                f"{claim.family!r} has {level:g}: give both one level, or a family of its own"
            )
    return problems


def _references(claim: ClaimSpec) -> Iterator[tuple[str, str, Any]]:
    """Everything a claim names: (path, what kind of thing, the name)."""
    filters: list[tuple[str, Any]] = [("where", claim.where), ("for_each", claim.for_each)]
    filters += [(side, getattr(claim, side, None)) for side in ("of", "than")]
    for path, quantity in claim.quantities():
        yield f"{path}.name", "name", quantity.name
        if quantity.stage is not None:
            yield f"{path}.stage", "stage", quantity.stage
        filters.append((f"{path}.where", quantity.where))
    for path, filter_ in filters:
        if not isinstance(filter_, dict):
            continue
        for column, labels in filter_.items():
            yield path, "column", column
            for label in as_list(labels) or []:
                kind = "stage" if column == "stage" else f"label of {column}"
                yield f"{path}.{column}", kind, label
    for field in ("replicate", "over", "within", "along", "average_over"):
        for column in as_list(getattr(claim, field, None)) or []:
            if not (field == "replicate" and column in ("model", "cell")):
                yield field, "column", column
    if claim.figure is not None:
        yield "figure", "figure", claim.figure
