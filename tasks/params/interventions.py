"""The interventions on training by name: what each one's strength means, and its options.

Only their parameters; how each changes the loss is in `sensweep.tasks.interventions`.
"""

from __future__ import annotations

from typing import ClassVar, Literal

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


class WeightDecay(Intervention):
    """Penalise the squared norm of the weights: CE + strength / 2 * sum of squared weights.

    The classical L2 penalty, inside the loss (Krogh & Hertz, NeurIPS 1991). Plain SGD with it is
    SGD with that decay; an adaptive optimiser rescales its gradient like any other (Loshchilov &
    Hutter, ICLR 2019). It comes on top of the optimiser's own, decoupled decay, the parameter
    `weight_decay` of the training.
    """

    name = "weight_decay"

    strength: float = Field(
        ge=0, description="factor of half the squared norm of all trained weights; e.g. 1e-3"
    )


class SharpnessAware(Intervention):
    """Follow the gradient at the worst nearby weights (SAM; Foret et al., ICLR 2021).

    The gradient of the loss is taken at w + rho * g / |g|, where g is its gradient at w and |.|
    the norm over all weights together: equation 2 and algorithm 1 of the paper, with p = 2.
    """

    name = "sam"

    strength: float = Field(
        0.05,
        ge=0,
        description="rho, the length of the step to the nearby weights; 0.05 in the paper",
    )


class AdversarialTraining(Intervention):
    """Train on images attacked as training goes on, with an L-infinity bound on each pixel.

    Only the attacked images are trained on (Madry et al., ICLR 2018). They are made against the
    model in eval mode, with plain cross-entropy, and stay within [0, 1].
    """

    name = "adversarial_training"

    strength: float = Field(
        ge=0,
        le=1,
        description="epsilon, the largest change of a pixel, in pixels of [0, 1]; e.g. 8/255",
    )
    attack: Literal["fgsm", "pgd"] = Field(
        "fgsm",
        description="fgsm: one step of epsilon from the image; pgd: `steps` projected steps of "
        "2.5 epsilon / steps from a random start within the bound",
    )
    steps: int = Field(5, ge=1, description="gradient steps of pgd")


INTERVENTIONS: dict[str, type[Intervention]] = {
    kind.name: kind
    for kind in (
        NoIntervention,
        NoiseAugmentation,
        SensitivityPenalty,
        WeightDecay,
        SharpnessAware,
        AdversarialTraining,
    )
}
