"""Parameters of the `token_sensitivity` and `word_sensitivity` tasks."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Size = Annotated[float, Field(gt=0)]


class _Examined(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    split: Literal["train", "validation", "test"] = Field(
        "train", description="where the sequences are from; of train, only those trained on"
    )
    sequences: int = Field(256, ge=1, description="sequences examined; all, if there are fewer")
    draws: int = Field(3, ge=1, description="draws for each perturbed place; 3 in the source")
    batch_size: int = Field(
        512, ge=1, description="perturbed sequences in one forward pass; bounds the memory"
    )


class TokenSensitivityParams(_Examined):
    """Which perturbations of which sequences are tried on a trained model."""

    replacement: bool = Field(
        True, description="whether each word is replaced by uniform draws from the vocabulary"
    )
    sigmas: list[Size] = Field(
        [0.5, 1.0, 2.0],
        description="noise on one token's embedding: root mean squared norm of the noise, as a "
        "multiple of the mean embedding norm",
    )
    variances: list[Size] = Field(
        [],
        description="noise on one token's embedding: variance of each coordinate, as the "
        "released code of the paper has it (15)",
    )
    sentence_sigmas: list[Size] = Field(
        [], description="noise on all embeddings at once; unit as `sigmas`"
    )
    sentence_variances: list[Size] = Field(
        [],
        description="noise on all embeddings at once; unit as `variances` (0.5 and 1 in the "
        "released scripts)",
    )
    site: Literal["lookup", "entry"] = Field(
        "entry",
        description="where noise is added: lookup, the word embeddings; entry, what the first "
        "layer receives (with positions, normalised where the model does so)",
    )
    positions: int = Field(
        0, ge=0, description="places from the end for which sensitivity is given one by one"
    )


class WordSensitivityParams(_Examined):
    """Whose words are replaced, and how often."""
