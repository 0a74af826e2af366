"""Parameters of the `length_generalisation` task."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class LengthGeneralisationParams(BaseModel):
    """At which lengths a trained model of bits is tested."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    lengths: list[Annotated[int, Field(ge=1)]] = Field(
        min_length=1, description="bits of the test strings, one set of strings for each length"
    )
    inputs: int = Field(1024, ge=1, description="random strings of each length")
    batch_size: int = Field(256, ge=1, description="strings in one forward pass; bounds the memory")
