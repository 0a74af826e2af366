"""JSON mappings as columns: points and coordinates become columns that SQL can filter.

A home has a million rows but few distinct points and coordinates, so only the distinct texts are
parsed; the views join their columns to the rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import pyarrow as pa

_INT64 = range(-(2**63), 2**63)
_EXACT = range(-(2**53), 2**53 + 1)  # integers that a double holds


def expand(texts: Iterable[str]) -> tuple[list[str], pa.Table]:
    """Parse JSON mappings into a table with one column per key.

    A key's column is boolean, int64 or double where all its values are (integers beside floats
    are double). Any other mixture, an integer that is too large, a list or a mapping makes it a
    string column, in which what is not text stands as in JSON. A mapping that lacks the key has
    null there.

    Returns:
        the keys, sorted, and a table with a line per distinct text: the text in column `json`,
        then the keys' values in `k0`, `k1`, ... (keys may be anything, so they name no columns).
    """
    distinct = sorted(set(texts))
    mappings = [json.loads(text) for text in distinct]
    keys = sorted({key for mapping in mappings for key in mapping})
    columns = [_column([mapping.get(key) for mapping in mappings]) for key in keys]
    names = [f"k{i}" for i in range(len(keys))]
    return keys, pa.table([pa.array(distinct, pa.string()), *columns], ["json", *names])


def _column(values: Sequence[object]) -> pa.Array:
    present = [value for value in values if value is not None]
    types = {type(value) for value in present}
    if types == {bool}:
        return pa.array(values, pa.bool_())
    integers = [value for value in present if type(value) is int]
    if types == {int} and all(value in _INT64 for value in integers):
        return pa.array(values, pa.int64())
    if types <= {int, float} and all(value in _EXACT for value in integers):
        return pa.array(values, pa.float64())
    return pa.array([_text(value) for value in values], pa.string())


def _text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def column_names(fixed: Iterable[str], **keys: Iterable[str]) -> dict[str, list[str]]:
    """Name the columns of a view so that no two names are equal to SQL, which ignores case.

    Args:
        fixed: the view's own columns, which always keep their names.
        keys: what else becomes columns, in order of precedence. A key keeps its bare name if that
            is free; else it becomes `<prefix>_<key>`, or `<prefix>_<key>_2` and so on.

    Returns:
        for each prefix the names of its columns, in order.
    """
    taken = {name.lower() for name in fixed}
    names: dict[str, list[str]] = {}
    for prefix, wanted in keys.items():
        names[prefix] = []
        for key in wanted:
            name, number = key, 1
            while not name or name.lower() in taken:
                name = f"{prefix}_{key}" if number == 1 else f"{prefix}_{key}_{number}"
                number += 1
            taken.add(name.lower())
            names[prefix].append(name)
    return names
