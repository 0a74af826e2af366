"""What ships with the project, by name. Imports nothing heavy: `plan` reads it without torch."""

from __future__ import annotations

from sensweep.tasks import datasets
from sensweep.tasks.architectures import architectures
from sensweep.tasks.sequence_datasets import SEQUENCE_DATASETS, dataset_digest

__all__ = ["DATASETS", "TASKS", "architectures", "dataset_digest"]

# Of images, then of sequences. `dataset_digest` knows both, and paths.
DATASETS = (*datasets.DATASETS, *SEQUENCE_DATASETS)

# Task name -> (its generator function, the model of its params), each as "module:name". The
# params modules are free of torch, and apart from one another, so that a change to one task's
# params leaves the identity of every other task's trials alone.
TASKS: dict[str, tuple[str, str]] = {
    "train": ("sensweep.tasks.train:train", "sensweep.tasks.params.train:TrainParams"),
    "sensitivity": (
        "sensweep.tasks.sensitivity:sensitivity",
        "sensweep.tasks.params.sensitivity:SensitivityParams",
    ),
    "robustness": (
        "sensweep.tasks.robustness:robustness",
        "sensweep.tasks.params.robustness:RobustnessParams",
    ),
    "calibration": (
        "sensweep.tasks.calibration:calibration",
        "sensweep.tasks.params.calibration:CalibrationParams",
    ),
    "sharpness": (
        "sensweep.tasks.sharpness:sharpness",
        "sensweep.tasks.params.sharpness:SharpnessParams",
    ),
    "train_boolean": (
        "sensweep.tasks.train_boolean:train_boolean",
        "sensweep.tasks.params.train_boolean:TrainBooleanParams",
    ),
    "boolean_sensitivity": (
        "sensweep.tasks.boolean_sensitivity:boolean_sensitivity",
        "sensweep.tasks.params.boolean_sensitivity:BooleanSensitivityParams",
    ),
    "boolean_sharpness": (
        "sensweep.tasks.boolean_sharpness:boolean_sharpness",
        "sensweep.tasks.params.boolean_sharpness:BooleanSharpnessParams",
    ),
    "length_generalisation": (
        "sensweep.tasks.length_generalisation:length_generalisation",
        "sensweep.tasks.params.length_generalisation:LengthGeneralisationParams",
    ),
    "train_tokens": (
        "sensweep.tasks.train_tokens:train_tokens",
        "sensweep.tasks.params.train_tokens:TrainTokensParams",
    ),
    "token_sensitivity": (
        "sensweep.tasks.token_sensitivity:token_sensitivity",
        "sensweep.tasks.params.token_sensitivity:TokenSensitivityParams",
    ),
    "word_sensitivity": (
        "sensweep.tasks.token_sensitivity:word_sensitivity",
        "sensweep.tasks.params.token_sensitivity:WordSensitivityParams",
    ),
    "text_robustness": (
        "sensweep.tasks.text_robustness:text_robustness",
        "sensweep.tasks.params.text_robustness:TextRobustnessParams",
    ),
    "toy": ("sensweep.tasks.toy:toy", "sensweep.tasks.params.toy:ToyParams"),
}
