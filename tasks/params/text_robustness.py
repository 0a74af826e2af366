"""Parameters of the `text_robustness` task."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

TextCorruption = Literal[
    "word_deletion",
    "word_swap",
    "word_repetition",
    "word_replacement",
    "character_deletion",
    "character_swap",
    "character_insertion",
    "character_replacement",
]


class TextRobustnessParams(BaseModel):
    """Which corruptions a trained text classifier is exposed to, and on which texts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    split: Literal["validation", "test"] = Field(
        "test", description="where the texts are from; a search uses validation"
    )
    texts: int = Field(500, ge=1, description="texts corrupted; all, if there are fewer")
    corruptions: list[TextCorruption] = Field(
        [
            "word_deletion",
            "word_swap",
            "word_repetition",
            "word_replacement",
            "character_deletion",
            "character_swap",
            "character_insertion",
            "character_replacement",
        ],
        min_length=1,
        description="types of corruption",
    )
    severities: list[Annotated[int, Field(ge=1, le=5)]] = Field(
        [1, 2, 3, 4, 5],
        min_length=1,
        description="severities, 1 to 5: the probability that a word is hit is 0.05, 0.1, 0.2, "
        "0.3 and 0.5",
    )
    batch_size: int = Field(512, ge=1, description="texts in one forward pass; bounds the memory")
