"""Parameters of the `train_tokens` task."""

from __future__ import annotations

from typing import Any

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from sensweep.tasks.names import unknown
from sensweep.tasks.params.sequence_interventions import (
    SEQUENCE_INTERVENTIONS,
    SequenceIntervention,
)
from sensweep.tasks.params.sequences import SEQUENCE_ARCHITECTURES, generated
from sensweep.tasks.sequence_datasets import SEQUENCE_DATASETS


class TrainTokensParams(BaseModel):
    """One training of a classifier of token sequences: what is trained, on what, how.

    `dataset` and `arch` may be given as `sequences` and `network`: a study of images and
    sequences has an axis of the former names for its images.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: str | dict[str, Any] = Field(
        validation_alias=AliasChoices("dataset", "sequences"),
        description="roles, glue/mrpc, glue/qqp, ...; the path of a .parquet file, or of a folder "
        "with train and test .parquet files, with one or two text columns and a label; or "
        "{name: cues} or {name: modular_addition} with options",
    )
    arch: str | dict[str, Any] = Field(
        validation_alias=AliasChoices("arch", "network"),
        description="a name (roberta, gpt2, lstm, one_attention, token_mlp), module:function, or "
        "{name, and the model's own arguments such as layers, width, heads, attention}",
    )
    intervention: str | dict[str, Any] = Field(
        "none", description="a name, or {name, and the intervention's options}"
    )
    strength: float | None = Field(
        None,
        validate_default=True,
        description="strength of the intervention; its unit and range are the intervention's",
    )
    tokenizer: str = Field(
        "words",
        min_length=1,
        description="of texts: words (made from the train split), or the name or folder of a "
        "pretrained one",
    )
    vocabulary: int = Field(
        30_000, ge=5, description="most entries of the tokenizer words, specials included"
    )
    max_length: int = Field(128, ge=4, description="tokens to which longer texts are cut")
    train_size: int | None = Field(
        None, ge=1, description="sequences to train on, the first of the train split; default all"
    )

    epochs: int = Field(10, ge=1, description="passes over the training sequences")
    batch_size: int | None = Field(
        32, ge=1, description="sequences per step; null for all of them in one step"
    )
    lr: float = Field(1e-3, gt=0, description="learning rate of AdamW, before its schedule")
    beta2: float = Field(0.999, gt=0, lt=1, description="second-moment decay of AdamW")
    weight_decay: float = Field(
        0.01, ge=0, description="decay of all weights, as torch defines it for AdamW"
    )
    lr_decay: float = Field(
        1.0, gt=0, le=1, description="factor on the learning rate after each epoch; 1 keeps it"
    )
    warmup_steps: int = Field(0, ge=0, description="steps of linear warm-up from zero")
    grad_clip: float | None = Field(
        None, gt=0, description="largest norm of the whole gradient; default no clipping"
    )
    measure_every: int = Field(
        1, ge=1, description="epochs from one measurement and checkpoint to the next"
    )
    progress_noise: float | None = Field(
        None,
        gt=0,
        description="if given, the sensitivity to noise of this standard deviation on the "
        "embeddings of all words at once is followed through the training",
    )

    @field_validator("dataset")
    @classmethod
    def _known_dataset(cls, given: str | dict[str, Any]) -> str | dict[str, Any]:
        if isinstance(given, dict):
            options = generated(given)
            return {"name": options.name, **options.model_dump()}
        if given not in SEQUENCE_DATASETS and "/" not in given and not given.endswith(".parquet"):
            hint = "{name: cues} or {name: modular_addition}, or a path with a / in it"
            raise ValueError(unknown("dataset", given, SEQUENCE_DATASETS, hint=hint))
        return given

    @field_validator("arch")
    @classmethod
    def _known_arch(cls, arch: str | dict[str, Any]) -> str | dict[str, Any]:
        name = arch if isinstance(arch, str) else arch.get("name")
        if not isinstance(name, str):
            raise ValueError(f"arch is a name or a mapping with a name; got {arch!r}")
        if ":" not in name and name not in SEQUENCE_ARCHITECTURES:
            raise ValueError(
                unknown("arch", name, SEQUENCE_ARCHITECTURES, hint="or module:function")
            )
        return arch

    @field_validator("intervention")
    @classmethod
    def _known_intervention(cls, given: str | dict[str, Any]) -> str | dict[str, Any]:
        name, options = _parted(given)
        if "strength" in options:
            raise ValueError(f"intervention {name!r}: give strength beside intervention, not in it")
        for key, message in _problems(name, options):
            if key != "strength":
                raise ValueError(message)
        return given

    @field_validator("strength")
    @classmethod
    def _strength_in_range(cls, strength: float | None, info: ValidationInfo) -> float | None:
        if "intervention" in info.data:  # else it was refused itself
            name, options = _parted(info.data["intervention"])
            given = {} if strength is None else {"strength": strength}
            for key, message in _problems(name, {**options, **given}):
                if key == "strength":
                    raise ValueError(message)
        return strength

    def intervention_spec(self) -> SequenceIntervention:
        """Return the intervention with its strength and options."""
        name, options = _parted(self.intervention)
        given = {} if self.strength is None else {"strength": self.strength}
        return SEQUENCE_INTERVENTIONS[name](**options, **given)


def _parted(given: str | dict[str, Any]) -> tuple[str, dict[str, Any]]:
    name = given if isinstance(given, str) else given.get("name")
    if not isinstance(name, str):
        raise ValueError(f"intervention is a name or a mapping with a name; got {given!r}")
    if name not in SEQUENCE_INTERVENTIONS:
        raise ValueError(unknown("intervention", name, SEQUENCE_INTERVENTIONS))
    return name, {} if isinstance(given, str) else {k: v for k, v in given.items() if k != "name"}


def _problems(name: str, options: dict[str, Any]) -> list[tuple[str, str]]:
    """List what is wrong with an intervention's options: (option, one line that says it)."""
    fields = SEQUENCE_INTERVENTIONS[name].model_fields
    found = []
    for key in options:
        if key not in fields:
            what = unknown("option", key, fields) if fields else f"takes no {key}"
            found.append((key, f"intervention {name!r}: {what}"))
    if found:
        return found
    try:
        SEQUENCE_INTERVENTIONS[name](**options)
    except ValidationError as error:
        for item in error.errors(include_url=False):
            key = str(item["loc"][0])
            given = "" if item["type"] == "missing" else f"={item['input']!r}"
            found.append(
                (
                    key,
                    f"intervention {name!r}: {key}{given}: {item['msg']} "
                    f"({fields[key].description})",
                )
            )
    return found
