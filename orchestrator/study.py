"""A study: one question, its stages, its claims; read from YAML or written in Python.

    >>> study = Study(
    ...     study="bowl", seeds=2, axes={"x": [0.0, 1.0]}, stages={"toy": {"task": "toy"}}
    ... )
    >>> study.sweep, study.own_axes("toy")
    ('bowl.cpu', ('x',))

docs/study.md has every key. Every problem of a study is an `InputError` of one line.
"""

from __future__ import annotations

import copy
import importlib.resources
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    InstanceOf,
    PlainSerializer,
    PrivateAttr,
    TypeAdapter,
    ValidationError,
    field_serializer,
    field_validator,
    model_validator,
)

from sensweep.orchestrator.axes import Axis, parse_axis
from sensweep.orchestrator.consistency import (
    check_axes,
    check_labels,
    check_stage,
    own_axes,
    topological,
)
from sensweep.orchestrator.errors import FieldError, InputError, located, shown, suggest
from sensweep.orchestrator.needs import Need, Select
from sensweep.orchestrator.profiles import axis_variants, merged, profile_names
from sensweep.orchestrator.search_spec import (
    CONFIRMED,
    SearchSpec,
    check_search,
    closure,
    searched_stages,
)
from sensweep.orchestrator.stage import Budget, Checkpoints, Part, Stage
from sensweep.orchestrator.validation import NAME, explain
from sensweep.orchestrator.yaml_file import check_plain, read_yaml

__all__ = ["Need", "Select", "Stage", "Study", "load_study", "shipped_studies"]

# Columns of the tables and views of a home; an axis of that name would be ambiguous in SQL.
RESERVED = (
    *("sweep", "trial_id", "stage", "task", "point", "params", "seed", "parents", "code", "data"),
    *("cell", "seq", "name", "value", "step", "unit", "coordinates", "status", "attempt"),
    *("attempts", "seconds", "n", "mean", "low", "high", "sd", CONFIRMED),
)
MAX_SEEDS = 10_000


class Study(Part):
    """One question and the trials that answer it (the module's docstring shows one).

    Attributes:
        study: its name.
        question: what it asks, in a sentence.
        seeds: the seeds of every trial; a number n in the file stands for 0 .. n-1.
        axes: the axes that its stages share.
        search: the axes that Optuna searches instead of a grid, and for what.
        claims, figures: `sensweep.results.claims.ClaimSpec` and `...figures.FigureSpec`.
        profiles: named overrides of the file; `from_dict` and `load_study` apply one.

    Raises:
        InputError: anything is wrong with it.
    """

    study: str = Field(pattern=NAME, max_length=64)
    question: str = Field(default="", max_length=2000)
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**63)], ...] = Field(default=(0,), min_length=1)
    axes: dict[
        Annotated[str, Field(pattern=NAME, max_length=64)],
        Annotated[
            InstanceOf[Axis],
            BeforeValidator(parse_axis),
            PlainSerializer(lambda axis: axis.plain()),
        ],
    ] = Field(default_factory=dict)
    stages: dict[Annotated[str, Field(pattern=NAME, max_length=64)], Stage] = Field(min_length=1)
    search: SearchSpec | None = None
    budget: Budget = Field(default_factory=Budget)
    checkpoints: Checkpoints = Field(default_factory=Checkpoints)
    claims: tuple[Any, ...] = ()
    figures: tuple[Any, ...] = ()
    profiles: dict[str, dict[str, Any]] = Field(default_factory=dict)

    _profile: str = PrivateAttr("cpu")
    _folders: tuple[Path, ...] = PrivateAttr(default_factory=lambda: _folders(None))
    _source: str = PrivateAttr("study")
    _written: dict[str, Any] = PrivateAttr(default_factory=dict)

    def __init__(self, **data: Any) -> None:
        check_plain(data, ())
        self._build(merged(data, "cpu", self._overridable()))
        self._check_labels(data)
        self._written = copy.deepcopy(data)

    @classmethod
    def from_dict(
        cls,
        data: Mapping[str, Any],
        profile: str = "cpu",
        folder: Path | None = None,
        source: str = "study",
    ) -> Self:
        """Build the study under one profile from what a file holds.

        Args:
            data: the file's mapping.
            profile: the overrides to apply; `cpu` is the file itself unless it has one.
            folder: where the user's own modules are looked for (and in the working directory).
            source: what messages call the file.
        """
        try:
            check_plain(data, ())
            names = ["cpu", *(name for name in profile_names(data) if name != "cpu")]
            if profile not in names:
                raise InputError(f"unknown profile {profile!r}{suggest(profile, names)}")
            # An error in any profile is found at once, not when it is first used on a cluster.
            studies = {name: cls._under(data, name) for name in names}
        except InputError as error:
            raise InputError(f"{source}: {error}") from None
        study = studies[profile]
        study._profile, study._written = profile, copy.deepcopy(dict(data))
        study._folders, study._source = _folders(folder), source
        return study

    @classmethod
    def _under(cls, data: Mapping[str, Any], profile: str) -> Self:
        study = cls.__new__(cls)
        resolved = merged(data, profile, cls._overridable())
        try:
            study._build(resolved)
            study._check_labels(data)
        except InputError as error:
            where = f"with the profile {profile}: " if profile != "cpu" else ""
            raise InputError(f"{where}{error}") from None
        return study

    def _build(self, data: Mapping[str, Any]) -> None:
        try:
            super().__init__(**data)
        except ValidationError as error:
            raise InputError(located(*explain(error, type(self), data))) from None

    def _check_labels(self, data: Mapping[str, Any]) -> None:
        """Check conditions, claims and figures, which may name any profile's labels.

        A profile with fewer labels (`smoke`) need not rewrite what names the others.
        """
        try:
            check_labels(self, axis_variants(data))
        except FieldError as error:
            raise InputError(located(error.path, error.message)) from None

    @classmethod
    def _overridable(cls) -> list[str]:
        return [name for name in cls.model_fields if name not in ("study", "profiles")]

    def to_dict(self) -> dict[str, Any]:
        """Return the study with its profile applied as plain data, for `restore`.

        Of `profiles` only the name of this one is left.
        """
        return self.model_dump(mode="json") | {"profiles": {self._profile: {}}}

    @classmethod
    def restore(cls, data: Mapping[str, Any], folder: Path | None = None) -> Self:
        """Return an equal study from what `to_dict` returned; `folder` as in `from_dict`."""
        study = cls.__new__(cls)
        study._build({**data, "profiles": {}})
        study._profile = profile_names(data)[0]
        study._written = copy.deepcopy(dict(data))
        study._folders = _folders(folder)
        return study

    def with_profile(self, profile: str) -> Self:
        """Return the same study under another of its profiles."""
        return self.from_dict(self._written, profile, self._folders[0], self._source)

    @property
    def profile(self) -> str:
        """The name of the overrides that were applied."""
        return self._profile

    @property
    def sweep(self) -> str:
        """The id of the sweep that runs it, such as `quickstart.cpu`."""
        return f"{self.study}.{self._profile}"

    @property
    def source(self) -> str:
        """What messages call the file that it was read from."""
        return self._source

    @property
    def folders(self) -> tuple[Path, ...]:
        """Where the user's own modules are looked for, in this order.

        They are the study file's folder and the working directory that it was loaded in.
        """
        return self._folders

    def keeps(self, stage: str) -> tuple[str, ...]:
        """The selections by which other stages ask for this one's checkpoints."""
        needs = [need for other in self.stages.values() for need in other.needs]
        return tuple(sorted({str(need.select) for need in needs if need.stage == stage}))

    def order(self) -> list[str]:
        """The stages, each after those that it needs, otherwise as the file has them."""
        return topological(self.stages)

    def own_axes(self, stage: str) -> tuple[str, ...]:
        """The axes that a stage adds to the points that it inherits."""
        return own_axes(self.axes, self.stages[stage])

    def searched(self) -> tuple[str, ...]:
        """The stages whose points depend on a searched axis, in order; none without a search."""
        if self.search is None:
            return ()
        own = {name: self.own_axes(name) for name in self.order()}
        return tuple(searched_stages(self.search, own, self._needs()))

    def chain(self) -> tuple[str, ...]:
        """The searched stages and all that they need, in order."""
        return tuple(closure(self.searched(), self._needs()))

    def _needs(self) -> dict[str, list[str]]:
        return {name: [need.stage for need in self.stages[name].needs] for name in self.order()}

    @field_validator("seeds", mode="before")
    @classmethod
    def _count_or_list(cls, value: object) -> object:
        if isinstance(value, int) and not isinstance(value, bool):
            if not 1 <= value <= MAX_SEEDS:
                raise ValueError(f"{value} is not a number of seeds between 1 and {MAX_SEEDS}")
            return range(value)
        if not isinstance(value, list | tuple | range):
            raise ValueError(f"{shown(value)} is not a number of seeds, nor a list of seeds")
        for i, seed in enumerate(value):
            if seed in value[:i]:
                raise FieldError(f"the seed {seed} is listed twice", i)
        return value

    @field_serializer("claims", "figures")
    def _as_written(self, specs: tuple[BaseModel, ...]) -> list[dict[str, Any]]:
        # Without defaults: a key that was left out is not the same as one that is null.
        return [spec.model_dump(mode="json", exclude_unset=True) for spec in specs]

    @field_validator("claims", mode="before")
    @classmethod
    def _claims(cls, value: object) -> object:
        from sensweep.results.claim_spec import ClaimSpec

        return _specs(value, ClaimSpec)

    @field_validator("figures", mode="before")
    @classmethod
    def _figures(cls, value: object) -> object:
        from sensweep.results.figures import FigureSpec

        return _specs(value, FigureSpec)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check_axes(self.axes, RESERVED)
        topological(self.stages)
        for name in self.stages:
            check_stage(self.axes, self.stages, name)
        if self.search is not None:
            try:
                check_search(
                    self.search,
                    self.axes,
                    {name: self.own_axes(name) for name in self.order()},
                    self._needs(),
                    {name: s.points is None and s.space is None for name, s in self.stages.items()},
                    self.seeds,
                )
            except FieldError as error:
                raise FieldError(error.message, "search", *error.path) from None
        return self


def shipped_studies() -> dict[str, Path]:
    """Return the files of the studies that come with sensweep, by name."""
    folder = importlib.resources.files("sensweep.tasks") / "studies"
    return {path.stem: path for path in sorted(Path(str(folder)).glob("*.yaml"))}


def load_study(name_or_path: str | Path, profile: str = "cpu") -> Study:
    """Load a study from a file, or a shipped one by its name.

    Raises:
        InputError: there is no such file or study, or anything is wrong with it.
    """
    shipped, name = shipped_studies(), str(name_or_path)
    path = shipped.get(name, Path(name))
    if not os.path.isfile(path):
        what = "is a folder, not a study file" if os.path.isdir(path) else "no such study or file"
        raise InputError(f"{shown(name)}: {what}{suggest(path.stem, shipped)}")
    return Study.from_dict(read_yaml(path), profile, path.resolve().parent, path.name)


def _folders(folder: Path | None) -> tuple[Path, ...]:
    here = Path.cwd()
    return tuple(dict.fromkeys(((folder or here).resolve(), here)))


def _specs(value: object, spec: object) -> tuple[Any, ...]:
    listed = list[spec]  # type: ignore[valid-type]
    try:
        return tuple(TypeAdapter(listed).validate_python(value))
    except ValidationError as error:
        path, message = explain(error, listed, value)
        raise FieldError(message, *path) from None
