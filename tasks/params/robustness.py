"""Parameters of the `robustness` task."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Corruption = Literal[
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
]


class RobustnessParams(BaseModel):
    """Which corruptions and attacks a trained model is exposed to, and on which images."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    split: Literal["validation", "test"] = Field(
        "test", description="where the images are from; a search uses validation"
    )
    images: int = Field(1000, ge=1, description="images corrupted; all, if there are fewer")
    corruptions: list[Corruption] = Field(
        ["gaussian_noise", "impulse_noise", "defocus_blur", "brightness", "contrast"],
        description="types of corruption, in the manner of CIFAR-10-C",
    )
    cifar_c: str | None = Field(
        None,
        description="folder of the published CIFAR-10-C arrays, labels.npy and NAME.npy for each "
        "of `corruptions`; images are then drawn from them and not corrupted here",
    )
    severities: list[Annotated[int, Field(ge=1, le=5)]] = Field(
        [1, 2, 3, 4, 5], min_length=1, description="severities of each corruption, 1 to 5"
    )
    attacks: list[Literal["fgsm", "pgd"]] = Field(
        ["fgsm", "pgd"], description="attacks with a bound on each pixel's change (L-infinity)"
    )
    epsilons: list[Annotated[float, Field(gt=0, le=1)]] = Field(
        [2 / 255, 8 / 255],
        min_length=1,
        description="largest change of a pixel by an attack, pixel values being in [0, 1]",
    )
    pgd_steps: int = Field(10, ge=1, description="gradient steps of pgd, each 2.5 epsilon / steps")
    attack_images: int = Field(
        128, ge=1, description="images attacked, the first of those corrupted"
    )
    batch_size: int = Field(256, ge=1, description="images in one forward pass; bounds the memory")
