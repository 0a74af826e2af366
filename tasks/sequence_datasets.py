"""Which sequence datasets there are by name, and their identity. Loads none (`sequence_data` does).

Beside these names a dataset of sequences is a path with Parquet files, as `datasets` has them.
"""

from __future__ import annotations

import hashlib

from sensweep.tasks.datasets import dataset_digest as image_dataset_digest

# Made by `generated_sequences` without options; what else it makes is given as a mapping.
NAMED_GENERATED = ("roles",)
# Read through the `datasets` library from the Hugging Face Hub, at this commit of nyu-mll/glue.
GLUE_COMMIT = "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"
GLUE = tuple(f"glue/{task}" for task in ("cola", "mrpc", "qnli", "qqp", "rte", "sst2", "wnli"))
SEQUENCE_DATASETS = (*NAMED_GENERATED, *GLUE)


def dataset_digest(name: str) -> str:
    """Identify a dataset of sequences by its content: 64 hex digits.

    Of generated data the content is the code's, which a trial's identity holds already; GLUE is
    pinned to one commit of the Hub.

    Raises:
        TaskError: no dataset of that name, no such path, or no Parquet file in it.
    """
    if name in NAMED_GENERATED:
        return hashlib.sha256(f"generated {name}".encode()).hexdigest()
    if name in GLUE:
        return hashlib.sha256(f"nyu-mll/{name}@{GLUE_COMMIT}".encode()).hexdigest()
    return image_dataset_digest(name)
