"""What ships with the project, by name. Imports nothing heavy: `plan` reads it without torch."""

from __future__ import annotations

from sensweep.tasks.architectures import architectures
from sensweep.tasks.datasets import DATASETS, dataset_digest

__all__ = ["DATASETS", "TASKS", "architectures", "dataset_digest"]

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
    "toy": ("sensweep.tasks.toy:toy", "sensweep.tasks.params.toy:ToyParams"),
}
