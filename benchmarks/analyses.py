"""Batched analyses against one perturbation at a time, on the same model, images and draws.

    python benchmarks/analyses.py            a table
    python benchmarks/analyses.py --json     one object

The loop is what the definition says: for each image, patch, draw and noise size, one forward pass
of one perturbed image (sensitivity), or for each draw and image, one forward pass of the model
with noised weights (sharpness); for sequences, one forward pass for each token, draw and noise
size (replacement of the token, noise on its embedding); for bits, one for each flip of a string,
and for each draw and string. Both give the same numbers, which is
checked. Times are CPU seconds of one thread, so that a busy machine disturbs them little. Goal:
10x.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from functools import partial

import click
import torch
from torch import Tensor, nn

from sensweep.tasks.boolean import Target
from sensweep.tasks.boolean_model import BooleanTransformer, Learnt
from sensweep.tasks.boolean_sensitivity import sensitivities_at
from sensweep.tasks.boolean_sharpness import perturbed_weights, sharpness
from sensweep.tasks.models import build
from sensweep.tasks.sensitivity import patch_sensitivity
from sensweep.tasks.sequence_models import build_sequence_model, outputs_of, shifted
from sensweep.tasks.sequence_sensitivity import noise_flips, replacement_flips
from sensweep.tasks.sharpness import weight_noise_sharpness

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
NOISE = (("absolute", 0.05), ("absolute", 0.2))
NETWORKS = {
    "lstm": {"name": "lstm", "layers": 2, "width": 64},
    "roberta": {"name": "roberta", "layers": 2, "width": 64, "heads": 4, "hidden": 128},
}
VOCABULARY, LENGTH, STDS = 100, 16, (0.5, 2.0)
BITS, WEIGHT_STDS = 12, (0.02, 0.1)
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


@torch.inference_mode()
def noised_one_at_a_time(model: nn.Module, images: Tensor, generator: torch.Generator) -> Tensor:
    """Give what `weight_noise_sharpness` gives, [sizes, 2], by noised copies and the plain loop."""
    totals = torch.zeros(len(NOISE), 2, dtype=torch.float64)
    clean = [model(image[None])[0] for image in images]
    for _ in range(DRAWS):
        noise = [torch.randn(weight.shape, generator=generator) for weight in model.parameters()]
        for row, (_, std) in enumerate(NOISE):
            noised = copy.deepcopy(model)
            for weight, change in zip(noised.parameters(), noise, strict=True):
                weight += std * change
            for image, before in zip(images, clean, strict=True):
                after = noised(image[None])[0]
                totals[row, 0] += (after - before).abs().sum()
                totals[row, 1] += after.argmax() != before.argmax()
    return totals / (len(images) * DRAWS)


@torch.inference_mode()
def token_at_a_time(model: nn.Module, tokens: Tensor, generator: torch.Generator) -> Tensor:
    """Give what `replacement_flips` gives for words without padding, [N, T], by the plain loop."""
    flips = torch.zeros(tokens.shape, dtype=torch.float64)
    for _ in range(DRAWS):
        drawn = 1 + torch.randint(VOCABULARY - 1, tokens.shape, generator=generator)
        for row, sequence in enumerate(tokens):
            clean = model(sequence[None]).argmax()
            for place in range(LENGTH):
                moved = sequence.clone()
                moved[place] = drawn[row, place]
                flips[row, place] += model(moved[None]).argmax() != clean
    return flips / DRAWS


@torch.inference_mode()
def embedding_at_a_time(model: nn.Module, tokens: Tensor, generator: torch.Generator) -> Tensor:
    """Give what `noise_flips` gives, [sizes, N, T], by the plain loop."""
    flips = torch.zeros(len(STDS), *tokens.shape, dtype=torch.float64)
    width = outputs_of(model, "entry", tokens[:1]).shape[-1]
    for _ in range(DRAWS):
        noise = torch.randn(*tokens.shape, width, generator=generator)
        for row, sequence in enumerate(tokens):
            clean = model(sequence[None]).argmax()
            for place in range(LENGTH):
                for size, std in enumerate(STDS):
                    change = torch.zeros(1, LENGTH, width)
                    change[0, place] = std * noise[row, place]
                    with shifted(model, "entry", change):
                        flips[size, row, place] += model(sequence[None]).argmax() != clean
    return flips / DRAWS


def compare_tokens(analysis: str, name: str, count: int, repeats: int) -> dict[str, float | str]:
    """Time both on an untrained sequence model and random words."""
    torch.manual_seed(0)
    facts = {"num_classes": 2, "vocabulary": VOCABULARY, "length": LENGTH, "pad": 0}
    model = build_sequence_model(NETWORKS[name], **facts).eval()
    for weight in model.parameters():
        weight.data.mul_(4)  # with the initial ones hardly a prediction changes
    tokens = torch.randint(1, VOCABULARY, (count, LENGTH))
    if analysis == "replacement":
        plain, perturbed = token_at_a_time, tokens.numel() * DRAWS
        batched = partial(replacement_flips, special=torch.arange(VOCABULARY) == 0)
    else:
        plain, perturbed = embedding_at_a_time, tokens.numel() * DRAWS * len(STDS)
        batched = partial(noise_flips, site="entry", stds=STDS)
    return timed(
        analysis,
        name,
        plain,
        partial(batched, pad=0, draws=DRAWS),
        model,
        tokens,
        perturbed,
        repeats,
    )


@torch.inference_mode()
def bit_at_a_time(model: nn.Module, strings: Tensor, generator: torch.Generator) -> Tensor:
    """Give the sensitivity of a model's number at each string, [N], by the plain loop."""
    found = torch.zeros(len(strings), dtype=torch.float64)
    for row, string in enumerate(strings):
        value = model(string[None])
        for bit in range(BITS):
            moved = string.clone()
            moved[bit] ^= 1
            found[row] += (model(moved[None]) - value).square().item()  # /4, in the code -1 and 1
    return found


@torch.inference_mode()
def weights_at_a_time(model: nn.Module, strings: Tensor, generator: torch.Generator) -> Tensor:
    """Give what `boolean_sharpness.sharpness` gives, [2, sizes], by noised copies and the loop."""
    found = torch.zeros(2, len(WEIGHT_STDS), dtype=torch.float64)
    wanted = Target("parity").values(strings)
    clean = [model(string[None]).item() for string in strings]
    for _ in range(DRAWS):
        noise = {
            name: torch.randn(weight.shape, generator=generator)
            for name, weight in perturbed_weights(model)
        }
        for size, std in enumerate(WEIGHT_STDS):
            noised = copy.deepcopy(model)
            for name, weight in perturbed_weights(noised):
                weight += std * noise[name]
            for string, value, before in zip(strings, wanted.tolist(), clean, strict=True):
                after = noised(string[None]).item()
                found[0, size] += (after - value) ** 2 - (before - value) ** 2
                found[1, size] += (after - before) ** 2
    return 4 * found / (DRAWS * len(strings))


def compare_bits(analysis: str, count: int, repeats: int) -> dict[str, float | str]:
    """Time both on an untrained transformer of bits."""
    torch.manual_seed(0)
    model = BooleanTransformer(positions=BITS, width=64).eval()
    strings = torch.randint(2, (count, BITS))

    def learnt(model: BooleanTransformer) -> Learnt:
        return Learnt(model, Target("parity"), BITS, None, 0)

    def flipped(model: BooleanTransformer, strings: Tensor, generator: object) -> Tensor:
        return sensitivities_at(learnt(model), strings, 512)["output"]

    def noised(model: BooleanTransformer, strings: Tensor, generator: torch.Generator) -> Tensor:
        found = sharpness(learnt(model), [strings], list(WEIGHT_STDS), DRAWS, generator)
        return torch.stack([found.rise, found.change])

    if analysis == "bit flips":
        plain, batched, perturbed = bit_at_a_time, flipped, count * BITS
    else:
        plain, batched, perturbed = weights_at_a_time, noised, count * DRAWS * len(WEIGHT_STDS)
    return timed(analysis, "transformer", plain, batched, model, strings, perturbed, repeats)


def compare(analysis: str, name: str, images: Tensor, repeats: int) -> dict[str, float | str]:
    """Time both on an untrained model of one architecture."""
    torch.manual_seed(0)
    model = build(
        ARCHITECTURES[name], num_classes=10, in_chans=1, img_size=SIDE, mean=[0.3], std=[0.4]
    ).eval()
    model.to(memory_format=torch.channels_last)  # as the tasks do
    if analysis == "sensitivity":
        plain, images = one_at_a_time, images[: len(images) // 8]
        perturbed = len(images) * (SIDE // PATCH) ** 2 * DRAWS * len(SIGMAS)
        batched = partial(patch_sensitivity, sigmas=SIGMAS, patch=PATCH, draws=DRAWS)
    else:
        plain, perturbed = noised_one_at_a_time, len(images) * DRAWS * len(NOISE)
        batched = partial(weight_noise_sharpness, sizes=list(NOISE), draws=DRAWS)
    return timed(analysis, name, plain, batched, model, images, perturbed, repeats)


def timed(
    analysis: str,
    name: str,
    plain: Callable[..., Tensor],
    batched: Callable[..., Tensor],
    model: nn.Module,
    inputs: Tensor,
    perturbed: int,
    repeats: int,
) -> dict[str, float | str]:
    """Time the loop and the batched analysis in turns; the least of each."""
    loop_seconds, batched_seconds, apart = [], [], 0.0
    for _ in range(repeats):
        start = time.process_time()
        expected = plain(model, inputs, torch.Generator().manual_seed(0))
        loop_seconds.append(time.process_time() - start)
        start = time.process_time()
        values = batched(model, inputs, generator=torch.Generator().manual_seed(0))
        batched_seconds.append(time.process_time() - start)
        apart = max(apart, (expected - values).abs().max().item())
    return {
        "analysis": analysis,
        "architecture": name,
        "perturbed": perturbed,
        "loop_us": min(loop_seconds) / perturbed * 1e6,
        "batched_us": min(batched_seconds) / perturbed * 1e6,
        "ratio": min(loop_seconds) / min(batched_seconds),
        "largest_difference": apart,
        "mean": values.mean().item(),
    }


@click.command()
@click.option(
    "--images",
    default=256,
    show_default=True,
    help="Images; an eighth for patches, and of sequences.",
)
@click.option("--repeats", default=5, show_default=True, help="Timings of each, in turns.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(images: int, repeats: int, as_json: bool) -> None:
    """Compare batched analyses with one perturbation at a time, on one CPU thread."""
    torch.set_num_threads(1)
    pixels = torch.rand(images, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    rows = [
        compare(analysis, name, pixels, repeats)
        for analysis in ("sensitivity", "sharpness")
        for name in ARCHITECTURES
    ]
    rows += [
        compare_tokens(analysis, name, images // 8, repeats)
        for analysis in ("replacement", "embedding")
        for name in NETWORKS
    ]
    rows += [compare_bits(analysis, images, repeats) for analysis in ("bit flips", "bit weights")]
    met = all(row["ratio"] >= GOAL and row["largest_difference"] < 0.01 for row in rows)
    if as_json:
        print(json.dumps({"benchmark": "analyses", "goal": GOAL, "met": met, "rows": rows}))
    else:
        print("analysis     architecture  perturbed  loop us  batched us  ratio  difference")
        for row in rows:
            print(
                f"{row['analysis']:<11}  {row['architecture']:<12}  {row['perturbed']:>9}"
                f"  {row['loop_us']:>7.0f}  {row['batched_us']:>10.1f}"
                f"  {row['ratio']:>4.0f}x  {row['largest_difference']:>10.4f}"
            )
        print(f"goal {GOAL:.0f}x: {'met' if met else 'missed'}")


if __name__ == "__main__":
    main()
