"""The parts of a study: its stages and what they occupy, its budget, its checkpoints."""

from __future__ import annotations

import math
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    InstanceOf,
    PlainSerializer,
    field_validator,
    model_validator,
)

from sensweep.orchestrator import space
from sensweep.orchestrator.axes import Label
from sensweep.orchestrator.errors import FieldError
from sensweep.orchestrator.needs import Need
from sensweep.orchestrator.units import Duration, Size


class Part(BaseModel):
    """A block of a study file: no other keys than these, and no changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Resources(Part):
    """What one attempt of a stage occupies.

    Attributes:
        cpus: CPU cores, which are its threads; a fraction shares a core.
        gpus: GPUs; a fraction shares one.
        memory: bytes of host memory, or None to leave it unaccounted.
    """

    cpus: float = Field(default=1.0, gt=0, le=10_000)
    gpus: float = Field(default=0.0, ge=0, le=10_000)
    memory: Size | None = None

    @field_validator("cpus", "gpus")
    @classmethod
    def _whole_above_one(cls, value: float) -> float:
        if not math.isfinite(value) or (value > 1 and value != int(value)):
            raise ValueError(f"{value:g} is not valid: above one it must be a whole number")
        return value


class RandomSpace(Part):
    """A space of `random` distinct points, drawn with `seed` (which is not a trial's seed)."""

    random: int = Field(ge=1, le=space.MAX_POINTS)
    seed: int = Field(default=0, ge=0)


def _parse_needs(value: object) -> tuple[Need, ...]:
    if not isinstance(value, list | tuple):
        return (Need.parse(value),)
    needs = []
    for i, item in enumerate(value):
        try:
            needs.append(Need.parse(item))
        except ValueError as error:
            raise FieldError(str(error), i) from None
    return tuple(needs)


class Stage(Part):
    """One task over a space of points.

    Attributes:
        task: the name of a shipped task, or `module:function` beside the study file.
        needs: the earlier stages whose checkpoints it analyses; it has one trial per trial of
            theirs and point of its own.
        axes: the axes of the study that it crosses. All of them by default where it needs
            nothing, and none where it inherits its parents' points.
        space: draws random points over its axes instead of crossing them.
        points: lists its points instead.
        params: the task's parameters; each axis adds the parameter of its name.
        timeout: seconds that one attempt may take.
        expected: seconds that one attempt is expected to take; plans use it where nothing like it
            was measured.
        retries: how often a trial whose task raised is tried again.
    """

    task: str = Field(min_length=1, max_length=200)
    needs: Annotated[
        tuple[InstanceOf[Need], ...],
        BeforeValidator(_parse_needs),
        PlainSerializer(lambda needs: [str(need) for need in needs]),
    ] = ()
    axes: tuple[str, ...] | None = None
    space: RandomSpace | None = None
    points: tuple[dict[str, Label], ...] | None = Field(default=None, min_length=1)
    params: dict[str, Any] = Field(default_factory=dict)
    resources: Resources = Field(default_factory=Resources)
    timeout: Duration | None = None
    expected: Duration | None = None
    retries: int = Field(default=0, ge=0, le=100)

    @model_validator(mode="after")
    def _one_space(self) -> Self:
        stages = [need.stage for need in self.needs]
        for i, stage in enumerate(stages):
            if stage in stages[:i]:
                raise FieldError(f"{stage!r} is needed twice; a need selects once", "needs", i)
        if self.points is not None and (self.space or self.axes is not None):
            other = "space" if self.space else "axes"
            raise FieldError(f"listed points exclude {other!r}; give one of them", "points")
        return self


class Budget(Part):
    """Limits of a sweep: seconds of wall time, and trials executed."""

    wall_time: Duration | None = None
    trials: int | None = Field(default=None, ge=1)


class Checkpoints(Part):
    """How many bytes of checkpoints `gc` leaves in the home."""

    quota: Size | None = None
