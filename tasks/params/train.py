"""Parameters of the `train` task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from sensweep.tasks.architectures import architectures
from sensweep.tasks.datasets import DATASETS
from sensweep.tasks.names import unknown
from sensweep.tasks.params.interventions import INTERVENTIONS, Intervention

# Arguments of a model that are not its own business: the first three are the dataset's, and
# weights from elsewhere are no part of a trial's identity.
_NOT_OF_ARCH = {
    "num_classes": "the dataset sets it",
    "in_chans": "the dataset sets it",
    "img_size": "the dataset sets it",
    "pretrained": "models are trained from scratch",
    "checkpoint_path": "models are trained from scratch",
}
# Options of an intervention that are given beside it, so that an axis can vary them.
_BESIDE = ("strength", "noise", "probability")


class TrainParams(BaseModel):
    """One training run: what is trained, on what, how."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: str = Field(
        description="a name such as digits, mnist5k, cifar10; or the path of a .parquet file, or "
        "of a folder with train and test .parquet files"
    )
    arch: str | dict[str, Any] = Field(
        description="a name (mlp, cnn, any of timm's), module:function, or {name, and the "
        "model's own arguments such as patch_size, embed_dim, depth, hidden, width}"
    )
    intervention: str | dict[str, Any] = Field(
        "none", description="a name, or {name, and the intervention's options}"
    )
    strength: float | None = Field(
        None,
        validate_default=True,
        description="strength of the intervention; its unit and range are the intervention's",
    )
    noise: float | None = Field(
        None, description="noise of the intervention, where it has that option: an axis may vary it"
    )
    probability: float | None = Field(
        None, description="probability of the intervention, where it has that option; likewise"
    )
    train_size: int | None = Field(
        None, ge=1, description="images to train on, the first of the train split; default all"
    )

    epochs: int = Field(10, ge=1, description="passes over the training images")
    batch_size: int = Field(64, ge=1, description="images per step")
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="adamw or sgd")
    lr: float = Field(
        1e-3, gt=0, description="peak learning rate; 1e-3 suits AdamW, SGD wants about 0.1"
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of sgd; adamw ignores it")
    weight_decay: float = Field(
        0.05, ge=0, description="decay of all weights, as torch defines it; sgd wants about 5e-4"
    )
    schedule: Literal["cosine", "constant"] = Field(
        "cosine", description="learning rate after the warm-up: cosine to zero, or constant"
    )
    warmup_epochs: float = Field(
        1.0, ge=0, description="epochs of linear warm-up from zero; at most `epochs`"
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="probability mass spread evenly")
    grad_clip: float | None = Field(
        None, gt=0, description="largest norm of the whole gradient; default no clipping"
    )
    flip: bool = Field(False, description="mirror half of the training images left to right")
    shift: int = Field(
        0, ge=0, description="shift training images by up to so many pixels each way, zeros fill up"
    )
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="bf16: mixed precision in training; a gain on GPUs only"
    )
    compile: bool = Field(False, description="torch.compile the model; pays on long runs only")

    @field_validator("dataset")
    @classmethod
    def _known_dataset(cls, name: str) -> str:
        # Whether a path exists is checked when its content is hashed or read.
        if name not in DATASETS and "/" not in name and not name.endswith(".parquet"):
            raise ValueError(unknown("dataset", name, DATASETS, hint="or a path with a / in it"))
        return name

    @field_validator("arch")
    @classmethod
    def _known_arch(cls, arch: str | dict[str, Any]) -> str | dict[str, Any]:
        name, kwargs = _parted("arch", arch)
        for key in kwargs:
            if key in _NOT_OF_ARCH:
                raise ValueError(f"arch {name!r}: {key} cannot be given; {_NOT_OF_ARCH[key]}")
        if ":" not in name and name not in architectures():
            raise ValueError(unknown("arch", name, architectures(), hint="or module:function"))
        return arch

    @field_validator("intervention")
    @classmethod
    def _known_intervention(cls, intervention: str | dict[str, Any]) -> str | dict[str, Any]:
        name, options = _parted("intervention", intervention)
        if name not in INTERVENTIONS:
            raise ValueError(unknown("intervention", name, INTERVENTIONS))
        if "strength" in options:
            raise ValueError(f"intervention {name!r}: give strength beside intervention, not in it")
        for key, message in _errors(name, options):
            if key != "strength":
                raise ValueError(message)
        return intervention

    @field_validator(*_BESIDE)
    @classmethod
    def _option_in_range(cls, value: float | None, info: ValidationInfo) -> float | None:
        if "intervention" in info.data:  # else it was refused itself
            name, options = _parted("intervention", info.data["intervention"])
            this = str(info.field_name)
            given = {key: info.data.get(key) for key in _BESIDE} | {this: value}
            for key, message in _errors(name, _with_given(options, given)):
                if key == this:
                    raise ValueError(message)
        return value

    @field_validator("warmup_epochs")
    @classmethod
    def _warmup_within_training(cls, warmup: float, info: ValidationInfo) -> float:
        if warmup > info.data.get("epochs", warmup):
            raise ValueError(
                f"{warmup:g} epochs of warm-up, more than epochs={info.data['epochs']}"
            )
        return warmup

    def intervention_spec(self) -> Intervention:
        """Return the intervention with its strength and options."""
        name, options = _parted("intervention", self.intervention)
        given = {key: getattr(self, key) for key in _BESIDE}
        return INTERVENTIONS[name](**_with_given(options, given))


def _parted(field: str, value: str | dict[str, Any]) -> tuple[str, dict[str, Any]]:
    if isinstance(value, str):
        return value, {}
    name = value.get("name")
    if not isinstance(name, str):
        raise ValueError(f"{field} is a name or a mapping with a name; got {value!r}")
    return name, {key: item for key, item in value.items() if key != "name"}


def _with_given(options: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    # What is left out is the intervention's own default, if there is one.
    return options | {key: value for key, value in given.items() if value is not None}


def _errors(name: str, options: dict[str, Any]) -> list[tuple[str, str]]:
    """List what is wrong with an intervention's options: (option, one line that says it)."""
    kind = INTERVENTIONS[name]
    try:
        kind(**options)
    except ValidationError as error:
        return [_explained(name, kind, dict(item)) for item in error.errors(include_url=False)]
    return []


def _explained(name: str, kind: type[Intervention], error: dict[str, Any]) -> tuple[str, str]:
    key = str(error["loc"][0])
    field = kind.model_fields.get(key)
    valid = kind.model_fields.keys() - {"strength"}
    if field is None and not valid:
        message = f"takes no {key}"
    elif field is None:
        message = unknown("option", key, valid)
    elif error["type"] == "missing":
        message = f"needs a {key}: {field.description}"
    else:
        message = f"{key}={error['input']!r}: {error['msg']} ({field.description})"
    return key, f"intervention {name!r}: {message}"
