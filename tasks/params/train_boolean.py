"""Parameters of the `train_boolean` task."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

LONGEST_TABLE = 20


class TrainBooleanParams(BaseModel):
    """One training of a transformer on a function of bits: what is learnt, by what, how."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    function: Literal["parity", "majority", "first", "mean", "random"] = Field(
        "parity", description="the function of the bits that is learnt"
    )
    function_seed: int = Field(0, ge=0, description="which of the random functions")
    length: int = Field(ge=1, description="bits of a string, the longest where they vary")
    shortest: int | None = Field(
        None,
        ge=1,
        description="each step's strings have a length drawn from here to `length`; default all "
        "have `length`",
    )
    train_inputs: int | None = Field(
        None,
        ge=1,
        description="train on so many strings, drawn once; default fresh strings at each step",
    )
    completion: Literal["learned", "random"] | None = Field(
        None,
        description="of a stage that needs another one: learn a whole truth table made from its "
        "model; learned: what it answers; random: the strings that it was trained on, and coins "
        "for all others",
    )
    scratchpad: bool = Field(
        False, description="answer after each bit, with a decoder that reads its own answers"
    )

    depth: int = Field(2, ge=1, description="layers of the encoder, and of the decoder")
    width: int = Field(128, ge=2, description="features of a token")
    heads: int = Field(2, ge=1, description="attention heads; they divide `width`")
    feedforward: int | None = Field(
        None, ge=1, description="width of the feed-forward nets; default `width`"
    )
    norm: Literal["post", "pre"] = Field(
        "post", description="layer normalisation after each sublayer's sum, or before it"
    )
    attention: Literal["softmax", "relu"] = Field("softmax", description="weights of attention")
    embedding: Literal["concatenate", "add"] = Field(
        "concatenate", description="how the embeddings of bit and position are joined"
    )
    places: Literal["fixed", "randomised"] = Field(
        "fixed", description="randomised: for strings longer than the training's"
    )
    positions: int | None = Field(
        None, ge=1, description="learned positions, at least `length`; default `length`"
    )

    steps: int = Field(10_000, ge=1, description="training steps")
    batch_size: int = Field(1024, ge=1, description="strings per step")
    lr: float = Field(3e-4, gt=0, description="learning rate of AdamW")
    weight_decay: float = Field(0.1, ge=0, description="decay of all weights, as in AdamW")
    cooldown: float = Field(
        0.0,
        ge=0,
        le=1,
        description="fraction of the steps, the last ones, over which the rate falls linearly to "
        "zero; 0 in the source",
    )
    measure_every: int = Field(
        100, ge=1, description="steps between measurements; the last step is measured too"
    )
    evaluation_inputs: int = Field(
        1024,
        ge=1,
        description="strings that the loss is measured on; all, if there are fewer, or if they "
        "are listed by `train_inputs` or `completion`",
    )
    fit_loss: float = Field(
        1e-3, gt=0, description="a training has fitted if its last evaluation loss is below this"
    )
    fit_accuracy: float = Field(
        0.0,
        ge=0,
        le=1,
        description="... and its last accuracy at least this; with a scratchpad, of its own "
        "answers read one after another",
    )

    @field_validator("shortest", "train_inputs", "completion", "scratchpad")
    @classmethod
    def _goes_with_the_function(cls, given: object, info: ValidationInfo) -> object:
        length, name = info.data.get("length"), info.field_name
        if length is None or given in (None, False):
            return given
        if name == "shortest" and given > length:  # type: ignore[operator]
            raise ValueError(f"{given} is more than length={length}")
        if name in ("train_inputs", "completion") and length > LONGEST_TABLE:
            raise ValueError(f"needs a truth table, so length is at most {LONGEST_TABLE}")
        if name == "train_inputs" and given > 2**length:  # type: ignore[operator]
            raise ValueError(f"{given} is more than the {2**length} strings of {length} bits")
        rivals = {"train_inputs": ("shortest",), "completion": ("shortest", "train_inputs")}
        for rival in rivals.get(name or "", ()):
            if info.data.get(rival) is not None:
                raise ValueError(f"does not go with {rival}: give one of them")
        if name == "scratchpad" and (info.data.get("completion") or info.data.get("train_inputs")):
            raise ValueError("a table has no values at prefixes: leave train_inputs and completion")
        return given

    @field_validator("width")
    @classmethod
    def _even(cls, width: int) -> int:
        if width % 2:
            raise ValueError(f"{width} is odd: half of it is each embedding's")
        return width

    @field_validator("heads")
    @classmethod
    def _divide(cls, heads: int, info: ValidationInfo) -> int:
        if (width := info.data.get("width")) is not None and width % heads:
            raise ValueError(f"{heads} does not divide width={width}")
        return heads

    @field_validator("positions")
    @classmethod
    def _suffice(cls, positions: int | None, info: ValidationInfo) -> int | None:
        length = info.data.get("length")
        if positions is not None and length is not None and positions < length:
            raise ValueError(f"{positions} is less than length={length}")
        return positions
