"""Parameters of the `sharpness` task."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class SharpnessParams(BaseModel):
    """How strongly a trained model's weights are shaken, and on which images it is watched."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    absolute: list[Annotated[float, Field(gt=0)]] = Field(
        [0.05],
        description="standard deviations of the noise, the same for every weight; 0.05 in the "
        "released code of the paper",
    )
    relative: list[Annotated[float, Field(gt=0)]] = Field(
        [0.1],
        description="standard deviations of the noise in units of the root mean square of the "
        "parameter tensor, so that the noise is so large a part of each tensor's norm",
    )
    draws: int = Field(5, ge=1, description="draws of the noise; 5 in the released code")
    images: int = Field(512, ge=1, description="images watched; all, if there are fewer")
    split: Literal["train", "validation", "test"] = Field(
        "train", description="where the images are from; of train, only those trained on"
    )
    mode: Literal["eval", "train"] = Field(
        "eval",
        description="mode of the noised copy; train: as in the released code of the paper, so that "
        "dropout and the statistics of the batch move its outputs too",
    )
    batch_size: int = Field(256, ge=1, description="images in one forward pass; bounds the memory")

    @model_validator(mode="after")
    def _some_noise(self) -> "SharpnessParams":
        if not self.absolute and not self.relative:
            raise ValueError("absolute and relative are both empty; give one a noise size")
        return self
