"""Rows of small sweeps whose truth is chosen, in the columns of the `rows` view."""

import hashlib
import json

import numpy as np
import pandas as pd

from sensweep.results.claims import ClaimSpecs, evaluate


def trial(stage, point, seed, measured, version=""):
    """Rows of one trial; `measured` is a list of (name, value, {coordinates, step, unit})."""
    cell = hashlib.blake2b(json.dumps([stage, point]).encode(), digest_size=8).hexdigest()
    trial_id = hashlib.blake2b(f"{cell}/{seed}/{version}".encode(), digest_size=12).hexdigest()
    rows = []
    for seq, (name, value, more) in enumerate(measured):
        coordinates = dict(more)
        rows.append(
            {
                "sweep": "made.cpu",
                "stage": stage,
                "task": "made",
                "cell": cell,
                "seed": seed,
                "trial_id": trial_id,
                "seq": seq,
                "name": name,
                "value": value,
                "step": coordinates.pop("step", None),
                "unit": coordinates.pop("unit", "1"),
                **point,
                **coordinates,
            }
        )
    return rows


def sweep(points, seeds, measure, stage="analyse"):
    """Rows of every point and seed; `measure(point, seed)` gives what `trial` takes."""
    rows = []
    for point in points:
        for seed in seeds:
            rows += trial(stage, point, seed, measure(point, seed))
    return rows


def judge(claims, rows):
    """Results by key."""
    specs = ClaimSpecs.validate_python(claims if isinstance(claims, list) else [claims])
    return {r.key: r for r in evaluate(specs, pd.DataFrame(rows))}


def claim(**fields):
    """A difference claim on sensitivity, changed by `fields`; None takes a field out."""
    base = {
        "type": "difference",
        "id": "1.1",
        "statement": "ViT is less sensitive",
        "value": "sensitivity",
        "of": {"arch": "vit"},
        "than": {"arch": "mlp"},
        "direction": "lower",
    }
    return {key: value for key, value in (base | fields).items() if value is not None}


SEEDS = range(5)
ARCHS = {"vit": 0.02, "mlp": 0.08, "cnn": 0.03}


def noise(*key):
    """A fixed standard normal number for a key of numbers and strings."""
    codes = [sum(ord(c) * 31**i for i, c in enumerate(str(part))) for part in key]
    return float(np.random.default_rng(codes).standard_normal())


def points(**axes):
    made = [{}]
    for axis, labels in axes.items():
        made = [{**point, axis: label} for point in made for label in labels]
    return made


def sensitivities(point, seed, own=0.002, shared=0.05):
    """Each seed shifts all architectures alike (common random numbers), each model a little."""
    level = ARCHS[point["arch"]] + shared * noise("seed", seed)
    return [("sensitivity", level + own * noise(point["arch"], seed), {"split": "train"})]


PLAIN = sweep(points(arch=ARCHS), SEEDS, sensitivities)


def noise_sizes(point, seed):
    """The MLP is more sensitive to small noise, less to large noise."""
    gap = 0.1 if point["arch"] == "mlp" else 0.0
    return [
        (
            "sensitivity",
            0.5 + sign * gap + 0.01 * noise(seed, sigma, point["arch"]),
            {"sigma": sigma},
        )
        for sigma, sign in ((0.1, 1), (1.0, -1))
    ]
