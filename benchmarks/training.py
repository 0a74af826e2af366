"""Trainings through the whole orchestrator against a loop written by hand, a process per core.

    python benchmarks/training.py            # about ten minutes on two cores
    python benchmarks/training.py --json

The loop is what a careful researcher writes: resident tensors, fused AdamW, a cosine schedule,
no reading of values inside an epoch, evaluation in large batches; one process per core, each with
its share of the seeds. Ours is `sensweep run` of the same trainings on one Ray worker per core:
checkpoints written, rows committed. Both evaluate the same images after each epoch, and both pay
for their processes' imports. They take turns, so that a slow minute of the machine slows both.

`trial` is the ratio of the seconds of one training, `sweep` that of the time from the start of the
first training to the end of the last, each ours / by hand: above 1 where ours is slower, with its
95% interval over the rounds. Starting Ray is not in it; `startup.py` measures that.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

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


def by_hand(arch: Any, epochs: int, seed: int) -> float:
    """Train in a loop of its own (only data and model are shared); return the test accuracy."""
    import torch
    from torch.nn import functional as F

    from sensweep.tasks.data import load
    from sensweep.tasks.models import build

    data = load("digits", {})
    torch.set_num_threads(1)
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


def accuracy(model: Any, x: Any, y: Any) -> float:
    """Evaluate loss and accuracy, as both sides do, in batches of 250."""
    import torch
    from torch.nn import functional as F

    model.eval()
    loss, correct = torch.zeros(()), torch.zeros(())
    with torch.inference_mode():
        for images, labels in zip(x.split(250), y.split(250), strict=True):
            logits = model(images)
            loss += F.cross_entropy(logits, labels, reduction="sum")
            correct += (logits.argmax(1) == labels).sum()
    return correct.item() / len(y) if math.isfinite(loss.item()) else math.nan


Run = tuple[float, float, float]  # when it started, its seconds, its test accuracy


def hand_share(arch: Any, epochs: int, seeds: list[int], answers: Any) -> None:
    """Train one process's share of the seeds, one after another."""
    runs: list[Run] = []
    for seed in seeds:
        started = time.time()
        accuracy = by_hand(arch, epochs, seed)
        runs.append((started, time.time() - started, accuracy))
    answers.put(runs)


def hand_sweep(arch: Any, epochs: int, seeds: list[int], cpus: int) -> list[Run]:
    """Train all seeds in `cpus` fresh processes."""
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    shares = [seeds[i::cpus] for i in range(cpus)]
    processes = [
        context.Process(target=hand_share, args=(arch, epochs, share, answers)) for share in shares
    ]
    for process in processes:
        process.start()
    runs = [run for _ in processes for run in answers.get()]
    for process in processes:
        process.join()
    return runs


def our_sweep(arch: Any, epochs: int, seeds: list[int], cpus: int) -> list[Run]:
    """Run a study of the same trainings in a home of its own."""
    from sensweep.orchestrator import Study, run

    study = Study.from_dict(
        {
            "study": "training",
            "seeds": seeds,
            "axes": {"dataset": ["digits"], "arch": {"it": arch}},
            "stages": {
                "train": {
                    "task": "train",
                    "params": {
                        "epochs": epochs,
                        "batch_size": BATCH,
                        "lr": LR,
                        "weight_decay": DECAY,
                        "warmup_epochs": 0,
                    },
                }
            },
        }
    )
    with tempfile.TemporaryDirectory() as home:
        sweep = run(study, home, cpus=cpus)
        from sensweep.results.queries import query
        from sensweep.results.store import Home

        attempts = Home(Path(home)).read("attempts").to_pylist()
        rows = query(Home(Path(home)), "select value from rows where name = 'test_accuracy'")
    assert sweep.executed == len(seeds) == len(rows) == len(attempts)
    accuracies = [float(row["value"]) for row in rows]
    return [
        (attempt["started"].timestamp(), attempt["seconds"], value)
        for attempt, value in zip(attempts, accuracies, strict=True)
    ]


def ratio(pairs: list[tuple[float, float]]) -> dict[str, float]:
    """Return the geometric mean of ours / by hand and its 95% t-interval."""
    from scipy.stats import t as student

    logs = [math.log(ours / hand) for ours, hand in pairs]
    middle = statistics.fmean(logs)
    half = student.ppf(0.975, len(logs) - 1) * statistics.stdev(logs) / len(logs) ** 0.5
    return {
        "ratio": math.exp(middle),
        "low": math.exp(middle - half),
        "high": math.exp(middle + half),
    }


def span(runs: list[Run]) -> float:
    """Seconds from the start of the first training to the end of the last."""
    return max(start + seconds for start, seconds, _ in runs) - min(start for start, *_ in runs)


def epochs_for(arch: Any, seconds: float) -> int:
    """Return how many epochs take at least `seconds`, in CPU time on a core of its own."""
    by_hand(arch, 2, 0)  # imports and first calls
    costs = []
    for _ in range(2):
        began = time.process_time()
        by_hand(arch, 5, 0)
        costs.append(time.process_time() - began)
    return max(2, math.ceil(5 * seconds / min(costs)))


def compare(arch: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Run both sides in turns, `options.rounds` times."""
    epochs = epochs_for(arch, options.seconds)
    sides = {"ours": our_sweep, "by_hand": hand_sweep}
    seen: dict[str, list[list[Run]]] = {"ours": [], "by_hand": []}
    for number in range(options.rounds):
        seeds = [number * options.trials + i for i in range(options.trials)]
        for side in list(sides) if number % 2 else list(reversed(sides)):
            seen[side].append(sides[side](arch, epochs, seeds, options.cpus))
    rounds = list(zip(seen["ours"], seen["by_hand"], strict=True))
    out: dict[str, Any] = {"epochs": epochs, "rounds": options.rounds, "trials": options.trials}
    out["trial"] = ratio([(median(ours), median(hand)) for ours, hand in rounds])
    out["sweep"] = ratio([(span(ours), span(hand)) for ours, hand in rounds])
    for side, sweeps in seen.items():
        runs = [run for sweep in sweeps for run in sweep]
        out[f"{side}_seconds"] = median(runs)
        out[f"{side}_accuracy"] = statistics.fmean(accuracy for *_, accuracy in runs)
    return out


def median(runs: list[Run]) -> float:
    """Return the median of the trainings' seconds."""
    return statistics.median(seconds for _, seconds, _ in runs)


def main() -> None:
    """Print the table, or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--seconds", type=float, default=6.0, help="length of a training, about")
    parser.add_argument("--trials", type=int, default=6, help="trainings of a sweep")
    parser.add_argument("--rounds", type=int, default=4, help="sweeps by each side, at least 2")
    parser.add_argument("--cpus", type=int, default=2, help="processes of each side")
    options = parser.parse_args()

    from sensweep.clusters.local import LocalCluster
    from sensweep.orchestrator.ray_driver import connected

    with connected(LocalCluster(options.cpus)):
        result = {name: compare(arch, options) for name, arch in ARCHS.items()}
    if options.json:
        print(json.dumps({"benchmark": "training", "cpus": options.cpus, "archs": result}))
        return
    print("arch  epochs  ours s  by hand s  ratio of a trial   ratio of a sweep   accuracy")
    for name, row in result.items():
        ratios = "   ".join(
            f"{row[what]['ratio']:.2f} [{row[what]['low']:.2f}, {row[what]['high']:.2f}]"
            for what in ("trial", "sweep")
        )
        print(
            f"{name:4} {row['epochs']:7} {row['ours_seconds']:7.1f} {row['by_hand_seconds']:10.1f}"
            f"   {ratios}   {row['ours_accuracy']:.3f} / {row['by_hand_accuracy']:.3f}"
        )


if __name__ == "__main__":
    main()
