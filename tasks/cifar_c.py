"""The published CIFAR-10-C: read from its arrays, by path (Hendrycks & Dietterich, ICLR 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sensweep.tasks.api import TaskError
from sensweep.tasks.names import unknown

SEVERITIES = 5


class CifarC:
    """A random subset of the images, the same at every corruption and severity.

    The folder holds NAME.npy for each corruption, uint8 [5 * N, H, W, 3] with the N images at
    severity 1 first (published: N = 10,000 of 32x32), and labels.npy [5 * N]. They are mapped, not
    read: what is touched is the subset.

    Args:
        folder: where the arrays are.
        images: size of the subset; all, if there are fewer.
        seed: of the subset.

    Raises:
        TaskError: no labels in the folder.
    """

    def __init__(self, folder: str, images: int, seed: int) -> None:
        self.folder = Path(folder).expanduser()
        self.labels = self._array("labels")
        count = len(self.labels) // SEVERITIES
        if self.labels.ndim != 1 or count == 0 or len(self.labels) % SEVERITIES:
            raise TaskError(
                f"cifar_c: labels.npy of {folder!r} has shape {self.labels.shape}; "
                f"wanted [{SEVERITIES} * images]"
            )
        self.count = count
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
        self.chosen = order[:images].sort().values.numpy()

    def read(self, corruption: str, severity: int, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Read the subset at one corruption and severity (1 to 5).

        Returns:
            Images, float32 [n, 3, H, W] in [0, 1], and labels, int64 [n].

        Raises:
            TaskError: no such array, or images of another shape than `shape`, (channels, H, W).
        """
        array = self._array(corruption)
        wanted = (SEVERITIES * self.count, *shape[1:], shape[0])
        if array.shape != wanted or array.dtype != np.uint8:
            raise TaskError(
                f"cifar_c: {corruption}.npy of {str(self.folder)!r} is {array.dtype} "
                f"{list(array.shape)}; for this model wanted uint8 {list(wanted)}"
            )
        rows = self.chosen + (severity - 1) * self.count
        images = torch.from_numpy(np.ascontiguousarray(array[rows].transpose(0, 3, 1, 2)))
        return images.float() / 255, torch.from_numpy(self.labels[rows].astype(np.int64))

    def _array(self, name: str) -> np.ndarray:
        file = self.folder / f"{name}.npy"
        if not file.is_file():
            there = sorted(path.stem for path in self.folder.glob("*.npy"))
            hint = (
                f"no such file in {str(self.folder)!r}; the published folder is at "
                "https://zenodo.org/records/2535967"
            )
            raise TaskError(f"cifar_c: {unknown('array', name, there, hint=hint)}")
        try:
            return np.load(file, mmap_mode="r")
        except ValueError as error:
            raise TaskError(f"cifar_c: {str(file)!r} is no array of numpy: {error}") from error
