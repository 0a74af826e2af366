"""Batched sensitivity against one perturbation at a time, on the same model, images and draws.

    python benchmarks/analyses.py            a table
    python benchmarks/analyses.py --json     one object

The loop is what the definition says: for each image, patch, draw and noise size, one forward pass
of one perturbed image. Both give the same numbers, which is checked. Times are CPU seconds of one
thread, so that a busy machine disturbs them little. Goal: 10x.
"""

from __future__ import annotations

import json
import time

import click
import torch
from torch import Tensor, nn

from sensweep.tasks.models import build
from sensweep.tasks.sensitivity import patch_sensitivity

ARCHITECTURES = {
    "mlp": {"name": "mlp", "hidden": [256, 128]},
    "cnn": {"name": "cnn", "width": 32},
    "vit": {
        "name": "vit_tiny_patch16_224",
        "patch_size": 2,
        "depth": 2,
        "embed_dim": 48,
        "num_heads": 3,
    },
}
SIGMAS, PATCH, DRAWS, SIDE = (0.1, 0.4), 2, 2, 8
GOAL = 10.0


@torch.inference_mode()
def one_at_a_time(model: nn.Module, images: Tensor, generator: torch.Generator) -> Tensor:
    """Give what `patch_sensitivity` gives, [sigmas, rows, columns], by the plain loop."""
    patches = SIDE // PATCH
    flips = torch.zeros(len(SIGMAS), patches, patches, dtype=torch.float64)
    clean = [model(image[None]).argmax() for image in images]
    for _ in range(DRAWS):
        noise = torch.randn(images.shape, generator=generator)
        for index, image in enumerate(images):
            for row in range(patches):
                for column in range(patches):
                    here = (
                        slice(None),
                        slice(row * PATCH, (row + 1) * PATCH),
                        slice(column * PATCH, (column + 1) * PATCH),
                    )
                    for size, sigma in enumerate(SIGMAS):
                        moved = image.clone()
                        moved[here] += sigma * noise[index][here]
                        flips[size, row, column] += model(moved[None]).argmax() != clean[index]
    return flips / (len(images) * DRAWS)


def compare(name: str, images: Tensor, repeats: int) -> dict[str, float | str]:
    """Time both on an untrained model of one architecture, in turns; the least of each."""
    torch.manual_seed(0)
    model = build(
        ARCHITECTURES[name], num_classes=10, in_chans=1, img_size=SIDE, mean=[0.3], std=[0.4]
    ).eval()
    loop_seconds, batched_seconds, apart = [], [], 0.0
    for _ in range(repeats):
        start = time.process_time()
        loop = one_at_a_time(model, images, torch.Generator().manual_seed(0))
        loop_seconds.append(time.process_time() - start)
        start = time.process_time()
        batched = patch_sensitivity(
            model,
            images,
            sigmas=SIGMAS,
            patch=PATCH,
            draws=DRAWS,
            generator=torch.Generator().manual_seed(0),
        )
        batched_seconds.append(time.process_time() - start)
        apart = max(apart, (loop - batched).abs().max().item())
    perturbed = len(images) * (SIDE // PATCH) ** 2 * DRAWS * len(SIGMAS)
    return {
        "architecture": name,
        "perturbed_images": perturbed,
        "loop_us_per_image": min(loop_seconds) / perturbed * 1e6,
        "batched_us_per_image": min(batched_seconds) / perturbed * 1e6,
        "ratio": min(loop_seconds) / min(batched_seconds),
        "largest_difference": apart,
        "mean_sensitivity": batched.mean().item(),
    }


@click.command()
@click.option("--images", default=32, show_default=True, help="Images to perturb.")
@click.option("--repeats", default=5, show_default=True, help="Timings of each, in turns.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(images: int, repeats: int, as_json: bool) -> None:
    """Compare batched sensitivity with one perturbation at a time, on one CPU thread."""
    torch.set_num_threads(1)
    pixels = torch.rand(images, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    rows = [compare(name, pixels, repeats) for name in ARCHITECTURES]
    met = all(row["ratio"] >= GOAL and row["largest_difference"] < 0.01 for row in rows)
    if as_json:
        print(json.dumps({"benchmark": "analyses", "goal": GOAL, "met": met, "rows": rows}))
    else:
        print("architecture  perturbed images  loop us/image  batched us/image  ratio  difference")
        for row in rows:
            print(
                f"{row['architecture']:<12}  {row['perturbed_images']:>16}"
                f"  {row['loop_us_per_image']:>13.0f}  {row['batched_us_per_image']:>16.1f}"
                f"  {row['ratio']:>4.0f}x  {row['largest_difference']:>10.4f}"
            )
        print(f"goal {GOAL:.0f}x: {'met' if met else 'missed'}")


if __name__ == "__main__":
    main()
