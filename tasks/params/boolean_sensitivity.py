"""Parameters of the `boolean_sensitivity` task."""

from pydantic import BaseModel, ConfigDict, Field


class BooleanSensitivityParams(BaseModel):
    """How the sensitivity of a trained model of bits is found."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    exact_up_to: int = Field(
        12, ge=0, le=20, description="longest strings of which all are tried; longer are sampled"
    )
    inputs: int = Field(1024, ge=1, description="strings sampled, and each of their bits flipped")
    degrees: bool = Field(
        False, description="whether to yield the weight of each degree of the Fourier expansion"
    )
    random_completions: int = Field(
        0,
        ge=0,
        description="of a model trained on listed strings: functions drawn that agree with the "
        "target on these and are coins elsewhere, for comparison",
    )
    batch_size: int = Field(
        512,
        ge=1,
        description="strings in one forward pass; small models on a CPU are fastest at about 512, "
        "whose activations stay in its cache; GPUs want more",
    )
