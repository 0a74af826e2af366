"""Reading a study's YAML as plain data, safely and by the rules of YAML 1.2.

PyYAML follows YAML 1.1, where `1e-3` is text, `no` is false and `1:30` is ninety; a study means
0.001, "no" and "1:30". Aliases are refused (306 bytes of them can spell 387 million leaves), as
are duplicate keys, of which PyYAML would silently keep the last.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from sensweep.orchestrator.errors import InputError, joined, located, shown

MAX_BYTES = 1_000_000
MAX_DEPTH = 32
Plain = None | bool | int | float | str | list["Plain"] | dict[str, "Plain"]

# libyaml's parser is ten times faster; PyYAML is built without it on some systems.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INT = re.compile(r"[-+]?[0-9]+")
_SPECIAL = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


STUDY = "a study file is a mapping (study: ..., stages: ...)"


def read_yaml(path: Path, wanted: str = STUDY) -> dict[str, Plain]:
    """Read a mapping from a YAML file; `wanted` says in messages what it should be.

    Raises:
        InputError: not readable, not YAML, too large or deep, an alias, a duplicate key, or
            anything but text, finite numbers, true, false, null, lists and mappings.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {getattr(error, 'strerror', error)}") from None
    if len(data) > MAX_BYTES:
        raise InputError(f"{path}: larger than {MAX_BYTES:,} bytes; such a file is a page of text")
    try:
        return parse_yaml(data.decode("utf-8"), path.name, wanted)
    except UnicodeDecodeError as error:
        raise InputError(f"{path.name}: not UTF-8 text at byte {error.start}") from None


def parse_yaml(text: str, source: str, wanted: str = STUDY) -> dict[str, Plain]:
    """Read a mapping from YAML text; `source` names it in messages. Raises as `read_yaml`."""
    try:
        _refuse_unsafe(text, source)
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark: Any = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise InputError(f"{source}{line}: not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{source}: not valid YAML: {error}") from None
    data = _plain(node, source, ()) if node is not None else None
    if not isinstance(data, dict):
        raise InputError(f"{source}: {wanted}")
    return data


def _refuse_unsafe(text: str, source: str) -> None:
    """Look at events only, before any tree is built."""
    depth = 0
    event: Any  # the subclasses' fields are in no stub
    for event in yaml.parse(text, Loader=_Loader):
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise InputError(
                f"{source}:{line}: aliases and anchors (*{event.anchor}) are not allowed; "
                "write the value out, or share it as an axis"
            )
        if getattr(event, "tag", None):
            raise InputError(f"{source}:{line}: tags ({event.tag}) are not allowed")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise InputError(f"{source}:{line}: nested deeper than {MAX_DEPTH} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _plain(node: Any, source: str, path: tuple[str | int, ...]) -> Plain:
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Plain] = {}
        for key_node, value_node in node.value:
            key = _key(key_node, source, path)
            if key in mapping:
                line = key_node.start_mark.line + 1
                raise InputError(f"{source}:{line}: {joined((*path, key))}: the key is given twice")
            mapping[key] = _plain(value_node, source, (*path, key))
        return mapping
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, source, (*path, i)) for i, item in enumerate(node.value)]
    if node.style:  # quoted, or a block of text
        return str(node.value)
    return _scalar(node.value, f"{source}:{node.start_mark.line + 1}: {joined(path)}")


def _key(node: Any, source: str, path: tuple[str | int, ...]) -> str:
    where = f"{source}:{node.start_mark.line + 1}: {joined(path)}".rstrip(": ")
    if not isinstance(node, yaml.ScalarNode):
        raise InputError(f"{where}: a key must be text, not a list or mapping")
    key = _plain(node, source, path)
    if not isinstance(key, str):
        raise InputError(f'{where}: the key {shown(key)} is not text; write "{node.value}"')
    return key


def _scalar(text: str, where: str) -> bool | int | float | str | None:
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        try:
            return int(text)
        except ValueError:  # Python refuses to read over 4300 digits
            raise InputError(f"{where}: the number {shown(text)} is too long") from None
    if _FLOAT.fullmatch(text):
        value = float(text)
        if math.isfinite(value):
            return value
    if _FLOAT.fullmatch(text) or _SPECIAL.fullmatch(text):
        raise InputError(f"{where}: {shown(text)} is not a finite number")
    return text


def check_plain(value: object, path: tuple[str | int, ...]) -> None:
    """Refuse what JSON could not hold, or is nested too deeply.

    Raises:
        InputError: with the path.
    """
    if len(path) > MAX_DEPTH:
        raise InputError(f"{joined(path[:4])}...: nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise InputError(located(path, f"the key {shown(key)} is not text"))
            check_plain(inner, (*path, key))
    elif isinstance(value, list | tuple | range):
        for i, inner in enumerate(value):
            check_plain(inner, (*path, i))
    elif isinstance(value, float) and not math.isfinite(value):
        raise InputError(located(path, f"{value} is not a finite number"))
    elif not isinstance(value, str | int | float | None):
        kind = type(value).__name__
        raise InputError(
            located(path, f"a {kind} is not plain data (text, numbers, lists, mappings)")
        )
