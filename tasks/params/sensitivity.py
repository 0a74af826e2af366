"""Parameters of the `sensitivity` task."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class SensitivityParams(BaseModel):
    """Which perturbations of which images are tried on a trained model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sigmas: list[Annotated[float, Field(gt=0)]] = Field(
        [0.05, 0.1, 0.2],
        min_length=1,
        description="standard deviations of the noise, pixel values being in [0, 1]",
    )
    patch: int = Field(
        4,
        ge=1,
        description="side of the square patches in pixels, at most the image's; where it does "
        "not divide the image's side, the last patches are smaller",
    )
    draws: int = Field(5, ge=1, description="noise draws for each image and patch")
    images: int = Field(256, ge=1, description="images examined; all, if there are fewer")
    split: Literal["train", "validation", "test"] = Field(
        "train", description="where the images are from; of train, only those trained on"
    )
    clamp: bool = Field(False, description="whether perturbed pixels are clamped to [0, 1]")
    variant: Literal["patch", "scattered"] = Field(
        "patch",
        description="patch: each patch in turn, the definition; scattered: patch x patch pixels "
        "anywhere, the same for all images of a draw, as in the released code of the paper",
    )
    batch_size: int = Field(
        256,
        ge=1,
        description="images in one forward pass; small models on a CPU are fastest at about 256, "
        "whose activations stay in its cache; GPUs want more",
    )
