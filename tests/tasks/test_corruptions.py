"""Corruptions against the published definitions, composed of scipy, Pillow and colorsys.

Where a corruption is random, the reference is given the same draws; where it draws by itself, the
two are compared in distribution. Tolerances are in pixel values of [0, 1].
"""

from __future__ import annotations

import colorsys
import io
import math
from collections.abc import Callable
from itertools import pairwise
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage, stats

from sensweep.tasks.api import TaskError
from sensweep.tasks.corruptions import CORRUPTIONS, _frost_picture, corrupt
from sensweep.tasks.params.robustness import Corruption

SEVERITIES = (1, 2, 3, 4, 5)
RANDOM = {"gaussian_noise", "shot_noise", "impulse_noise", "glass_blur", "motion_blur"}
RANDOM |= {"snow", "frost", "fog", "elastic_transform"}
EXACT = 2e-5  # rounding of float32
GREY_LEVEL = 1 / 255


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int = 2, channels: int = 3, side: int = 32) -> torch.Tensor:
    """Smooth random images with values that 8 bits can hold."""
    coarse = torch.rand(count, channels, 7, 7, generator=generator(1))
    fine = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic").clamp(0, 1)
    return (fine * 255).round() / 255


def compare(
    corruption: str,
    severity: int,
    reference: Callable[[np.ndarray, int], np.ndarray],
    tolerance: float,
    channels: int = 3,
) -> None:
    """Check every image; the reference maps float64 [H, W, C] and the image's index to the same."""
    images = pictures(channels=channels)
    ours = corrupt(images, corruption, severity, generator(severity))
    for index, image in enumerate(images):
        truth = reference(image.permute(1, 2, 0).double().numpy(), index).clip(0, 1)
        difference = np.abs(ours[index].permute(1, 2, 0).numpy() - truth).max()
        assert difference <= tolerance, f"image {index} differs by {difference:.5f}"


def motion(image: np.ndarray, radius: int, sigma: float, degrees: float) -> np.ndarray:
    """ImageMagick's motion blur, pixel by pixel."""
    height, width = image.shape[:2]
    taps = np.arange(2 * radius + 1)
    weights = stats.norm.pdf(taps, scale=sigma)
    weights /= weights.sum()
    result = np.zeros_like(image)
    for y in range(height):
        for x in range(width):
            for tap, weight in zip(taps, weights, strict=True):
                down = math.ceil(tap * math.sin(math.radians(degrees)) - 0.5)
                right = math.ceil(tap * math.cos(math.radians(degrees)) - 0.5)
                row, column = min(max(y + down, 0), height - 1), min(max(x + right, 0), width - 1)
                result[y, x] += weight * image[row, column]
    return result


def enlarged(image: np.ndarray, factor: float) -> np.ndarray:
    side = len(image)
    crop = math.ceil(side / factor)
    top = (side - crop) // 2
    middle = image[top : top + crop, top : top + crop]
    large = ndimage.zoom(middle, (factor, factor, 1), order=1)
    top = (len(large) - side) // 2
    return large[top : top + side, top : top + side]


@pytest.mark.parametrize("severity", SEVERITIES)
def test_defocus_blur(severity):
    radius, softness = [(0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)][severity - 1]
    steps = np.arange(-8, 9)
    disk = (steps[:, None] ** 2 + steps**2 <= radius**2).astype(float)
    weights = stats.norm.pdf([-1, 0, 1], scale=softness)
    weights /= weights.sum()
    kernel = ndimage.correlate(disk / disk.sum(), np.outer(weights, weights), mode="mirror")
    compare(
        "defocus_blur",
        severity,
        lambda image, _: ndimage.correlate(image, kernel[..., None], mode="mirror"),
        EXACT,
    )


@pytest.mark.parametrize("severity", SEVERITIES)
def test_zoom_blur(severity):
    factors = np.arange(1, [1.06, 1.11, 1.16, 1.21, 1.26][severity - 1], 0.01)

    def reference(image, _):
        return (image + sum(enlarged(image, factor) for factor in factors)) / (len(factors) + 1)

    compare("zoom_blur", severity, reference, EXACT)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("severity", SEVERITIES)
def test_brightness(severity, channels):
    added = [0.05, 0.1, 0.15, 0.2, 0.3][severity - 1]

    def reference(image, _):
        def brighter(pixel):
            hue, saturation, value = colorsys.rgb_to_hsv(*np.broadcast_to(pixel, 3))
            rgb = colorsys.hsv_to_rgb(hue, saturation, min(value + added, 1.0))
            return rgb[: len(pixel)]

        return np.apply_along_axis(brighter, 2, image)

    compare("brightness", severity, reference, EXACT, channels)


def test_brightness_of_black_is_grey():
    black = torch.zeros(1, 3, 32, 32)
    assert torch.allclose(corrupt(black, "brightness", 5, generator()), torch.tensor(0.3))


@pytest.mark.parametrize("severity", SEVERITIES)
def test_contrast(severity):
    factor = [0.75, 0.5, 0.4, 0.3, 0.15][severity - 1]

    def reference(image, _):
        mean = image.mean((0, 1))
        return mean + factor * (image - mean)

    compare("contrast", severity, reference, EXACT)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("severity", SEVERITIES)
def test_pixelate(severity, channels):
    side = int(32 * [0.95, 0.9, 0.85, 0.75, 0.65][severity - 1])

    def reference(image, _):
        picture = Image.fromarray((image * 255).round().astype(np.uint8).squeeze())
        picture = picture.resize((side, side), Image.Resampling.BOX)
        picture = picture.resize((32, 32), Image.Resampling.BOX)
        return np.asarray(picture).reshape(image.shape) / 255

    compare("pixelate", severity, reference, GREY_LEVEL + EXACT, channels)  # Pillow rounds


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("severity", SEVERITIES)
def test_jpeg_compression(severity, channels):
    quality = [80, 65, 58, 50, 40][severity - 1]

    def reference(image, _):
        file = io.BytesIO()
        picture = Image.fromarray((image * 255).round().astype(np.uint8).squeeze())
        picture.save(file, "JPEG", quality=quality)
        return np.asarray(Image.open(file)).reshape(image.shape) / 255

    # Builds of the JPEG library may round differently in colour conversion.
    compare("jpeg_compression", severity, reference, 2 * GREY_LEVEL, channels)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_motion_blur(severity):
    radius, sigma = [(6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)][severity - 1]
    angles = -45 + 90 * torch.rand(2, generator=generator(severity))
    compare(
        "motion_blur",
        severity,
        lambda image, index: motion(image, radius, sigma, angles[index].item()),
        EXACT,
    )


@pytest.mark.parametrize("severity", SEVERITIES)
def test_glass_blur_copies_neighbours_as_the_released_code_does(severity):
    sigma, times = [(0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2)][severity - 1]
    source = generator(severity)
    moves = [torch.randint(0, 2, (2, 2, 32, 32), generator=source) for _ in range(times)]

    def reference(image, index):
        image = ndimage.gaussian_filter(image, (sigma, sigma, 0), mode="nearest")
        for down, right in (move[:, index].tolist() for move in moves):
            for y in range(31, 1, -1):
                for x in range(31, 1, -1):
                    here, there = (y, x), (y - down[y][x], x - right[y][x])
                    # As released: views of one array, so that the second assignment is idle.
                    image[here], image[there] = image[there], image[here]
        return ndimage.gaussian_filter(image, (sigma, sigma, 0), mode="nearest")

    compare("glass_blur", severity, reference, EXACT)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("severity", SEVERITIES)
def test_snow(severity, channels):
    mean, std, zoom, threshold, radius, sigma, share = [
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ][severity - 1]
    source = generator(severity)
    noise = torch.randn(2, 1, 32, 32, generator=source)
    angles = -135 + 90 * torch.rand(2, generator=source)

    def reference(image, index):
        flakes = enlarged((mean + std * noise[index]).permute(1, 2, 0).double().numpy(), zoom)
        flakes = np.where(flakes < threshold, 0, flakes).clip(0, 1)
        flakes = motion(flakes, radius, sigma, angles[index].item())
        grey = image @ np.array([0.299, 0.587, 0.114] if channels == 3 else [1.0])
        pale = np.maximum(image, 1.5 * grey[..., None] + 0.5)
        return share * image + (1 - share) * pale + flakes + np.rot90(flakes, 2)

    compare("snow", severity, reference, 1e-4, channels)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_elastic_transform(severity):
    amplitude, smoothing, jitter = [
        (0, 0, 0.08),
        (0.05, 0.2, 0.07),
        (0.08, 0.06, 0.06),
        (0.1, 0.04, 0.05),
        (0.1, 0.03, 0.03),
    ][severity - 1]
    source = generator(severity)
    jitters = (-1 + 2 * torch.rand(2, 3, 2, generator=source)).double().numpy()
    fields = (-1 + 2 * torch.rand(2, 2, 32, 32, generator=source)).double().numpy()
    rows, columns = np.mgrid[:32, :32]

    def reference(image, index):
        corners = np.array([[26, 26], [26, 6], [6, 6]], float)  # (x, y)
        moved = np.c_[corners + 32 * jitter * jitters[index], np.ones(3)]
        inverse = np.linalg.solve(moved, corners)
        points = np.stack([columns, rows, np.ones_like(rows)], -1) @ inverse
        right, down = (
            32 * amplitude * ndimage.gaussian_filter(field, 32 * smoothing, truncate=3)
            if smoothing
            else 0 * field
            for field in fields[:, index]
        )
        channels = []
        for channel in np.moveaxis(image, 2, 0):
            warped = ndimage.map_coordinates(
                channel, [points[..., 1], points[..., 0]], order=1, mode="mirror"
            )
            channels.append(
                ndimage.map_coordinates(
                    warped, [rows + down, columns + right], order=1, mode="reflect"
                )
            )
        return np.stack(channels, -1)

    compare("elastic_transform", severity, reference, 1e-4)


def cloud(random: np.random.Generator, decay: float, side: int = 32) -> np.ndarray:
    """The diamond-square fractal that fog adds, cell by cell."""
    field, step, roughness = np.zeros((side, side)), side, 100.0

    def point(y, x, corners):
        lot = random.uniform(-roughness, roughness)
        field[y % side, x % side] = (
            sum(field[a % side, b % side] for a, b in corners) / 4 + roughness * lot
        )

    while step >= 2:
        half = step // 2
        for y in range(0, side, step):
            for x in range(0, side, step):
                square = [(y, x), (y + step, x), (y, x + step), (y + step, x + step)]
                point(y + half, x + half, square)
        for y in range(0, side, half):
            for x in range(0 if y % step else half, side, step):
                point(y, x, [(y - half, x), (y + half, x), (y, x - half), (y, x + half)])
        step, roughness = half, roughness / decay
    field -= field.min()
    return field / field.max()


@pytest.mark.parametrize("severity", SEVERITIES)
def test_fog_in_distribution(severity):
    amount, decay = [(0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)][severity - 1]
    image = pictures(1)
    ours = corrupt(image.expand(1000, -1, -1, -1), "fog", severity, generator())
    brightest = image.max().item()
    # Solved for the cloud: one for all channels, from 0 to 1.
    clouds = (ours * (brightest + amount) / brightest - image) / amount
    assert (clouds.amax(1) - clouds.amin(1)).max() < 1e-4
    clouds = clouds.mean(1).numpy()
    assert clouds.min() == pytest.approx(0, abs=1e-4)
    assert clouds.max() == pytest.approx(1, abs=1e-4)
    random = np.random.default_rng(0)
    truth = np.stack([cloud(random, decay) for _ in range(50)])

    def statistics(fields):
        mean = fields.mean((1, 2))
        slope = np.abs(np.diff(fields, axis=2)).mean((1, 2))
        return mean, fields.std((1, 2)), slope, (fields[:, :, 16:] - fields[:, :, :16]).std((1, 2))

    for got, wanted in zip(statistics(clouds), statistics(truth), strict=True):
        error = math.sqrt(got.var() / len(got) + wanted.var() / len(wanted))
        assert got.mean() == pytest.approx(wanted.mean(), abs=4 * error)


LEVELS = torch.tensor([0.0, 0.02, 0.3, 0.5, 0.97, 1.0])


def noisy(corruption: str, severity: int) -> torch.Tensor:
    """Corrupt many grey images of one level each; gives [levels, values]."""
    images = LEVELS.repeat_interleave(100)[:, None, None, None].expand(-1, 1, 32, 32)
    return corrupt(images, corruption, severity, generator(severity)).view(len(LEVELS), -1).double()


def check_moments(values: torch.Tensor, mean: float, variance: float, kurtosis: float = 3) -> None:
    """Check mean and variance of independent values within four standard errors."""
    count = len(values)
    assert values.mean().item() == pytest.approx(mean, abs=4 * math.sqrt(variance / count) + 1e-6)
    error = variance * math.sqrt(max(kurtosis, 3) - 1) / math.sqrt(count)
    assert values.var().item() == pytest.approx(variance, abs=4 * error + 1e-7)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_gaussian_noise_in_distribution(severity):
    std = [0.04, 0.06, 0.08, 0.09, 0.10][severity - 1]
    values = noisy("gaussian_noise", severity)
    for level in (2, 3):  # no clipping within three standard deviations
        check_moments(values[level], LEVELS[level].item(), std**2)
    black = stats.norm(scale=std)  # half of it is clipped
    mean = black.expect(lambda x: x, lb=0)
    check_moments(values[0], mean, black.expect(lambda x: x**2, lb=0) - mean**2, kurtosis=8)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_shot_noise_in_distribution(severity):
    photons = [500, 250, 100, 75, 50][severity - 1]
    values = noisy("shot_noise", severity)
    assert (values[0] == 0).all()
    for level in (1, 2, 3):
        rate = LEVELS[level].item() * photons
        check_moments(values[level], rate / photons, rate / photons**2, kurtosis=3 + 1 / rate)
        counts = values[level] * photons
        assert (counts - counts.round()).abs().max() < 1e-3


@pytest.mark.parametrize("severity", SEVERITIES)
def test_impulse_noise_in_distribution(severity):
    amount = [0.01, 0.02, 0.03, 0.05, 0.07][severity - 1]
    values = noisy("impulse_noise", severity)[3]
    for level, share in ((0.0, amount / 2), (1.0, amount / 2), (0.5, 1 - amount)):
        error = math.sqrt(share * (1 - share) / len(values))
        assert (values == level).double().mean().item() == pytest.approx(share, abs=4 * error)


def test_noise_is_independent_between_channels_but_fog_and_snow_are_not():
    grey = torch.full((50, 3, 32, 32), 0.5)
    for corruption in ("gaussian_noise", "shot_noise", "impulse_noise"):
        red, green, _ = corrupt(grey, corruption, 5, generator()).movedim(1, 0).flatten(1)
        correlation = torch.corrcoef(torch.stack([red, green]))[0, 1]
        assert abs(correlation) < 4 / math.sqrt(len(red))
    for corruption in ("fog", "snow"):
        red, green, _ = corrupt(grey, corruption, 3, generator()).movedim(1, 0)
        assert torch.allclose(red, green, atol=1e-5)


@pytest.mark.parametrize(("side", "channels"), [(8, 1), (28, 1), (32, 3), (40, 3)])
@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_any_size_keeps_shape_and_range_and_meets_its_draws_alone(corruption, side, channels):
    images = pictures(4, channels, side)
    before = images.clone()
    result = corrupt(images, corruption, 3, generator(3))
    assert result.shape == images.shape
    assert result.dtype == torch.float32
    assert 0 <= result.min() <= result.max() <= 1
    assert (result - images).abs().mean() > 0.001
    assert torch.equal(images, before)
    again = corrupt(images, corruption, 3, generator(3))
    assert torch.equal(result, again)
    other = corrupt(images, corruption, 3, generator(4))
    assert torch.equal(result, other) == (corruption not in RANDOM)
    if corruption in RANDOM and channels == 1:
        twins = corrupt(images[:1].expand(2, -1, -1, -1), corruption, 3, generator(3))
        assert not torch.equal(twins[0], twins[1])  # each image has draws of its own


# In the published constants, glass blur, elastic transform and frost trade one kind of damage for
# another from step to step, and motion blur gains reach but not width from 3 to 4.
@pytest.mark.parametrize(
    "corruption", sorted(set(CORRUPTIONS) - {"glass_blur", "elastic_transform", "frost"})
)
def test_damage_grows_with_severity(corruption):
    images = pictures(60)
    damage = [
        (corrupt(images, corruption, severity, generator()) - images).abs().mean().item()
        for severity in SEVERITIES
    ]
    slack = 0.01 * damage[2] if corruption == "motion_blur" else 0.0
    assert all(b > a - slack for a, b in pairwise(damage)), damage
    assert damage[4] > 1.5 * damage[0]


def test_small_images_keep_noise_per_pixel_and_flat_images_under_blur():
    flat = torch.full((400, 1, 8, 8), 0.5)
    assert corrupt(flat, "gaussian_noise", 5, generator()).std().item() == pytest.approx(
        0.1, rel=0.03
    )
    for corruption in ("defocus_blur", "zoom_blur", "motion_blur", "glass_blur", "pixelate"):
        blurred = corrupt(flat[:5], corruption, 5, generator())
        assert torch.allclose(blurred, flat[:5], atol=1e-5)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_frost_is_a_share_of_the_image_and_a_share_of_a_photograph(severity):
    image_share, frost_share = [(1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)][
        severity - 1
    ]
    black, dark = torch.zeros(40, 3, 32, 32), torch.full((40, 3, 32, 32), 0.1)
    source = generator()
    parts = []
    for number in torch.randint(5, (40,), generator=source).tolist():
        name = ["frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg"][number]
        picture = _frost_picture(name)
        top, left = (torch.randint(n - 32, (), generator=source) for n in picture.shape[1:])
        parts.append(picture[:, top : top + 32, left : left + 32])
    frost = torch.stack(parts)
    for image in (black, dark):
        ours = corrupt(image, "frost", severity, generator())
        truth = (image * image_share + frost * frost_share).clamp(0, 1)
        assert torch.allclose(ours, truth, atol=1e-6)
    assert len({round(part.mean().item(), 4) for part in frost}) > 30  # parts and photographs vary
    # Colours as decoded: the photographs are bluish.
    assert frost[:, 2].mean() > frost[:, 0].mean()
    grey = corrupt(black[:, :1], "frost", severity, generator()) / frost_share
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    assert torch.allclose(grey[:, 0], (frost * weights).sum(1), atol=1e-5)


def test_frost_covers_images_larger_than_its_photographs():
    large = torch.zeros(6, 1, 150, 150)
    frosted = corrupt(large, "frost", 3, generator())
    assert (frosted.mean((1, 2, 3)) > 0.02).all()


def test_frost_without_its_photographs_says_which_package_has_them(monkeypatch):
    monkeypatch.setattr("sensweep.tasks.corruptions.find_spec", lambda name: None)
    _frost_picture.cache_clear()
    with pytest.raises(TaskError, match="pip install imagecorruptions"):
        corrupt(pictures(1), "frost", 1, generator())


def test_no_corruption_touches_the_global_state(unchanged):
    images = pictures(2, 1, 8)
    with unchanged():
        for corruption in CORRUPTIONS:
            corrupt(images, corruption, 2, generator())


def test_names_are_those_of_the_params():
    assert set(CORRUPTIONS) == set(get_args(Corruption))


def test_bad_input_is_one_clear_line():
    images = pictures(1)
    with pytest.raises(
        TaskError, match="unknown corruption 'defocus'; did you mean 'defocus_blur'"
    ):
        corrupt(images, "defocus", 1, generator())
    with pytest.raises(TaskError, match="severity 6 of snow: wanted 1, 2, 3, 4 or 5"):
        corrupt(images, "snow", 6, generator())
    with pytest.raises(TaskError, match=r"images of shape \(1, 2, 32, 32\): wanted"):
        corrupt(images[:, :2], "snow", 1, generator())
