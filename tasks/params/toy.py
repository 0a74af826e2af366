"""Parameters of the `toy` task."""

from pydantic import BaseModel, ConfigDict, Field


class ToyParams(BaseModel):
    """A point in the plane, and how long to dwell on it."""

    model_config = ConfigDict(extra="forbid")

    x: float = Field(0.0, description="first coordinate; the optimum is at 1")
    y: float = Field(0.0, description="second coordinate; the optimum is at -2")
    noise: float = Field(0.1, ge=0, description="standard deviation of the observation noise")
    steps: int = Field(1, ge=1, description="measurements to yield")
    sleep: float = Field(0.0, ge=0, description="seconds to wait before each measurement")
