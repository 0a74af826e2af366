"""Common image corruptions in the manner of CIFAR-10-C, for batches of small images.

The fifteen types of Hendrycks & Dietterich (ICLR 2019), with the constants that made CIFAR-10-C.
Differences from the released arrays, all below a grey level or two: results stay real-valued
where the released ones were truncated to 8 bits, and intermediate roundings are left out.

Everything runs on the CPU in batched torch, and all randomness comes from the given generator.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torchvision.io import ImageReadMode, decode_image, encode_jpeg

from sensweep.tasks.api import TaskError
from sensweep.tasks.names import unknown

# The constants are meant for images of this size.
SIZE = 32

# The photographs that frost chooses from: five of the six that were released, as in CIFAR-10-C.
FROST = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")
_LUMA = torch.tensor([0.299, 0.587, 0.114])


def corrupt(images: Tensor, corruption: str, severity: int, generator: Generator) -> Tensor:
    """Corrupt each image of a batch.

    Images smaller than 32x32 are enlarged to it (bilinearly) and corrupted there; what the
    corruption changed is taken back at the pixels nearest to the image's own. So a corruption
    that changes nothing leaves the image as it is, noise keeps its standard deviation per pixel,
    and blur and warp keep their extent relative to the image. Larger images are corrupted as they
    are, which is relatively milder than on CIFAR-10.

    Args:
        images: float [N, C, H, W] in [0, 1] on the CPU; C is 1 (grey) or 3 (RGB).
        corruption: one of `CORRUPTIONS`.
        severity: 1 (mild) to 5.
        generator: a CPU generator; each image gets draws of its own.

    Returns:
        float [N, C, H, W] in [0, 1].

    Raises:
        TaskError: unknown corruption or severity, images of another shape, or no photographs.
    """
    if corruption not in CORRUPTIONS:
        raise TaskError(unknown("corruption", corruption, CORRUPTIONS))
    if severity not in range(1, 6):
        raise TaskError(f"severity {severity!r} of {corruption}: wanted 1, 2, 3, 4 or 5")
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise TaskError(f"images of shape {tuple(images.shape)}: wanted [N, 1 or 3, H, W]")
    function, constants = _TABLE[corruption]
    apply = partial(function, constants=constants[severity - 1], generator=generator)
    height, width = images.shape[-2:]
    size = max(height, SIZE), max(width, SIZE)
    if size == (height, width):
        return apply(images).clamp(0, 1)
    large = F.interpolate(images, size=size, mode="bilinear", align_corners=False)
    change = apply(large).clamp(0, 1) - large
    change = F.interpolate(change, size=(height, width), mode="nearest-exact")
    return (images + change).clamp(0, 1)


def _gaussian_noise(x: Tensor, constants: float, generator: Generator) -> Tensor:
    return x + constants * torch.randn(x.shape, generator=generator)


def _shot_noise(x: Tensor, constants: float, generator: Generator) -> Tensor:
    return torch.poisson(x * constants, generator=generator) / constants


def _impulse_noise(x: Tensor, constants: float, generator: Generator) -> Tensor:
    """Set a share of all values, channels apart, to black or white with equal chance."""
    lot = torch.rand(x.shape, generator=generator)
    black, white = lot < constants / 2, lot > 1 - constants / 2
    return x.masked_fill(black, 0.0).masked_fill(white, 1.0)


def _defocus_blur(x: Tensor, constants: tuple[float, float], generator: Generator) -> Tensor:
    """Average over a disk whose edge is softened by a 3x3 Gaussian; borders are mirrored."""
    radius, softness = constants
    steps = torch.arange(-2, 3)
    disk = (steps[:, None] ** 2 + steps**2 <= radius**2).float()
    soft = _gaussian(softness, 1)
    kernel = F.conv2d(
        (disk / disk.sum())[None, None], (soft[:, None] * soft)[None, None], padding=1
    )
    padded = F.pad(x, (2, 2, 2, 2), mode="reflect").flatten(0, 1)
    return F.conv2d(padded[:, None], kernel).view_as(x)


def _glass_blur(x: Tensor, constants: tuple[float, int], generator: Generator) -> Tensor:
    """Blur, replace each pixel by itself or a neighbour above or to the left, blur again.

    The published text shuffles pixels. In the released code the two assignments of a swap of
    colour pixels share memory, so that a pixel is copied; the dataset has copies, and so has this.
    """
    sigma, times = constants
    x = _gaussian_blur(x, sigma, width=4, mirror=False)
    batch, _, height, width = x.shape
    for _ in range(times):
        back = torch.randint(0, 2, (2, batch, height, width), generator=generator)
        back[:, :, :2, :] = back[:, :, :, :2] = 0
        x = _take(x, torch.arange(height)[:, None] - back[0], torch.arange(width) - back[1])
    return _gaussian_blur(x, sigma, width=4, mirror=False)


def _motion_blur(x: Tensor, constants: tuple[int, float], generator: Generator) -> Tensor:
    radius, sigma = constants
    return _streak(x, radius, sigma, _uniform(-45, 45, (len(x),), generator))


def _zoom_blur(x: Tensor, constants: float, generator: Generator) -> Tensor:
    """Average the image with its enlargements by factors from 1, a hundredth apart."""
    # arange, because the sizes of the enlargements depend on how it rounds the factors.
    factors = np.arange(1, constants, 0.01).tolist()
    return (x + sum(_zoom(x, factor) for factor in factors)) / (len(factors) + 1)


def _snow(x: Tensor, constants: tuple[float, ...], generator: Generator) -> Tensor:
    """Whiten the image and add streaks of falling flakes, once upright and once upside down."""
    mean, std, zoom, threshold, radius, sigma, share = constants
    batch, _, height, width = x.shape
    flakes = mean + std * torch.randn(batch, 1, height, width, generator=generator)
    flakes = _zoom(flakes, zoom)
    flakes = torch.where(flakes < threshold, 0.0, flakes).clamp(0, 1)
    flakes = _streak(flakes, int(radius), sigma, _uniform(-135, -45, (batch,), generator))
    grey = _grey(x)
    pale = torch.maximum(x, grey * 1.5 + 0.5)
    return share * x + (1 - share) * pale + flakes + flakes.flip(2, 3)


def _frost(x: Tensor, constants: tuple[float, float], generator: Generator) -> Tensor:
    """Lay a random part of a photograph of frost over the image."""
    image_share, frost_share = constants
    batch, channels, height, width = x.shape
    frost = torch.empty(batch, 3, height, width)
    for index, number in enumerate(torch.randint(len(FROST), (batch,), generator=generator)):
        picture = _frost_picture(FROST[number])
        # On larger images than the released ones, the photographs are enlarged until they cover.
        missing = max((height + 1) / picture.shape[1], (width + 1) / picture.shape[2])
        if missing > 1:
            grown = [math.ceil(side * missing) for side in picture.shape[1:]]
            picture = F.interpolate(picture[None], size=grown, mode="bilinear")[0]
        top = int(torch.randint(picture.shape[1] - height, (), generator=generator))
        left = int(torch.randint(picture.shape[2] - width, (), generator=generator))
        frost[index] = picture[:, top : top + height, left : left + width]
    return image_share * x + frost_share * (frost if channels == 3 else _grey(frost))


def _fog(x: Tensor, constants: tuple[float, float], generator: Generator) -> Tensor:
    """Add a cloud, and scale so that the brightest value can stay what it was."""
    amount, decay = constants
    batch, _, height, width = x.shape
    side = 2 ** math.ceil(math.log2(max(height, width)))
    cloud = _plasma(batch, side, decay, generator)[:, None, :height, :width]
    brightest = x.amax((1, 2, 3), keepdim=True)
    return (x + amount * cloud) * brightest / (brightest + amount)


def _brightness(x: Tensor, constants: float, generator: Generator) -> Tensor:
    """Raise the V of HSV, which is the largest channel; hue and saturation scale with it."""
    value = x.amax(1, keepdim=True)
    raised = (value + constants).clamp(0, 1)
    return torch.where(value > 0, x * raised / value.clamp_min(1e-12), raised)


def _contrast(x: Tensor, constants: float, generator: Generator) -> Tensor:
    mean = x.mean((2, 3), keepdim=True)
    return (x - mean) * constants + mean


def _elastic_transform(
    x: Tensor, constants: tuple[float, float, float], generator: Generator
) -> Tensor:
    """Apply a random affine map of three points, then a smoothed random displacement field."""
    amplitude, smoothing, jitter = constants
    batch, _, height, width = x.shape
    side = min(height, width)
    centre, reach = torch.tensor([width // 2, height // 2]).float(), side // 3
    corners = centre + reach * torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
    moved = corners + jitter * side * _uniform(-1, 1, (batch, 3, 2), generator)
    # The map from the moved points back to the corners says where each pixel comes from.
    matrix = torch.linalg.solve(torch.cat([moved, torch.ones(batch, 3, 1)], 2), corners)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    points = torch.stack([columns, rows, torch.ones_like(rows)], -1).float()
    source = points.view(1, -1, 3) @ matrix
    x = _sample(x, source.view(batch, height, width, 2), around_centres=True)
    field = _uniform(-1, 1, (2, batch, height, width), generator)
    if smoothing:
        field = _gaussian_blur(field, smoothing * side, width=3, mirror=True)
    shift = amplitude * side * field.permute(1, 2, 3, 0)
    return _sample(x, points[..., :2] + shift, around_centres=False)


def _pixelate(x: Tensor, constants: float, generator: Generator) -> Tensor:
    """Shrink with a box filter and enlarge again."""
    for axis in (2, 3):
        full = x.shape[axis]
        small = int(full * constants)
        there, back = _box_filter(full, small), _box_filter(small, full)
        x = torch.tensordot(x, (back @ there).to(x.dtype), ([axis], [1])).movedim(-1, axis)
    return x


def _jpeg_compression(x: Tensor, constants: int, generator: Generator) -> Tensor:
    pixels = (x * 255).round().to(torch.uint8)
    files = encode_jpeg(list(pixels), quality=constants)
    return torch.stack([decode_image(file) for file in files]).to(x.dtype) / 255


def _grey(x: Tensor) -> Tensor:
    """Give the brightness [N, 1, H, W] of RGB or grey images."""
    return (x * _LUMA[:, None, None]).sum(1, keepdim=True) if x.shape[1] == 3 else x


@cache
def _frost_picture(name: str) -> Tensor:
    """Read a photograph at a fifth of its size, [3, H, W] in [0, 1]; a package ships it.

    That package cannot be imported where setuptools is recent, but its files can be read.
    """
    spec = find_spec("imagecorruptions")
    if spec is None or not spec.submodule_search_locations:
        raise TaskError(
            "corruption 'frost': its photographs ship with imagecorruptions, which is not "
            "installed; pip install imagecorruptions"
        )
    file = Path(spec.submodule_search_locations[0]) / "frost" / name
    picture = decode_image(str(file), ImageReadMode.RGB).float() / 255
    return F.interpolate(picture[None], scale_factor=0.2, mode="bilinear", align_corners=False)[0]


def _uniform(low: float, high: float, shape: tuple[int, ...], generator: Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)


def _gaussian(sigma: float, radius: int) -> Tensor:
    """Give Gaussian weights [2 * radius + 1] that sum to 1."""
    steps = torch.arange(-radius, radius + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (steps / sigma) ** 2)
    return (weights / weights.sum()).float()


def _gaussian_blur(x: Tensor, sigma: float, *, width: float, mirror: bool) -> Tensor:
    """Blur x [..., H, W] within `width` standard deviations.

    Beyond the border, the image is mirrored at its edges, or its outermost pixels go on.
    """
    radius = int(width * sigma + 0.5)
    steps = torch.arange(-radius, radius + 1)
    weights = _gaussian(sigma, radius)

    def filter_matrix(side: int) -> Tensor:
        source = torch.arange(side)[:, None] + steps
        if mirror:
            source %= 2 * side
            source = torch.minimum(source, 2 * side - 1 - source)
        matrix = torch.zeros(side, side)
        return matrix.scatter_add_(1, source.clamp(0, side - 1), weights.expand(side, -1))

    return filter_matrix(x.shape[-2]) @ x @ filter_matrix(x.shape[-1]).T


def _take(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Give pixel (rows, columns) [N, H, W] of each image of x [N, C, H, W]; beyond: the border."""
    height, width = x.shape[-2:]
    index = rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)
    index = index.flatten(1)[:, None].expand(-1, x.shape[1], -1)
    return x.flatten(2).gather(2, index).view_as(x)


def _streak(x: Tensor, radius: int, sigma: float, degrees: Tensor) -> Tensor:
    """Average along a line with half-Gaussian weights, as ImageMagick's motion blur does.

    Tap i of 2 * radius + 1 lies i pixels from the pixel in the direction `degrees` [N].
    """
    taps = torch.arange(2 * radius + 1)
    weights = torch.exp(-0.5 * (taps / sigma) ** 2)
    weights /= weights.sum()
    angle = torch.deg2rad(degrees)[:, None, None]
    rows, columns = torch.arange(x.shape[2])[:, None], torch.arange(x.shape[3])
    total = torch.zeros_like(x)
    for tap, weight in zip(taps.tolist(), weights.tolist(), strict=True):
        if weight < 1e-6:  # too little to see in 8 bits, or in float32 beside the rest
            break
        down = torch.ceil(tap * angle.sin() - 0.5).long()
        right = torch.ceil(tap * angle.cos() - 0.5).long()
        total += weight * _take(x, rows + down, columns + right)
    return total


def _zoom(x: Tensor, factor: float) -> Tensor:
    """Enlarge the middle of each image bilinearly, corner pixels on corner pixels."""
    size = x.shape[-2:]
    crop = [math.ceil(side / factor) for side in size]
    grown = [round(part * factor) for part in crop]
    top, left = [(side - part) // 2 for side, part in zip(size, crop, strict=True)]
    middle = x[..., top : top + crop[0], left : left + crop[1]]
    large = F.interpolate(middle, size=grown, mode="bilinear", align_corners=True)
    top, left = [(part - side) // 2 for side, part in zip(size, grown, strict=True)]
    return large[..., top : top + size[0], left : left + size[1]]


def _plasma(batch: int, side: int, decay: float, generator: Generator) -> Tensor:
    """Draw periodic diamond-square fractals [batch, side, side], each scaled to [0, 1]."""
    field = torch.zeros(batch, side, side)
    step, roughness = side, 100.0

    def jittered(corners: Tensor) -> Tensor:
        lot = _uniform(-roughness, roughness, tuple(corners.shape), generator)
        return corners / 4 + roughness * lot

    while step >= 2:
        half = step // 2
        corners = field[:, ::step, ::step]
        across = corners + corners.roll(-1, 1)
        middles = jittered(across + across.roll(-1, 2))
        field[:, half::step, half::step] = middles
        beside = middles + middles.roll(1, 1) + corners + corners.roll(-1, 2)
        field[:, ::step, half::step] = jittered(beside)
        below = middles + middles.roll(1, 2) + corners + corners.roll(-1, 1)
        field[:, half::step, ::step] = jittered(below)
        step, roughness = half, roughness / decay
    field -= field.amin((1, 2), keepdim=True)
    return field / field.amax((1, 2), keepdim=True)


def _sample(x: Tensor, points: Tensor, *, around_centres: bool) -> Tensor:
    """Sample x [N, C, H, W] bilinearly at points [N, H, W, (column, row)] in pixels.

    Beyond the border the image is mirrored, around the outermost pixels' centres or their edges.
    """
    size = torch.tensor([x.shape[3], x.shape[2]])
    if around_centres:
        grid = 2 * points / (size - 1) - 1
    else:
        grid = (2 * points + 1) / size - 1
    return F.grid_sample(
        x, grid, mode="bilinear", padding_mode="reflection", align_corners=around_centres
    )


def _box_filter(before: int, after: int) -> Tensor:
    """Give the matrix [after, before] of Pillow's resize with its box filter."""
    scale = before / after
    centres = (torch.arange(after, dtype=torch.float64) + 0.5) * scale
    distance = (torch.arange(before) + 0.5 - centres[:, None]) / max(scale, 1.0)
    inside = ((distance > -0.5) & (distance <= 0.5)).double()
    return inside / inside.sum(1, keepdim=True)


# For each type: its function, and its constants at severity 1 to 5.
_TABLE: dict[str, tuple[Callable[..., Tensor], tuple[Any, ...]]] = {
    # standard deviation
    "gaussian_noise": (_gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
    # photons at full brightness
    "shot_noise": (_shot_noise, (500, 250, 100, 75, 50)),
    # share of values replaced
    "impulse_noise": (_impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07)),
    # radius of the disk, standard deviation of its soft edge
    "defocus_blur": (_defocus_blur, ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))),
    # standard deviation of the blur, rounds of displacement
    "glass_blur": (_glass_blur, ((0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2))),
    # radius, standard deviation along the line
    "motion_blur": (_motion_blur, ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))),
    # end of the factors
    "zoom_blur": (_zoom_blur, (1.06, 1.11, 1.16, 1.21, 1.26)),
    # mean, standard deviation, zoom and threshold of the flakes; radius and standard deviation
    # of their streaks; share of the image that is not whitened
    "snow": (
        _snow,
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
    ),
    # share of the image, share of the frost; they may add up to more than one
    "frost": (_frost, ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))),
    # amount, decay of the roughness from one octave to the next
    "fog": (_fog, ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))),
    # added to V
    "brightness": (_brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
    # factor
    "contrast": (_contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    # amplitude and smoothing of the displacement, jitter of the three points; in image sides
    "elastic_transform": (
        _elastic_transform,
        ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
    ),
    # share of the side that is kept
    "pixelate": (_pixelate, (0.95, 0.9, 0.85, 0.75, 0.65)),
    # quality
    "jpeg_compression": (_jpeg_compression, (80, 65, 58, 50, 40)),
}
CORRUPTIONS: tuple[str, ...] = tuple(_TABLE)
