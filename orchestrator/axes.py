"""Axes as a study file writes them: lists, labelled values, random ranges, conditional blocks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from sensweep.orchestrator.errors import FieldError, nearest, shown, suggest

Label = str | int | float | bool
Point = dict[str, Label]
RANGES = ("uniform", "log_uniform", "integers", "choice")
# Random numbers are rounded to this many significant digits: a label is read by people.
DIGITS = 6


@dataclass(frozen=True, slots=True)
class Range:
    """A distribution of labels: `uniform`, `log_uniform`, `integers` (of [low, high]), `choice`."""

    kind: str
    low: float = 0.0
    high: float = 0.0
    choices: tuple[Label, ...] = ()

    def draw(self, u: float) -> Label:
        """Map a uniform random number of [0, 1) to a label."""
        if self.kind == "choice":
            return self.choices[int(u * len(self.choices))]
        if self.kind == "integers":
            return int(self.low) + int(u * (int(self.high) - int(self.low) + 1))
        if self.kind == "uniform":
            value = self.low + u * (self.high - self.low)
        else:
            value = math.exp(math.log(self.low) + u * (math.log(self.high) - math.log(self.low)))
        return self.rounded(value)

    def rounded(self, value: Label) -> Label:
        """Return the label that stands for a value: a float is rounded to `DIGITS` digits."""
        if self.kind in ("choice", "integers"):
            return value
        return min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)

    def holds(self, label: Label) -> bool:
        """Whether a listed point may use this label."""
        if self.kind == "choice":
            return label in self.choices
        whole = self.kind != "integers" or isinstance(label, int)
        number = isinstance(label, int | float) and not isinstance(label, bool)
        return number and whole and self.low <= label <= self.high  # type: ignore[operator]

    def plain(self) -> object:
        """Return what the study file holds."""
        if self.kind == "choice":
            return {"choice": list(self.choices)}
        bounds = [self.low, self.high]
        return {self.kind: [int(b) for b in bounds] if self.kind == "integers" else bounds}

    def __str__(self) -> str:
        if self.kind == "choice":
            return f"one of {', '.join(map(str, self.choices))}"
        return f"{self.kind} in [{self.low:g}, {self.high:g}]"


@dataclass(frozen=True, slots=True)
class Block:
    """The labels of an axis wherever `when` (axis -> admissible labels) is met.

    Attributes:
        values: label -> value of the parameter; empty for a range.
        labelled: whether the file gave labels and values apart (a mapping, not a list).
        range: the distribution that random points draw from, if the block is one.
    """

    when: Mapping[str, tuple[Label, ...]]
    values: Mapping[Label, object]
    labelled: bool = False
    range: Range | None = None

    def applies(self, point: Mapping[str, Label]) -> bool:
        """Whether the condition is met; an axis that is absent at the point meets none."""
        return all(axis in point and point[axis] in labels for axis, labels in self.when.items())

    def plain(self) -> object:
        """Return what the study file holds."""
        values: object = dict(self.values) if self.labelled else list(self.values)
        if self.range is not None:
            values = self.range.plain()
        if not self.when:
            return values
        return {"when": {k: list(v) for k, v in self.when.items()}, "values": values}


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of a study's space; at most one of its blocks applies at a point."""

    blocks: tuple[Block, ...]

    @property
    def labels(self) -> tuple[Label, ...]:
        """All labels of its lists, in the file's order; ranges have none."""
        return tuple(dict.fromkeys(label for block in self.blocks for label in block.values))

    @property
    def conditions(self) -> frozenset[str]:
        """The axes that its conditions name."""
        return frozenset(axis for block in self.blocks for axis in block.when)

    def at(self, point: Mapping[str, Label]) -> Block | None:
        """Return the block that applies at a point, or None where the axis is absent.

        Raises:
            FieldError: two blocks apply.
        """
        found = [i for i, block in enumerate(self.blocks) if block.applies(point)]
        if len(found) > 1:
            here = {name: point[name] for i in found for name in self.blocks[i].when}
            raise FieldError(
                f"blocks {found[0]} and {found[1]} both apply at {shown(here)}; "
                "make their conditions exclusive"
            )
        return self.blocks[found[0]] if found else None

    def plain(self) -> object:
        """Return what the study file holds."""
        plain = [block.plain() for block in self.blocks]
        return plain if len(plain) > 1 else plain[0]


def parse_axis(data: object) -> Axis:
    """Read an axis.

    Raises:
        FieldError: with the path below the axis.
    """
    if isinstance(data, Axis):
        return data
    if isinstance(data, Mapping) and ("when" in data or "values" in data):
        return Axis((_block(data),))
    if isinstance(data, list | tuple) and data and all(isinstance(x, Mapping) for x in data):
        return Axis(tuple(_located(_block, block, i) for i, block in enumerate(data)))
    return Axis((_values(data, {}),))


def _located(parse: object, data: object, *path: str | int) -> Block:
    try:
        return parse(data)  # type: ignore[operator, no-any-return]
    except FieldError as error:
        raise FieldError(error.message, *path, *error.path) from None


def _block(data: Mapping[str, object]) -> Block:
    for key in data:
        if key not in ("when", "values"):
            raise FieldError(f"unknown key{suggest(key, ['when', 'values'])}", key)
    if "values" not in data:
        raise FieldError("missing key 'values' (the labels where the condition is met)")
    if "when" not in data:
        raise FieldError("missing key 'when' (the condition, such as {intervention: sam})")
    when = data["when"]
    if not isinstance(when, Mapping) or not when:
        raise FieldError(f"{shown(when)} is not a condition such as {{intervention: sam}}", "when")
    conditions = {}
    for axis, wanted in when.items():
        labels = tuple(wanted) if isinstance(wanted, list | tuple) else (wanted,)
        if not labels:
            raise FieldError("an empty list of labels is never met", "when", axis)
        for label in labels:
            _check_label(label, "when", axis)
        conditions[axis] = labels
    return _located(lambda values: _values(values, conditions), data["values"], "values")


def _values(data: object, when: Mapping[str, tuple[Label, ...]]) -> Block:
    if isinstance(data, Mapping):
        kind = next(iter(data), None)
        if len(data) == 1 and kind in RANGES:
            return Block(when, {}, range=_range(str(kind), data[kind]))
        if len(data) == 1 and isinstance(data[kind], list) and nearest(kind, RANGES):
            raise FieldError(f"unknown distribution{suggest(kind, RANGES)}", str(kind))
        for label in data:
            if not isinstance(label, str) or not label.strip():
                raise FieldError(f"the label {shown(label)} must be text")
        values, labelled = dict(data), True
    elif isinstance(data, list | tuple):
        for i, label in enumerate(data):
            _check_label(label, i)
            if label in data[:i]:
                raise FieldError(f"{shown(label)} is listed twice", i)
        values, labelled = {label: label for label in data}, False
    else:
        raise FieldError(
            f"{shown(data)} is not an axis; write a list ([{data}]), labels with values "
            "({small: 1, large: 9}), or a distribution ({log_uniform: [1.0e-4, 1.0e-2]})"
        )
    if not values:
        raise FieldError("an axis needs at least one value")
    return Block(when, values, labelled)


def _range(kind: str, data: object) -> Range:
    if kind == "choice":
        block = _located(lambda values: _values(values, {}), data, kind)
        if block.labelled or block.range:
            raise FieldError("choice wants a list of labels", kind)
        return Range(kind, choices=tuple(block.values))
    wanted = f"{kind} wants [low, high] with low < high"
    if not isinstance(data, list | tuple) or len(data) != 2:
        raise FieldError(f"{shown(data)} is not a range: {wanted}", kind)
    numbers = int if kind == "integers" else (int | float)
    if not all(isinstance(b, numbers) and not isinstance(b, bool) for b in data):
        what = "whole numbers" if kind == "integers" else "numbers"
        raise FieldError(f"{shown(data)} is not a range of {what}: {wanted}", kind)
    low, high = data
    if not -1e300 < low < high < 1e300 or (kind == "log_uniform" and low <= 0):
        positive = " and low > 0" if kind == "log_uniform" else ""
        raise FieldError(f"{shown(data)} is not a range: {wanted}{positive}", kind)
    return Range(kind, low, high)


def _check_label(label: object, *path: str | int) -> None:
    if not isinstance(label, str | int | float) or (isinstance(label, str) and not label.strip()):
        raise FieldError(
            f"{shown(label)} is not a label (text, a number, true or false); "
            "give a structured value a label: {small: {...}}",
            *path,
        )
