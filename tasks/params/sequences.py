"""The sequence data that are generated, and what can be set in each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sensweep.tasks.names import unknown

# Built by `sensweep.tasks.sequence_models`.
SEQUENCE_ARCHITECTURES = ("roberta", "gpt2", "lstm", "one_attention", "token_mlp")


class Generated(BaseModel):
    """Data that a function of `sensweep.tasks.generated_sequences` makes from its options."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: ClassVar[str]


class Roles(Generated):
    """English sentences in which a person and an animal meet; the class says who of them acts.

    Both kinds are in every sentence, each first in half of them, and half of the sentences are in
    the passive: no bag of words tells the class, only the order does.
    """

    name = "roles"


class Cues(Generated):
    """Two cues for one label: a single sparse token, and the majority of many frequent tokens.

    In training each cue agrees with the label with its own reliability; in the test split the
    two always contradict each other, and the label is the frequent tokens'. So the test accuracy
    is the fraction of sequences where a model follows the frequent-token cue, and the rest
    follows the sparse token. After the synthetic task of Vasudeva et al. (ICLR 2025); its sizes
    were not published, and these are ours.
    """

    name = "cues"

    sparse_reliability: float = Field(
        1.0, ge=0.5, le=1, description="probability that the sparse token agrees with the label"
    )
    frequent_reliability: float = Field(
        1.0,
        ge=0.5,
        le=1,
        description="probability that the majority of the frequent tokens agrees with the label",
    )
    length: int = Field(20, ge=4, description="tokens of a sequence")
    frequent: int = Field(
        9, ge=1, description="frequent tokens in a sequence; an odd number below `length`"
    )
    agreement: float = Field(
        0.8,
        gt=0.5,
        le=1,
        description="probability that a frequent token is one of its majority's side",
    )
    examples: int = Field(3000, ge=10, description="training sequences; a third more are held out")


class ModularAddition(Generated):
    """Sequences "a b =" of two numbers; the class is (a + b) mod `modulus`."""

    name = "modular_addition"

    modulus: int = Field(113, ge=2, description="the numbers are 0 to modulus - 1")
    train_fraction: float = Field(
        0.3, gt=0, lt=1, description="fraction of all pairs that are trained on; 0.3 in the source"
    )


GENERATED: dict[str, type[Generated]] = {kind.name: kind for kind in (Roles, Cues, ModularAddition)}


def generated(given: str | Mapping[str, Any]) -> Generated:
    """Return the options of generated data, defaults filled in.

    Args:
        given: the name, or a mapping of ``name`` and options.

    Raises:
        ValueError: one line that says what is wrong and what would be right.
    """
    options = {} if isinstance(given, str) else {k: v for k, v in given.items() if k != "name"}
    name = given if isinstance(given, str) else given.get("name")
    if not isinstance(name, str):
        raise ValueError(f"a name, or a mapping with a name, is wanted; got {given!r}")
    if name not in GENERATED:
        raise ValueError(unknown("generated data", name, GENERATED))
    kind = GENERATED[name]
    for option in options:
        if option not in kind.model_fields:
            valid = kind.model_fields
            raise ValueError(
                f"{name!r}: {unknown('option', option, valid)}"
                if valid
                else f"{name!r} takes no {option}"
            )
    try:
        found = kind(**options)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = kind.model_fields[str(first["loc"][0])]
        raise ValueError(
            f"{name!r}: {first['loc'][0]}={first['input']!r}: {first['msg']} ({field.description})"
        ) from None
    if isinstance(found, Cues) and (found.frequent % 2 == 0 or found.frequent >= found.length):
        raise ValueError(
            f"'cues': frequent={found.frequent} of length={found.length}: give an odd number "
            f"below the length, so that there is a majority and room for the sparse token"
        )
    return found
