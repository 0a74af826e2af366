"""Which measured quantity a claim or a figure speaks of."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    import pandas as pd

Scalar = str | int | float | bool


class NoRows(ValueError):  # noqa: N818
    """Nothing matches a selector; the message is one line that says what there is instead."""


class Selector(BaseModel):
    """A measured quantity: ``{name: accuracy, stage: robustness, where: {severity: [3, 4, 5]}}``.

    Where only the name is needed, the name alone will do.

    Attributes:
        name: the measurement's name.
        stage: the stage that measured it; needed only where two stages use the same name.
        where: the value, or the list of values, that a column of the rows (a coordinate, or an
            axis of the study) must have.
        step: `last` keeps each trial point's last step (per seed), `all` keeps every step, and a
            number keeps that step. Values without a step pass `last` and `all`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(min_length=1)]
    stage: str | None = None
    where: dict[str, Scalar | list[Scalar]] = Field(default_factory=dict)
    step: Literal["last", "all"] | Annotated[int, Field(ge=0)] = "last"

    @model_validator(mode="before")
    @classmethod
    def _bare_name(cls, given: object) -> object:
        return {"name": given} if isinstance(given, str) else given

    def __str__(self) -> str:
        """One phrase for messages, in the study file's words."""
        parts = [f"stage {self.stage}"] if self.stage is not None else []
        parts += [f"{column} = {_phrase(wanted)}" for column, wanted in self.where.items()]
        if self.step != "last":
            parts.append(f"step {self.step}")
        return self.name + (f" ({', '.join(parts)})" if parts else "")

    def select(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Return the rows that match, in their order and with a fresh index.

        Args:
            rows: the columns of the `rows` view: at least stage, cell, seed, name, value, step.

        Raises:
            NoRows: nothing matches; the message names the nearest valid name or value.
        """
        found = rows[rows["name"] == self.name]
        if found.empty:
            hint = nearest(self.name, rows["name"].unique())
            raise NoRows(f"no rows named {self.name}{hint}")
        if self.stage is not None:
            found = _narrow(found, self, "stage", self.stage)
        for column, wanted in self.where.items():
            found = _narrow(found, self, column, wanted)
        if self.step == "last":
            last = found.groupby(["stage", "cell", "seed"])["step"].transform("max")
            found = found[found["step"].isna() | (found["step"] == last)]
        elif self.step != "all":
            found = _narrow(found, self, "step", self.step)
        return found.reset_index(drop=True)


def _narrow(
    rows: pd.DataFrame, selector: Selector, column: str, wanted: Scalar | list[Scalar]
) -> pd.DataFrame:
    if column not in rows.columns:
        hint = nearest(column, rows.columns)
        raise NoRows(f"no rows of {selector}: there is no column {column}{hint}")
    values = wanted if isinstance(wanted, list) else [wanted]
    texts = {canonical(value) for value in values}
    seen = rows[column].dropna().unique()
    found = rows[rows[column].isin([value for value in seen if canonical(value) in texts])]
    if found.empty:
        labels = sorted({canonical(value) for value in seen})
        has = f"{column} has {', '.join(labels[:8])}{', ...' if len(labels) > 8 else ''}"
        raise NoRows(f"no rows of {selector}: {has if labels else f'it has no {column}'}")
    return found


def canonical(value: object) -> str:
    """Write a scalar so that equal values of a study and of the rows become the same text.

    A column that holds labels and numbers comes back from SQL as text, and one with gaps as
    floats, so 1, 1.0, "1" and "1.0" must meet; 12 digits absorb 0.1 + 0.2.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return str(value)
    if type(value).__name__ in ("bool", "bool_"):
        return str(bool(value)).lower()
    return f"{float(value):.12g}"  # type: ignore[arg-type]


def _phrase(wanted: Scalar | list[Scalar]) -> str:
    values = wanted if isinstance(wanted, list) else [wanted]
    return " or ".join(canonical(value) for value in values)


def nearest(name: str, names: Iterable[object]) -> str:
    """End an error line: the nearest of `names` to `name`, or else what there is."""
    known = sorted(str(known) for known in names)
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; there are: {', '.join(known[:12])}" if known else ""
