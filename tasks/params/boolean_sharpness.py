"""Parameters of the `boolean_sharpness` task."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class BooleanSharpnessParams(BaseModel):
    """Which noise is added to the weights of a trained model of bits, and on which strings."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sigmas: list[Annotated[float, Field(gt=0)]] = Field(
        [0.02], description="standard deviations of the noise on each weight"
    )
    rhos: list[Annotated[float, Field(gt=0)]] = Field(
        [],
        description="root mean square norms of the noise on all weights together: the standard "
        "deviation is rho / sqrt(number of weights)",
    )
    draws: int = Field(10, ge=1, description="noise draws for each batch; no two batches share any")
    batches: int = Field(10, ge=1, description="batches of strings")
    batch_size: int = Field(256, ge=1, description="strings in a batch")
    strings: Literal["uniform", "train"] = Field(
        "uniform",
        description="uniform: random strings of the longest length; train: of those trained on, "
        "where these are listed",
    )
