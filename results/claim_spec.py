"""The claim language: what a study may claim of its rows. Reference: `docs/claims.md`.

A claim is data in the study file:

    claims:
      - {type: difference, id: "1.1", statement: ViT is less sensitive than MLP and CNN,
         value: {name: sensitivity, where: {split: train}}, of: {arch: vit},
         than: {arch: [mlp, cnn]}, direction: lower, for_each: sigma}
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, model_validator

from sensweep.results.selector import Scalar, Selector


def as_list(value: Any) -> Any:
    """Wrap what is not a list already; None stays None."""
    return value if isinstance(value, list) or value is None else [value]


def _filter(value: Any) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"give columns and their labels, as in {{arch: vit}}, not {value!r}")
    for column, labels in value.items():
        if not as_list(labels) or not all(isinstance(x, Scalar) for x in as_list(labels)):
            raise ValueError(f"{column}: give a label, or a list of labels, not {labels!r}")
    return value


def _side(value: Any) -> Any:
    if value == {}:
        raise ValueError("an empty filter is every model: name what makes the side")
    return _filter(value)


def _reference(value: Any) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number else _side(value)


def _expansion(value: Any) -> Any:
    columns = as_list(value)
    if isinstance(value, dict) and any(labels is not None for labels in value.values()):
        return {column: as_list(labels) for column, labels in _filter(value).items()}
    if isinstance(value, dict):
        return value
    if not isinstance(columns, list) or not all(isinstance(column, str) for column in columns):
        raise ValueError(
            f"give a column, a list of columns, or {{column: [labels]}}, not {value!r}"
        )
    return dict.fromkeys(columns)


# Checked by hand: a union of types would report one error for each of its members.
Filter = Annotated[dict[str, Any], BeforeValidator(_filter)]
Side = Annotated[dict[str, Any], BeforeValidator(_side)]
Reference = Annotated[Any, BeforeValidator(_reference)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Columns = Annotated[list[str], BeforeValidator(as_list)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Crossing(_Strict):
    """A threshold; exactly one of `at_least` and `at_most`."""

    at_least: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def _one_bound(self) -> Crossing:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError("give at_least or at_most, and not both")
        return self


class Quantity(Selector):
    """A measured quantity as one number per model (a point of the study and a seed).

    Written as a mapping, or as the bare name. Beyond `Selector`:

    Attributes:
        step: also `first`.
        aggregate: how the rows of one model are combined over the coordinates that `where`
            leaves open; `step_of_max` and `step_of_min` first average over coordinates, then
            give the step of the extreme.
        crossing: the value becomes the first step at which the coordinates' mean crosses.
        minus, divided_by: a second quantity of the same model, or of the model at the same point
            where `where` names another one.
    """

    step: Literal["last", "first", "all"] | Annotated[int, Field(ge=0)] = "last"  # type: ignore[assignment]
    aggregate: Literal["mean", "median", "max", "min", "sum", "step_of_max", "step_of_min"] = "mean"
    crossing: Crossing | None = None
    minus: Quantity | None = None
    divided_by: Quantity | None = None

    @model_validator(mode="after")
    def _one_combination(self) -> Quantity:
        if self.minus is not None and self.divided_by is not None:
            raise ValueError("give minus or divided_by, and not both (each may nest the other)")
        if self.crossing is not None and self.aggregate != "mean":
            raise ValueError("crossing takes the mean over coordinates: leave aggregate out")
        return self

    def __str__(self) -> str:
        """One phrase for messages and tables."""
        text = super().__str__()
        if self.crossing is not None:
            low, high = self.crossing.at_least, self.crossing.at_most
            bound = f">= {low:g}" if low is not None else f"<= {high:g}"
            text = f"first step of {text} {bound}"
        elif self.aggregate != "mean":
            text = f"{self.aggregate.replace('_', ' ')} of {text}"
        if self.minus is not None:
            return f"{text} - {self.minus}"
        return text if self.divided_by is None else f"{text} / {self.divided_by}"

    @property
    def is_step(self) -> bool:
        """Whether the value is a position along the training axis."""
        return self.crossing is not None or self.aggregate.startswith("step_of")


class Gate(Quantity):
    """What must hold for a claim to be judged at all ("at matched train accuracy").

    Attributes:
        at_least, at_most: bounds on every model that the claim uses, on both sides.
        within: bound on the absolute mean paired difference between the sides.
    """

    at_least: float | None = None
    at_most: float | None = None
    within: NotNegative | None = None

    @model_validator(mode="after")
    def _some_bound(self) -> Gate:
        if self.at_least is None and self.at_most is None and self.within is None:
            raise ValueError("a gate needs at_least, at_most or within")
        return self


class _Claim(_Strict):
    """What every claim has.

    Attributes:
        id: its number in the study, unique.
        statement: the claim in words.
        family: Holm's correction runs over all claims of one family; by default the study's.
        level: confidence level, the same for a whole family.
        replicate: the column whose values are independent repetitions.
        where: filter on every quantity of the claim that has the column and does not itself
            name it.
        for_each: one verdict per value of a column (or combination of columns); a mapping
            ``{sigma: [0.1, 0.2]}`` fixes the values, so that a missing one is reported.
        average_over: point columns to average over before sides or quantities are paired.
        non_finite: what a NaN or infinite value does: makes the claim inconclusive, or is left
            out with its replicate. Counted and reported in both cases.
        gate: conditions without which the verdict is inconclusive.
        fragile: why the claim is known to be fragile at this scale; shown beside the verdict.
        figure: name of the figure that shows it.
    """

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=60)]
    statement: Annotated[str, Field(min_length=1)]
    family: Annotated[str, Field(min_length=1)] = "study"
    level: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    replicate: Annotated[str, Field(min_length=1)] = "seed"
    where: Filter = Field(default_factory=dict)
    for_each: Annotated[dict[str, Any], BeforeValidator(_expansion)] = Field(default_factory=dict)
    average_over: Columns = Field(default_factory=list)
    non_finite: Literal["inconclusive", "leave_out"] = "inconclusive"
    gate: Annotated[list[Gate], BeforeValidator(as_list)] = Field(default_factory=list)
    fragile: str | None = None
    figure: str | None = None

    @model_validator(mode="after")
    def _answerable(self) -> _Claim:
        sided = isinstance(getattr(self, "than", None), dict)
        if not sided and any(gate.within is not None for gate in self.gate):
            raise ValueError("gate: within compares two sides, and this claim has no than side")
        return self

    def quantities(self) -> Iterator[tuple[str, Quantity]]:
        """Every quantity of the claim with its path, gates and nested ones included."""
        for path in ("value", "x", "y"):
            if (quantity := getattr(self, path, None)) is not None:
                yield from _nested(path, quantity)
        for i, gate in enumerate(self.gate):
            yield from _nested(f"gate[{i}]", gate)


class _Sided(_Claim):
    """A claim on the mean of one quantity, on one side or between two.

    Attributes:
        value: the quantity.
        of: filter that makes the first side; lists are pooled.
        than: filter that makes the side it is compared with, or a reference number.
        against: with a list in `than`, one verdict against `each` of its values, or one against
            all of them `pooled`.
        relative: analyse of/than - 1 in place of of - than; effect and bounds are fractions.
    """

    value: Quantity
    of: Side
    than: Reference
    against: Literal["each", "pooled"] = "each"
    relative: bool = False

    @model_validator(mode="after")
    def _comparable(self) -> _Sided:
        if self.of == self.than:
            raise ValueError("of and than are the same side")
        if self.relative and self.than == 0:
            raise ValueError("relative to 0 has no meaning")
        if self.relative and self._lowest_bound() <= -1:
            raise ValueError("a relative effect cannot reach -100%: give a bound below 1")
        return self

    def _lowest_bound(self) -> float:
        """Least effect that the verdict is judged against."""
        return 0.0


class Difference(_Sided):
    """`of` is lower, or higher, than `than`, by at least `smallest_effect`."""

    type: Literal["difference"]
    direction: Literal["lower", "higher"]
    smallest_effect: NotNegative = 0.0

    def _lowest_bound(self) -> float:
        return -self.smallest_effect if self.direction == "lower" else 0.0


class Noninferiority(_Sided):
    """`of` is not worse than `than` by `margin` or more; `direction` says which way is better."""

    type: Literal["noninferiority"]
    direction: Literal["lower", "higher"]
    margin: Positive

    def _lowest_bound(self) -> float:
        return -self.margin if self.direction == "higher" else 0.0


class Equivalence(_Sided):
    """`of` and `than` differ by less than `margin`."""

    type: Literal["equivalence"]
    margin: Positive

    def _lowest_bound(self) -> float:
        return -self.margin


class _Association(_Claim):
    """A trend or a correlation: `direction: none` claims that it is within `margin` of 0."""

    direction: Literal["lower", "higher", "none"]
    smallest_effect: NotNegative = 0.0
    margin: Positive | None = None

    @model_validator(mode="after")
    def _margin_for_none(self) -> _Association:
        if (self.direction == "none") != (self.margin is not None):
            raise ValueError("direction none needs a margin, and only direction none has one")
        return self


class Trend(_Association):
    """The least-squares slope of a quantity over a numeric column is positive (`higher`), etc.

    Attributes:
        value: the quantity.
        over: an axis, a coordinate, or `step`.
        log: slope per doubling of the column (which must be positive) in place of per unit.
        absent: what the column counts as where a model has none (0 for a baseline's strength).
        of, than: filters; with both, the claim is on the difference of their slopes.
        against: as in a difference.
    """

    type: Literal["trend"]
    value: Quantity
    over: Annotated[str, Field(min_length=1)]
    log: bool = False
    absent: float | None = None
    of: Side | None = None
    than: Side | None = None
    against: Literal["each", "pooled"] = "each"

    @model_validator(mode="after")
    def _two_sides(self) -> Trend:
        if self.than is not None and (self.of is None or self.of == self.than):
            raise ValueError("than needs another side: give of, and make it differ")
        return self


class Correlation(_Association):
    """Two quantities are positively (`higher`) or negatively (`lower`) correlated.

    Attributes:
        x, y: the quantities.
        method: `spearman` (default) or `pearson`.
        replicate: the units: an axis (its values' averages), `cell` (points averaged over
            seeds) or `model` (each point and seed). With `along`: as in every claim.
        within: a column; ranks are taken within each of its values, then pooled.
        along: columns; each replicate has its own correlation along them, and the interval is
            a t-interval over replicates.
    """

    type: Literal["correlation"]
    x: Quantity
    y: Quantity
    method: Literal["spearman", "pearson"] = "spearman"
    within: str | None = None
    along: Columns = Field(default_factory=list)

    @model_validator(mode="after")
    def _units(self) -> Correlation:
        if not self.along and "replicate" not in self.model_fields_set:
            raise ValueError("say what the units are: replicate: model, cell, or a column")
        if self.along and self.within is not None:
            raise ValueError("along already looks within each replicate: leave within out")
        if max(self.smallest_effect, self.margin or 0) >= 1:
            raise ValueError("a correlation is below 1: so must smallest_effect and margin be")
        return self


class Descriptive(_Claim):
    """A mean, or a difference of means, with its interval and no verdict."""

    type: Literal["descriptive"]
    value: Quantity
    of: Side | None = None
    than: Reference = None
    against: Literal["each", "pooled"] = "each"
    relative: bool = False

    @model_validator(mode="after")
    def _relative_to_something(self) -> Descriptive:
        if self.relative and self.than in (None, 0):
            raise ValueError("relative needs a than that is not 0")
        return self


ClaimSpec = Annotated[
    Difference | Noninferiority | Equivalence | Trend | Correlation | Descriptive,
    Field(discriminator="type"),
]
ClaimSpecs: TypeAdapter[list[ClaimSpec]] = TypeAdapter(list[ClaimSpec])


def _nested(path: str, quantity: Quantity) -> Iterator[tuple[str, Quantity]]:
    yield path, quantity
    for part in ("minus", "divided_by"):
        if (inner := getattr(quantity, part)) is not None:
            yield from _nested(f"{path}.{part}", inner)
