"""All fifteen corruptions against the functions of the package `imagecorruptions`.

That package is by the makers of ImageNet-C and has their constants, so its functions are read with
those of CIFAR-10-C in their place, and both sides get the same draws: one image at a time, ours
from torch's generator, theirs through a stand-in for numpy's.
"""

from __future__ import annotations

import ast
import sys
import types
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sensweep.tasks.corruptions import _TABLE, CORRUPTIONS, corrupt

SEVERITIES = (1, 3, 5)
GREY_LEVEL = 1 / 255
# Where the package's constants are written otherwise than ours.
CONSTANTS: dict[str, tuple[Any, ...]] = {
    "zoom_blur": tuple(np.arange(1, end, 0.01) for end in (1.06, 1.11, 1.16, 1.21, 1.26)),
    "glass_blur": tuple((sigma, 1, times) for sigma, times in _TABLE["glass_blur"][1]),
}
# Largest difference of a pixel, for what the package rounds to 8 bits on the way (and Pillow's
# JPEG against torchvision's).
TOLERANCE = {
    "glass_blur": 2.1 * GREY_LEVEL,
    "snow": 3 * GREY_LEVEL,
    "frost": 1.1 * GREY_LEVEL,
    "jpeg_compression": 2 * GREY_LEVEL,
}


class Draws:
    """numpy.random's functions, drawing as `sensweep.tasks.corruptions` does for one image."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.moves: list[int] = []

    def _shaped(self, size: Any, draw: Any) -> np.ndarray:
        size = (size,) if isinstance(size, int) else tuple(size or (1,))
        if len(size) == 3:  # theirs have the channels last
            return draw((size[2], size[0], size[1])).double().numpy().transpose(1, 2, 0)
        return draw(size).double().numpy()

    def normal(self, loc: float = 0.0, scale: float = 1.0, size: Any = None) -> np.ndarray:
        return loc + scale * self._shaped(size, lambda s: torch.randn(s, generator=self.generator))

    def uniform(self, low: float, high: float, size: Any = None) -> Any:
        lot = self._shaped(size, lambda s: torch.rand(s, generator=self.generator))
        drawn = low + (high - low) * lot
        return drawn if size is not None else drawn.item()

    def poisson(self, rate: np.ndarray) -> np.ndarray:
        first = torch.from_numpy(rate.transpose(2, 0, 1).copy()).float()
        return torch.poisson(first, generator=self.generator).double().numpy().transpose(1, 2, 0)

    def randint(self, low: int, high: int | None = None, size: Any = None) -> Any:
        if size is not None:  # glass blur's displacements (right, down) of one pixel
            return self._displacement()
        low, high = (0, low) if high is None else (low, high)
        return int(torch.randint(low, high, (), generator=self.generator))

    def _displacement(self) -> tuple[int, int]:
        if not self.moves:
            back = torch.randint(0, 2, (2, 1, 32, 32), generator=self.generator)[:, 0]
            for h in range(31, 1, -1):
                for w in range(31, 1, -1):
                    self.moves += [-int(back[1, h, w]), -int(back[0, h, w])]
            self.moves.reverse()
        return self.moves.pop(), self.moves.pop()


@pytest.fixture(scope="module")
def package() -> types.ModuleType:
    """The package's corruptions.py, read without importing the package, which cannot be."""
    cv2 = pytest.importorskip("cv2", reason="opencv does not work here")
    pytest.importorskip("skimage.filters", reason="scikit-image does not work here")
    from scipy import ndimage
    from skimage.filters import gaussian

    spec = find_spec("imagecorruptions")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("imagecorruptions is not installed")
    folder = Path(spec.submodule_search_locations[0])
    tree = ast.parse((folder / "corruptions.py").read_text())
    for function in tree.body:
        if isinstance(function, ast.FunctionDef) and function.name in CORRUPTIONS:
            for line in ast.walk(function):
                if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "c":
                    constants = f"CONSTANTS[{function.name!r}][severity - 1]"
                    line.value = ast.parse(constants, mode="eval").body
    module = types.ModuleType("imagecorruptions.corruptions")
    stubs = {"pkg_resources": types.ModuleType("pkg_resources")}
    stubs["pkg_resources"].resource_filename = lambda _, name: str(folder / name)  # type: ignore
    stubs["scipy.ndimage.interpolation"] = ndimage
    with pytest.MonkeyPatch.context() as patch:
        for name, stub in stubs.items():
            patch.setitem(sys.modules, name, stub)
        exec(compile(ast.fix_missing_locations(tree), "corruptions.py", "exec"), vars(module))

    # Names that numpy and scikit-image have dropped since.
    def gaussian_then(
        image: np.ndarray, sigma: Any, multichannel: bool = False, **more: Any
    ) -> Any:
        return gaussian(image, sigma=sigma, channel_axis=-1 if multichannel else None, **more)

    module.gaussian = gaussian_then  # type: ignore[attr-defined]
    module.np = types.SimpleNamespace(**vars(np))  # type: ignore[attr-defined]
    module.np.float_ = np.float64
    module.CONSTANTS = {name: _TABLE[name][1] for name in _TABLE} | CONSTANTS  # type: ignore
    # CIFAR-10-C shrank the photographs of frost to a fifth, and cut from that.
    shrunk = {
        "imread": lambda name: cv2.resize(cv2.imread(name), (0, 0), fx=0.2, fy=0.2),
        "resize": lambda picture, dsize, interpolation: picture,
    }
    module.cv2 = types.SimpleNamespace(**(vars(cv2) | shrunk))  # type: ignore[attr-defined]
    return module


def pictures() -> torch.Tensor:
    """Two smooth random images with values that 8 bits can hold."""
    coarse = torch.rand(2, 3, 7, 7, generator=torch.Generator().manual_seed(1))
    fine = torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bicubic").clamp(0, 1)
    return (fine * 255).round() / 255


def theirs(package: types.ModuleType, name: str, image: torch.Tensor, severity: int, seed: int):
    package.np.random = Draws(seed)
    picture = Image.fromarray((image.permute(1, 2, 0) * 255).round().byte().numpy())
    result = np.asarray(getattr(package, name)(picture, severity), dtype=np.float64) / 255
    return torch.from_numpy(result).permute(2, 0, 1)


EXACTLY = sorted(set(CORRUPTIONS) - {"impulse_noise", "elastic_transform", "pixelate"})


@pytest.mark.parametrize("corruption", EXACTLY)
def test_equals_the_package_at_the_constants_of_cifar(package, corruption):
    for severity in SEVERITIES:
        for seed, image in enumerate(pictures()):
            generator = torch.Generator().manual_seed(seed)
            ours = corrupt(image[None], corruption, severity, generator)[0].double()
            truth = theirs(package, corruption, image, severity, seed)
            difference = (ours - truth).abs().max().item()
            assert difference < TOLERANCE.get(corruption, 1e-4), (severity, difference)
            assert (truth - image).abs().mean() > 1e-4


def test_pixelate_differs_in_how_it_enlarges_again_only(package, monkeypatch):
    """There by repeating pixels, in CIFAR-10-C by the box filter that it shrinks with."""
    box = types.SimpleNamespace(BOX=Image.Resampling.BOX, NEAREST=Image.Resampling.BOX)
    monkeypatch.setattr(package, "Image", box)
    for severity in SEVERITIES:
        image = pictures()[0]
        truth = theirs(package, "pixelate", image, severity, 0)
        ours = corrupt(image[None], "pixelate", severity, torch.Generator())[0]
        assert (ours - truth).abs().max() < 1.01 * GREY_LEVEL  # Pillow rounds


def test_elastic_transform_differs_in_the_three_points_only(package):
    """CIFAR-10-C moves three points first. Without that, the displacement is the package's."""
    function, image = _TABLE["elastic_transform"][0], pictures()[0]
    for severity, alpha in ((1, 250 * 0.05), (5, 250 * 0.12)):
        package.np.random = draws = Draws(3)
        torch.rand(1, 3, 2, generator=draws.generator)  # where the three points would move
        picture = (image.permute(1, 2, 0) * 255).round().numpy()
        truth = torch.from_numpy(package.elastic_transform(picture, severity)).permute(2, 0, 1)
        generator = torch.Generator().manual_seed(3)
        ours = function(image[None], (0.005 * alpha, 0.01, 0.0), generator=generator)[0]
        assert (ours - truth / 255).abs().max() < 1e-4
        assert (ours - image).abs().mean() > 1e-3


def test_impulse_noise_replaces_as_large_a_share(package, monkeypatch):
    image = pictures()[0]
    shares = []
    monkeypatch.setattr(
        package.sk.util, "random_noise", lambda x, mode, amount: shares.append((mode, amount)) or x
    )
    for severity in SEVERITIES:
        theirs(package, "impulse_noise", image, severity, 0)
        grey = torch.full((20, 3, 32, 32), 0.5)
        ours = corrupt(grey, "impulse_noise", severity, torch.Generator().manual_seed(0))
        mode, amount = shares[-1]
        assert mode == "s&p"  # salt and pepper in equal parts
        for level in (0.0, 1.0):
            share = (ours == level).double().mean().item()
            assert share == pytest.approx(amount / 2, rel=0.1)
