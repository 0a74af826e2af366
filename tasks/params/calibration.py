"""Parameters of the `calibration` task."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class CalibrationParams(BaseModel):
    """On which images, and in how many bins, confidence is compared with accuracy."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    split: Literal["train", "validation", "test"] = Field(
        "test", description="where the images are from; of train, only those trained on"
    )
    images: int = Field(10_000, ge=1, description="images examined; all, if there are fewer")
    bins: int = Field(10, ge=1, description="bins of equal width that part confidences in (0, 1]")
    diagram: bool = Field(
        False, description="whether to yield the bins of the reliability diagram too"
    )
    batch_size: int = Field(256, ge=1, description="images in one forward pass; bounds the memory")
