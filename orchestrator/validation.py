"""Turning a pydantic error into one line: path, value, what is valid, the nearest valid name."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterable, Mapping

from pydantic import BaseModel, ValidationError

from sensweep.orchestrator.errors import FieldError, shown, suggest

Path = tuple[str | int, ...]
# Of a study, a stage, an axis: they become names of folders and of columns.
NAME = r"^[a-z][a-z0-9_]*$"


def explain(error: ValidationError, model: object, data: object) -> tuple[Path, str]:
    """Return the path and the message of the error's first problem; unknown keys come first.

    Args:
        error: what validating `data` against `model` raised.
        model: a pydantic model, or another annotation that a `TypeAdapter` takes.
        data: the input, in which tags that pydantic puts into its paths are told from keys.
    """
    problems: dict[Path, list[str]] = {}
    unknown: list[Path] = []
    for problem in error.errors(include_url=False):
        path = _real_path(problem["loc"], data, problem["type"] == "missing")
        if problem["type"] == "extra_forbidden":
            names = _fields(_models_at(model, problem["loc"][:-1], data))
            message = f"unknown key{suggest(path[-1], names)}"
            unknown.append(path)
        else:
            path, message = _message(path, problem)
        problems.setdefault(path, []).append(message)
    first = (unknown or list(problems))[0]
    others = len(problems) - 1
    more = f" (and {others} more problem{'s' if others > 1 else ''})" if others else ""
    return first, " or ".join(dict.fromkeys(problems[first])) + more


def _message(path: Path, problem: Mapping[str, typing.Any]) -> tuple[Path, str]:
    kind, context, given = problem["type"], problem.get("ctx", {}), shown(problem["input"])
    if kind == "missing":
        return path, "missing key"
    if kind in ("literal_error", "enum"):
        valid = re.findall(r"'([^']*)'", context["expected"])
        return path, f"unknown value {given}{suggest(problem['input'], valid)}"
    if kind == "union_tag_invalid":
        valid = re.findall(r"'([^']*)'", context["expected_tags"])
        tag, field = context["tag"], context["discriminator"].strip("'")
        return (*path, field), f"unknown value {shown(tag)}{suggest(tag, valid)}"
    if kind == "union_tag_not_found":
        return path, f"missing key {context['discriminator']}"
    if kind == "value_error":
        cause = context["error"]
        below = cause.path if isinstance(cause, FieldError) else ()
        return (*path, *below), str(cause)
    if kind == "string_pattern_mismatch" and context["pattern"] == NAME:
        return path, f"{given} is not a name: wanted a-z, 0-9 and _, a letter first"
    message = problem["msg"].replace("dictionary", "mapping")
    return path, f"{given} is not valid: {message[:1].lower()}{message[1:]}"


def _real_path(loc: Path, data: object, missing: bool) -> Path:
    """Keep of pydantic's path the keys and indices that lead through `data`."""
    path: list[str | int] = []
    for i, part in enumerate(loc):
        inside: object = None
        if isinstance(data, BaseModel):
            data = dict(data)
        try:
            inside = data[part]  # type: ignore[index]
        except (KeyError, IndexError, TypeError):
            if not (missing and i == len(loc) - 1):
                continue
        path.append(part)
        data = inside
    return tuple(path)


def _models_at(model: object, loc: Path, data: object) -> list[type[BaseModel]]:
    """Find the models that may stand at a path: several where the annotations have a union."""
    found = list(_unfold(model))
    for part in loc:
        inner: list[object] = []
        tagged = [m for m in found if isinstance(part, str) and part in _tags(m)]
        for annotation in found:
            if _is_model(annotation):
                field = annotation.model_fields.get(part)  # type: ignore[attr-defined]
                inner += _unfold(field.annotation) if field else []
            else:
                arguments = [a for a in typing.get_args(annotation) if a is not ...]
                inner += _unfold(arguments[-1]) if arguments else []
        found = tagged or inner or found
    return [m for m in found if _is_model(m)]  # type: ignore[misc]


def _unfold(annotation: object) -> Iterable[object]:
    """Yield the members of a union, whatever it is wrapped in."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        yield from _unfold(typing.get_args(annotation)[0])
    elif origin in (typing.Union, types.UnionType):
        for member in typing.get_args(annotation):
            yield from _unfold(member)
    else:
        yield annotation


def _tags(model: object) -> set[object]:
    """The values of a model's one-valued fields, by which a union tells its members apart."""
    if not _is_model(model):
        return set()
    fields = model.model_fields.values()  # type: ignore[attr-defined]
    literals = (f.annotation for f in fields if typing.get_origin(f.annotation) is typing.Literal)
    return {value for literal in literals for value in typing.get_args(literal)} | {
        model.__name__  # type: ignore[attr-defined]
    }


def _is_model(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _fields(models: Iterable[type[BaseModel]]) -> list[str]:
    return list(dict.fromkeys(name for model in models for name in model.model_fields))
