"""Our `train` task against a loop written by hand, on the same trainings, in one process.

    OMP_NUM_THREADS=1 python benchmarks/training.py            # about four minutes
    OMP_NUM_THREADS=1 python benchmarks/training.py --json

The loop is what a careful researcher writes: resident tensors, fused AdamW, a cosine schedule,
no reading of values inside an epoch, evaluation in large batches. Both evaluate the same images
after each epoch. They take turns, so that a slow minute of the machine slows both; the ratio is
ours / by hand, above 1 where ours is slower, with its 95% interval over the pairs.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from scipy.stats import t as student
from torch.nn import functional as F

from sensweep.tasks.api import Context
from sensweep.tasks.data import Splits, load
from sensweep.tasks.models import build
from sensweep.tasks.train import train

ARCHS: dict[str, Any] = {
    "vit": {
        "name": "vit_tiny_patch16_224",
        "patch_size": 2,
        "depth": 2,
        "embed_dim": 48,
        "num_heads": 3,
    },
    "mlp": {"name": "mlp", "hidden": [256, 128]},
    "cnn": {"name": "cnn", "width": 32},
}
BATCH, LR, DECAY = 64, 2e-3, 0.05


def by_hand(arch: Any, epochs: int, seed: int, data: Splits) -> float:
    """Train in a loop of its own (only data and model are shared); return the test accuracy."""
    torch.manual_seed(seed)
    model = build(
        arch,
        num_classes=data.num_classes,
        in_chans=data.in_chans,
        img_size=data.img_size,
        mean=data.mean,
        std=data.std,
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=DECAY, fused=True)
    x, y = data.train
    steps = len(x) // BATCH
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * steps)
    seen = len(data.validation.y)
    for _ in range(epochs):
        model.train()
        order = torch.randperm(len(x))
        total = torch.zeros(())
        for step in range(steps):
            batch = order[step * BATCH : (step + 1) * BATCH]
            loss = F.cross_entropy(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.detach()
        accuracy(model, x[:seen], y[:seen])
        accuracy(model, *data.validation)
        total.item()
    return accuracy(model, *data.test)


def accuracy(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    """Evaluate loss and accuracy, as both sides do, in batches of 250."""
    model.eval()
    loss, correct = torch.zeros(()), torch.zeros(())
    with torch.inference_mode():
        for images, labels in zip(x.split(250), y.split(250), strict=True):
            logits = model(images)
            loss += F.cross_entropy(logits, labels, reduction="sum")
            correct += (logits.argmax(1) == labels).sum()
    return correct.item() / len(y) if math.isfinite(loss.item()) else math.nan


def by_task(arch: Any, epochs: int, seed: int, cache: dict[str, object]) -> float:
    """Train with our task; return the test accuracy."""
    params = {
        "dataset": "digits",
        "arch": arch,
        "epochs": epochs,
        "batch_size": BATCH,
        "lr": LR,
        "weight_decay": DECAY,
        "warmup_epochs": 0,
    }
    rows = {row.name: row.value for row in train(params, Context(seed=seed, cache=cache))}
    return rows["test_accuracy"]


def timed(run: Callable[[], float]) -> tuple[float, float, float]:
    """Return wall seconds, CPU seconds and the run's own result."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = run()
    return time.perf_counter() - wall, time.process_time() - cpu, result


def ratio(pairs: list[tuple[float, float]]) -> tuple[float, float, float]:
    """Return the geometric mean of ours / by hand and its 95% t-interval."""
    logs = [math.log(ours / hand) for ours, hand in pairs]
    middle = statistics.fmean(logs)
    half = student.ppf(0.975, len(logs) - 1) * statistics.stdev(logs) / len(logs) ** 0.5
    return math.exp(middle), math.exp(middle - half), math.exp(middle + half)


def compare(arch: Any, seconds: float, pairs: int) -> dict[str, Any]:
    """Time `pairs` trainings of at least `seconds` by each side, in turns."""
    cache: dict[str, object] = {}
    data = load("digits", cache)
    by_hand(arch, 2, 0, data), by_task(arch, 2, 0, cache)  # imports and first calls
    # The faster of two, in CPU time: a busy machine must not make the trainings shorter.
    probe = min(timed(lambda: by_hand(arch, 5, 0, data))[1] for _ in range(2))
    epochs = max(2, math.ceil(5 * seconds / probe))
    sides = {
        "ours": lambda seed: by_task(arch, epochs, seed, cache),
        "by_hand": lambda seed: by_hand(arch, epochs, seed, data),
    }
    seen: dict[str, list[tuple[float, float, float]]] = {"ours": [], "by_hand": []}
    for pair in range(pairs):
        for side in list(sides) if pair % 2 else list(reversed(sides)):
            seen[side].append(timed(lambda side=side, pair=pair: sides[side](pair)))
    out: dict[str, Any] = {"epochs": epochs, "pairs": pairs}
    for index, clock in enumerate(("wall", "cpu")):
        both = [(a[index], b[index]) for a, b in zip(seen["ours"], seen["by_hand"], strict=True)]
        value, low, high = ratio(both)
        out |= {f"{clock}_ratio": value, f"{clock}_low": low, f"{clock}_high": high}
    for side, runs in seen.items():
        out[f"{side}_seconds"] = statistics.median(wall for wall, _, _ in runs)
        out[f"{side}_accuracy"] = statistics.fmean(result for _, _, result in runs)
    return out


def main() -> None:
    """Print the table, or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--seconds", type=float, default=6.0, help="length of a training, about")
    parser.add_argument("--pairs", type=int, default=5, help="trainings by each side, at least 2")
    options = parser.parse_args()
    torch.set_num_threads(1)
    result = {name: compare(arch, options.seconds, options.pairs) for name, arch in ARCHS.items()}
    if options.json:
        print(json.dumps(result))
        return
    print("arch  epochs  ours s  by hand s  ratio of wall time  ratio of CPU time   accuracy")
    for name, row in result.items():
        print(
            f"{name:4} {row['epochs']:7} {row['ours_seconds']:7.1f} {row['by_hand_seconds']:10.1f}"
            f"   {row['wall_ratio']:.2f} [{row['wall_low']:.2f}, {row['wall_high']:.2f}]"
            f"   {row['cpu_ratio']:.2f} [{row['cpu_low']:.2f}, {row['cpu_high']:.2f}]"
            f"   {row['ours_accuracy']:.3f} / {row['by_hand_accuracy']:.3f}"
        )


if __name__ == "__main__":
    main()
