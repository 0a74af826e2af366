"""The interventions on training by name: what each one's strength means, and its options.

Only their parameters; how each changes the loss is in `sensweep.tasks.interventions`.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field


class Intervention(BaseModel):
    """Options shared by all: none. A subclass with a strength declares it, with its range."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: ClassVar[str]


class NoIntervention(Intervention):
    """Plain training. Has no strength."""

    name = "none"


class NoiseAugmentation(Intervention):
    """Train on images with Gaussian noise added to every pixel.

    Vasudeva et al. (ICLR 2025) use it to lower sensitivity, but their noise size is not known;
    so there is no default. Images are not clipped to [0, 1] afterwards, for neither are they in
    the definition of sensitivity.
    """

    name = "noise_augmentation"

    strength: float = Field(
        ge=0, description="standard deviation of the noise, in pixels of [0, 1]; e.g. 0.1"
    )
    probability: float = Field(
        1.0, gt=0, le=1, description="probability that an image is noised, each time it is seen"
    )


class SensitivityPenalty(Intervention):
    """Penalise how much the logits move when one random patch of the image is perturbed.

    (1 - p) * CE + p * MSE(logits(x~), logits(x)), after the code of Vasudeva et al. (ICLR 2025).
    """

    name = "sensitivity_penalty"

    strength: float = Field(
        0.5, ge=0, le=1, description="p, the weight of the penalty, 0 to 1; 0.5 in the source"
    )
    patch: int = Field(
        4, ge=1, description="side of the patch in pixels; 4 in the source, for images of 32x32"
    )
    noise: float = Field(
        0.5,
        ge=0,
        description="standard deviation of the noise in the patch, in pixels of [0, 1]; the "
        "source's 1.0 is in pixels of [-1, 1]",
    )


INTERVENTIONS: dict[str, type[Intervention]] = {
    kind.name: kind for kind in (NoIntervention, NoiseAugmentation, SensitivityPenalty)
}
