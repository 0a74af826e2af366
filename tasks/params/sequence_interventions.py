"""The interventions on the training of sequence models by name, with their options.

Only their parameters; how each changes the loss is in `sensweep.tasks.sequence_interventions`.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field


class SequenceIntervention(BaseModel):
    """Options shared by all: none. A subclass with a strength declares it, with its range."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: ClassVar[str]


class NoIntervention(SequenceIntervention):
    """Plain training. Has no strength."""

    name = "none"


class EmbeddingNoise(SequenceIntervention):
    """Train with Gaussian noise on the embedding of every token."""

    name = "noise_augmentation"

    strength: float = Field(
        ge=0, description="expected norm of the noise, as a fraction of the mean embedding norm"
    )


class SequenceSensitivityPenalty(SequenceIntervention):
    """Penalise how much the logits move when one random token of the sequence is perturbed.

    (1 - p) * CE + p * MSE(logits(x~), logits(x)): for sequences what the code of Vasudeva et al.
    (ICLR 2025) does with one patch of an image.
    """

    name = "sensitivity_penalty"

    strength: float = Field(
        0.5, ge=0, le=1, description="p, the weight of the penalty, 0 to 1; 0.5 in the source"
    )
    perturbation: Literal["embedding", "token"] = Field(
        "embedding",
        description="embedding: noise on the token's embedding; token: a token drawn uniformly "
        "from the vocabulary in its place (with two tokens, bits flipped at random)",
    )
    noise: float = Field(
        1.0,
        ge=0,
        description="expected norm of the noise, as a fraction of the mean embedding norm; used "
        "by the embedding perturbation",
    )


SEQUENCE_INTERVENTIONS: dict[str, type[SequenceIntervention]] = {
    kind.name: kind for kind in (NoIntervention, EmbeddingNoise, SequenceSensitivityPenalty)
}
