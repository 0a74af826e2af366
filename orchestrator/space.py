"""From axes to points: grids, random draws and listed points, conditional axes included.

A point maps axis -> label. An axis whose condition is not met is absent from the point, so a
baseline without a strength is one point, not one per strength. The order of points depends on
the names of the axes and the order of each axis's values, never on the order of the axes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence

from sensweep.orchestrator.axes import Axis, Block, Label, Point
from sensweep.orchestrator.errors import FieldError, shown, suggest

# A study of more points than this is a slip of the pen (an axis too many), not a plan.
MAX_POINTS = 1_000_000


def resolution_order(axes: Mapping[str, Axis], names: Iterable[str]) -> list[str]:
    """Order axes so that each comes after those that its conditions name; ties go by name.

    Raises:
        FieldError: conditions in a circle; the message names them.
    """
    waiting = {name: set(axes[name].conditions) for name in sorted(names)}
    for conditions in waiting.values():
        conditions &= set(waiting)
    order: list[str] = []
    while waiting:
        ready = next((name for name, conditions in waiting.items() if not conditions), None)
        if ready is None:
            circle = _circle(waiting)
            raise FieldError(f"conditions in a circle: {' -> '.join(circle)}", circle[0])
        order.append(ready)
        del waiting[ready]
        for conditions in waiting.values():
            conditions.discard(ready)
    return order


def _circle(waiting: Mapping[str, set[str]]) -> list[str]:
    path = [min(waiting)]
    while path[-1] not in path[:-1]:
        path.append(min(waiting[path[-1]]))
    return path[path.index(path[-1]) :]


def grid(axes: Mapping[str, Axis], names: Sequence[str], given: Point | None = None) -> list[Point]:
    """Cross the axes `names`, at the point `given` (what is inherited; it is part of the result).

    Raises:
        FieldError: a range among them (a grid has no number of draws), two blocks that apply at
            one point, more than `MAX_POINTS` points.
    """
    points = [dict(given or {})]
    for name in resolution_order(axes, names):
        crossed: list[Point] = []
        for point in points:
            block = _at(axes, name, point)
            if block is None:
                crossed.append(point)
            elif block.range is not None:
                raise FieldError(
                    f"a distribution ({block.range}) has no grid; "
                    "give the stage `space: {random: COUNT}`, or list values",
                    name,
                )
            else:
                crossed += [{**point, name: label} for label in block.values]
            if len(crossed) > MAX_POINTS:
                raise FieldError(f"the grid has more than {MAX_POINTS:,} points", name)
        points = crossed
    return points


def draw(
    axes: Mapping[str, Axis],
    names: Sequence[str],
    count: int,
    seed: int,
    given: Point | None = None,
) -> list[Point]:
    """Draw `count` distinct points; a larger count begins with the same points.

    Lists alone are sampled without replacement, each point of their grid equally likely. With a
    distribution among the axes, every axis is drawn independently, from a stream of its own:
    another axis more or less leaves the others' draws as they are.

    Raises:
        FieldError: there are fewer distinct points than `count`.
    """
    order = resolution_order(axes, names)
    if not any(block.range for name in order for block in axes[name].blocks):
        every = grid(axes, names, given)
        if count > len(every):
            raise FieldError(f"{count} distinct points of {len(every)}; ask for fewer")
        every.sort(key=lambda point: _uniform(seed, _key(point)))
        return every[:count]
    points: dict[str, Point] = {}
    for number in range(20 * count + 1000):
        point = dict(given or {})
        for name in order:
            block = _at(axes, name, point)
            if block is None:
                continue
            u = _uniform(seed, f"{name}/{number}")
            labels = list(block.values)
            point[name] = block.range.draw(u) if block.range else labels[int(u * len(labels))]
        points.setdefault(_key(point), point)
        if len(points) == count:
            return list(points.values())
    raise FieldError(f"only {len(points)} distinct points were found of {count}; ask for fewer")


def listed(
    axes: Mapping[str, Axis], points: Sequence[Mapping[str, Label]], given: Point | None = None
) -> list[Point]:
    """Check listed points: each gives one valid label to every axis that applies there.

    Raises:
        FieldError: with the path (index, axis).
    """
    names = {name for point in points for name in point}
    order = resolution_order(axes, names)
    found: dict[str, Point] = {}
    for i, wanted in enumerate(points):
        point = dict(given or {})
        for name in order:
            block = _at(axes, name, point)
            if block is None and name in wanted:
                raise FieldError(f"{shown(wanted[name])}: its condition is not met here", i, name)
            if block is None:
                continue
            if name not in wanted:
                raise FieldError(f"the axis {name!r} is missing; each point gives every axis", i)
            label = wanted[name]
            if label not in block.values and not (block.range and block.range.holds(label)):
                labels = suggest(label, map(str, block.values))
                valid = f"; wanted {block.range}" if block.range else labels
                raise FieldError(f"unknown label {shown(label)}{valid}", i, name)
            point[name] = label
        if _key(point) in found:
            raise FieldError(f"{shown(dict(wanted))} is listed twice", i)
        found[_key(point)] = point
    return list(found.values())


def parameters(axes: Mapping[str, Axis], names: Iterable[str], point: Point) -> dict[str, object]:
    """Return the value that each axis of `names` present at the point gives to its parameter."""
    values = {}
    for name in names:
        if name in point:
            block = _at(axes, name, point)
            assert block is not None
            values[name] = block.values.get(point[name], point[name])
    return values


def _at(axes: Mapping[str, Axis], name: str, point: Point) -> Block | None:
    try:
        return axes[name].at(point)
    except FieldError as error:
        raise FieldError(error.message, name, *error.path) from None


def _key(point: Point) -> str:
    return json.dumps(point, sort_keys=True)


def _uniform(seed: int, stream: str) -> float:
    """Return a number of [0, 1), the same on every platform and version of Python."""
    digest = hashlib.blake2b(f"{seed}/{stream}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53
