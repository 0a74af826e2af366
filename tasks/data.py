"""Datasets as resident tensors: images in [0, 1], three splits that are fixed for good.

The splits depend on the dataset alone, never on a trial's seed: every trial sees the same test
images, and a search that reads validation accuracy has never seen them.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from sensweep.tasks.api import TaskError
from sensweep.tasks.datasets import (
    DOWNLOADED,
    SHIPPED,
    SPLITS,
    dataset_digest,
    parquet_files,
    shipped_file,
)

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "labels", "fine_label")
# Without a test or validation split of its own, a dataset gives a sixth of its images for each,
# but no more than these: beyond them the error of an accuracy is below 0.5%.
MOST_TEST, MOST_VALIDATION = 10_000, 5_000


class Split(NamedTuple):
    """Images and labels of one split.

    Attributes:
        x: float32 [N, C, H, W] in [0, 1].
        y: int64 [N], class indices.
    """

    x: torch.Tensor
    y: torch.Tensor


@dataclass(frozen=True, slots=True)
class Splits:
    """A dataset on one device. The tensors are shared by trials: treat them as read-only.

    Attributes:
        train: what models are trained on. Its order is random but fixed, so that its first n
            images are a fair sample, and a part of the first n + 1.
        validation: what searches and early stopping may look at.
        test: what only the final numbers look at.
        num_classes: number of classes; labels are 0 to num_classes - 1.
        mean: mean of each channel over the whole train split, in [0, 1].
        std: standard deviation of each channel over the whole train split.
        digest: the dataset's content digest.
    """

    train: Split
    validation: Split
    test: Split
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    digest: str

    @property
    def in_chans(self) -> int:
        """Number of colour channels."""
        return self.train.x.shape[1]

    @property
    def img_size(self) -> int:
        """Height and width in pixels."""
        return self.train.x.shape[2]


class _Raw(NamedTuple):
    x: np.ndarray  # uint8 [N, H, W, C]
    y: np.ndarray  # int64 [N]


def load(name: str, cache: MutableMapping[str, object], device: str = "cpu") -> Splits:
    """Load a dataset onto a device, once per content and device.

    Decoded Parquet and downloaded datasets are kept under `data_root`, from where the processes
    of a node map them into memory: each image is decoded once and held once per node.

    Args:
        name: a name from `sensweep.tasks.datasets.DATASETS`, or a path to Parquet files with an
            image column (bytes, or a struct with ``bytes``) and an integer label column.
        cache: `Context.cache`.
        device: a torch device string.

    Raises:
        TaskError: unknown name or path, unreadable or unsuitable content, or no network.
    """
    digest = dataset_digest(name)
    key = f"dataset/{digest}/{device}"
    cached = cache.get(key)
    if isinstance(cached, Splits):
        return cached
    if name in SHIPPED:
        arrays, facts = _split(*_read_shipped(name), name)
    else:
        arrays, facts = _decoded_once(name, digest)
    splits = {
        split: Split(
            torch.from_numpy(arrays[f"{split}_x"]).to(device),
            torch.from_numpy(arrays[f"{split}_y"]).to(device),
        )
        for split in SPLITS
    }
    loaded = Splits(
        **splits,
        num_classes=int(facts["num_classes"]),
        mean=tuple(facts["mean"]),
        std=tuple(facts["std"]),
        digest=digest,
    )
    cache[key] = loaded
    return loaded


def data_root() -> Path:
    """Where downloaded and decoded datasets are kept: $SENSWEEP_DATA, else ~/.cache/sensweep."""
    return Path(os.environ.get("SENSWEEP_DATA") or "~/.cache/sensweep").expanduser()


def _split(given: dict[str, _Raw], scale: int, name: str) -> tuple[dict[str, np.ndarray], dict]:
    """Shuffle, split what is not split yet, scale to [0, 1] and find the channels' statistics."""
    # RandomState's stream is frozen for good, unlike those of torch and numpy's Generator.
    order = np.random.RandomState(0).permutation(len(given["train"].y))
    sixth = len(order) // 6
    start = 0
    rows: dict[str, _Raw] = {}
    for split, most in (("test", MOST_TEST), ("validation", MOST_VALIDATION)):
        if split in given:
            rows[split] = given[split]
            continue
        if sixth == 0:
            raise TaskError(f"dataset {name!r}: {len(order)} images cannot be split in three")
        taken = order[start : start + min(most, sixth)]
        start += len(taken)
        rows[split] = _Raw(given["train"].x[taken], given["train"].y[taken])
    rows["train"] = _Raw(given["train"].x[order[start:]], given["train"].y[order[start:]])
    num_classes = _count_classes(rows, name)

    arrays: dict[str, np.ndarray] = {}
    for split, (x, y) in rows.items():
        pixels = np.ascontiguousarray(x.transpose(0, 3, 1, 2), dtype=np.float32)
        pixels /= scale
        arrays[f"{split}_x"], arrays[f"{split}_y"] = pixels, y.astype(np.int64)
    train = arrays["train_x"]
    facts = {
        "num_classes": num_classes,
        "mean": train.mean(axis=(0, 2, 3), dtype=np.float64).tolist(),
        # A channel without any contrast would be divided by zero.
        "std": np.maximum(train.std(axis=(0, 2, 3), dtype=np.float64), 1e-6).tolist(),
    }
    return arrays, facts


def _count_classes(rows: dict[str, _Raw], name: str) -> int:
    num_classes = int(rows["train"].y.max()) + 1
    shape = rows["train"].x.shape[1:]
    for split, (x, y) in rows.items():
        if x.shape[1:] != shape:
            raise TaskError(
                f"dataset {name!r}: {split} images are {x.shape[1:]}, train images {shape} "
                f"(height, width, channels)"
            )
        if y.min() < 0 or y.max() >= num_classes:
            raise TaskError(
                f"dataset {name!r}: {split} labels run from {y.min()} to {y.max()}; "
                f"the train split has classes 0 to {num_classes - 1}"
            )
    return num_classes


def _read_shipped(name: str) -> tuple[dict[str, _Raw], int]:
    table = np.loadtxt(shipped_file(name), delimiter=",", dtype=np.uint8)
    side = int((table.shape[1] - 1) ** 0.5)
    x = table[:, :-1].reshape(-1, side, side, 1)
    # Digits are counts of 4x4 binary blocks, 0 to 16; everything else has 8-bit pixels.
    return {"train": _Raw(x, table[:, -1].astype(np.int64))}, 16 if name == "digits" else 255


def _decoded_once(name: str, digest: str) -> tuple[dict[str, np.ndarray], dict]:
    """Give the splits of a dataset that is slow to decode, mapped from the copy under `data_root`.

    The copy is made by whoever comes first. It is named after the content and after this file,
    whose splitting and scaling it embodies.
    """
    code = sha256(Path(__file__).read_bytes()).hexdigest()
    folder = data_root() / "decoded" / f"{digest[:20]}-{code[:12]}"
    if not folder.exists():
        given = _download(name) if name in DOWNLOADED else _read_parquet(name)
        arrays, facts = _split(given, 255, name)
        try:
            _store(folder, arrays, facts)
        except OSError:
            return arrays, facts  # no room, or a read-only disk: this process keeps its own copy
    # Copy on write: a stray in-place change stays with the process that made it.
    arrays = {file.stem: np.load(file, mmap_mode="c") for file in folder.glob("*.npy")}
    return arrays, json.loads((folder / "facts.json").read_text())


def _store(folder: Path, arrays: dict[str, np.ndarray], facts: dict) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = folder.parent / f".aside-{uuid.uuid4().hex}"
    aside.mkdir()  # unlike mkdtemp's, readable by those with whom the root is shared
    try:
        for key, array in arrays.items():
            np.save(aside / f"{key}.npy", array)
        (aside / "facts.json").write_text(json.dumps(facts))
        aside.rename(folder)
    except OSError:
        shutil.rmtree(aside, ignore_errors=True)
        if not folder.exists():  # if it does, another process was first, with the same content
            raise


def _download(name: str) -> dict[str, _Raw]:
    """Read a torchvision dataset from under `data_root`, or download it."""
    root = data_root()
    try:
        return _read_torchvision(name, root, download=False)
    except RuntimeError:  # torchvision's word for files that are missing or damaged
        pass
    try:
        root.mkdir(parents=True, exist_ok=True)
        # A folder of its own: two processes may download at once.
        with tempfile.TemporaryDirectory(dir=root, prefix=".download-") as folder:
            return _read_torchvision(name, Path(folder), download=True)
    except (OSError, RuntimeError) as error:
        raise TaskError(
            f"dataset {name!r}: not under {str(root)!r} and not downloadable here "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason'})"
            f"; put torchvision's files there, or set SENSWEEP_DATA to their folder"
        ) from error


def _read_torchvision(name: str, root: Path, *, download: bool) -> dict[str, _Raw]:
    from torchvision import datasets

    given = {}
    for split in ("train", "test"):
        if name == "svhn":
            source = datasets.SVHN(root, split, download=download)
            x, y = source.data.transpose(0, 2, 3, 1), source.labels
        else:
            kind = {
                "cifar10": datasets.CIFAR10,
                "cifar100": datasets.CIFAR100,
                "fashion_mnist": datasets.FashionMNIST,
            }[name]
            source = kind(root, train=split == "train", download=download)
            x, y = np.asarray(source.data), source.targets
        x = x if x.ndim == 4 else x[..., None]
        given[split] = _Raw(x, np.asarray(y, dtype=np.int64))
    return given


def _read_parquet(name: str) -> dict[str, _Raw]:
    import pandas

    given = {}
    for split, files in parquet_files(name).items():
        try:
            table = pandas.concat([pandas.read_parquet(file) for file in files])
        except Exception as error:
            raise TaskError(
                f"dataset {name!r}: unreadable: {str(error).splitlines()[0]}"
            ) from error
        image = _column(list(table.columns), IMAGE_COLUMNS, "image", name)
        label = _column(list(table.columns), LABEL_COLUMNS, "label", name)
        if not pandas.api.types.is_integer_dtype(table[label]) or table.empty:
            raise TaskError(
                f"dataset {name!r}: column {label!r} of the {split} split holds "
                f"{len(table)} values of type {table[label].dtype}; integer labels are needed"
            )
        y = table[label].to_numpy(np.int64)
        given[split] = _Raw(_decode(table[image].tolist(), name), y)
    return given


def _column(columns: Sequence[str], wanted: Sequence[str], what: str, name: str) -> str:
    for column in wanted:
        if column in columns:
            return column
    raise TaskError(
        f"dataset {name!r}: no {what} column; wanted one of {', '.join(wanted)}, "
        f"found {', '.join(map(str, columns))}"
    )


def _decode(cells: list[Any], name: str) -> np.ndarray:
    """Decode encoded images of one square size to uint8 [N, S, S, C]; C is 1 if all are grey."""
    from PIL import Image, UnidentifiedImageError

    images = []
    for index, cell in enumerate(cells):
        content: Any = cell.get("bytes") if isinstance(cell, dict) else cell
        try:
            images.append(Image.open(io.BytesIO(content)))
        except (TypeError, UnidentifiedImageError) as error:
            raise TaskError(f"dataset {name!r}: image {index} is not an encoded image") from error
    modes = {image.mode for image in images}
    sizes = sorted({image.size for image in images})
    if deep := modes & {"I", "I;16", "F"}:
        raise TaskError(f"dataset {name!r}: pixels of mode {min(deep)}; 8-bit images are needed")
    if len(sizes) > 1 or sizes[0][0] != sizes[0][1]:
        some = ", ".join(f"{width}x{height}" for width, height in sizes[:3])
        raise TaskError(f"dataset {name!r}: images of {some}; resize all to one square size")
    mode = "L" if modes <= {"1", "L"} else "RGB"
    pixels = np.stack([np.asarray(image.convert(mode)) for image in images])
    return pixels if mode == "RGB" else pixels[..., None]
