"""A small home of a study with two searches, whose asks and rows are known to the last digit.

One search (arch cnn) has a point of each fate, told in another order than asked; the other (arch
mlp) has forty points, of which only the label `noise` and its strength matter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sensweep.results.schema import canonical_json
from sensweep.results.store import Home

SWEEP = "hunt.cpu"
CNN, MLP, OLD = "arch=cnn#aaaaaa", "arch=mlp#bbbbbb", "arch=cnn#000000"
SEEDS, FRESH = (0, 1), (10000, 10001, 10002)
BASELINE = {"kind": "none"}
DEFAULT = {"kind": "noise", "strength": 0.5}
LOSS = {"name": "loss", "stage": "train", "where": {}, "over": "mean", "over_seeds": "mean"}
ACCURACY = {**LOSS, "name": "accuracy", "where": {"split": "validation"}}
STUDY: dict[str, Any] = {
    "study": "hunt",
    "question": "Which intervention, and how strong?",
    "seeds": list(SEEDS),
    "axes": {
        "arch": ["cnn", "mlp"],
        "kind": ["none", "noise", "penalty"],
        "strength": [
            {"when": {"kind": ["noise"]}, "values": {"uniform": [0.0, 1.0]}},
            {"when": {"kind": ["penalty"]}, "values": {"log_uniform": [0.001, 1.0]}},
        ],
    },
    "stages": {
        "train": {"task": "train", "needs": [], "params": {}},
        "exam": {"task": "exam", "needs": ["train@final"], "params": {}},
    },
    "search": {
        "axes": ["kind", "strength"],
        "objectives": [
            {**LOSS, "direction": "minimize"},
            {**ACCURACY, "direction": "maximize"},
        ],
        "constraints": [
            {
                **LOSS,
                "name": "clean",
                "at_least": -0.1,
                "at_most": None,
                "relative_to": BASELINE,
            }
        ],
        "sampler": {"name": "random", "options": {}},
        "trials": 9,
        "seeds": None,
        "parallel": None,
        "enqueue": [],
        "warm_start": False,
        "seed": 0,
        "stop": {"by": "halving", "rungs": "seeds", "options": {}},
        "confirm": {
            "seeds": 3,
            "stages": ["exam"],
            "compare": {"default": DEFAULT, "plain": BASELINE},
        },
    },
    "claims": [],
    "figures": [],
}
STARTED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
Rows = Sequence[tuple[str, float, int | None, Mapping[str, Any]]]


@dataclass
class Ask:
    """A point of a search, as its last line of the table `asks` tells it."""

    number: int
    state: str
    labels: dict[str, Any]
    values: Sequence[float] = ()
    attributes: dict[str, Any] = field(default_factory=dict)


def noise(strength: float) -> dict[str, Any]:
    return {"kind": "noise", "strength": strength}


def penalty(strength: float) -> dict[str, Any]:
    return {"kind": "penalty", "strength": strength}


# In the order in which they were told; point 4 would dominate all, but breaks the constraint.
FATES = [
    Ask(1, "complete", noise(0.25), (0.40, 0.70), {"violations": [-0.05]}),
    Ask(0, "complete", BASELINE, (0.50, 0.60), {"violations": [-0.1], "given": "enqueued"}),
    Ask(4, "complete", penalty(0.5), (0.10, 0.90), {"violations": [0.3]}),
    Ask(6, "failed", noise(0.9), (), {"reason": "train of seed 1 diverged"}),
    Ask(2, "complete", penalty(0.01), (0.20, 0.50), {"violations": [-0.02]}),
    Ask(
        5,
        "pruned",
        noise(0.75),
        (0.90, 0.30),
        {"violations": [-0.01], "reports": {"1": [0.90, 0.30]}},
    ),
    Ask(7, "duplicate", noise(0.125)),
    Ask(3, "complete", noise(0.125), (0.30, 0.65), {"violations": [-0.03]}),
    Ask(8, "running", penalty(0.1)),
]


def forty() -> list[Ask]:
    """Points whose loss depends on the kind and, with noise, on the strength."""
    asks = []
    for number in range(40):
        step = (number * 7 % 40 + 0.5) / 40
        labels = noise(step) if number % 2 else penalty(10 ** (3 * step - 3))
        loss = (step - 0.5) ** 2 + 0.1 if number % 2 else 2.0
        asks.append(Ask(number, "complete", labels, (loss, 0.5), {"violations": [-0.1]}))
    return asks


@dataclass
class Trial:
    """A planned trial with what it measured."""

    stage: str
    point: dict[str, Any]
    seed: int
    rows: Rows
    parents: Sequence[Mapping[str, str]] = ()

    @property
    def identity(self) -> str:
        point = {axis: label for axis, label in self.point.items() if axis != "confirmed"}
        return _digest([self.stage, point, self.seed], 24)


def confirmed_value(name: str, arch: str, quantity: str, seed: int) -> float:
    """What fresh seeds measure: the winner is worse than its search saw, which was lucky."""
    base = {"best": 0.4, "default": 0.6, "plain": 0.7}[name] + 0.01 * (arch == "mlp")
    spread = 0.02 * (seed - FRESH[1]) * (2 if name == "best" else 1)
    return (base if quantity != "accuracy" else 1 - base) + spread


def hunt(
    home: Home,
    study: Mapping[str, Any] = STUDY,
    *,
    confirm: bool = True,
    cnn: Sequence[Ask] = FATES,
    mlp: Sequence[Ask] | None = None,
) -> Home:
    """Commit the study's asks, the trials of the points that have some, and their confirmation."""
    searches = {CNN: ("cnn", cnn), MLP: ("mlp", forty() if mlp is None else mlp)}
    planned: list[Trial] = []
    asks: list[dict[str, Any]] = []
    for search, (arch, tried) in searches.items():
        for event, ask in enumerate(tried):
            trials = [_train({"arch": arch, **ask.labels}, seed, ask) for seed in SEEDS]
            trials = [] if ask.state == "duplicate" else trials
            planned += trials
            asks.append(_line(search, event, ask, [trial.identity for trial in trials]))
        if confirm and tried:
            best = noise(0.125) if arch == "cnn" else min(tried, key=lambda a: a.values).labels
            for name, labels in {"best": best, "default": DEFAULT, "plain": BASELINE}.items():
                planned += _confirmation({"arch": arch, **labels}, name, arch)
    asks.append(_line(OLD, 0, Ask(0, "complete", noise(0.3), (0.0, 1.0)), [_digest("old", 24)]))
    record = {
        "study": dict(study),
        "profile": "cpu",
        "provenance": {"git_commit": "abc", "git_dirty": False, "versions": {}},
    }
    unique = list({(one.identity, str(one.point)): one for one in planned}.values())
    with home.open_sweep(SWEEP, study=record, owner="tester") as writer:
        writer.commit({"trials": _planned(unique)})
        done = [one for one in {t.identity: t for t in unique}.values() if one.rows]
        writer.commit({"attempts": _attempts(done), "measurements": _measured(done)})
        writer.commit({"asks": {key: [ask[key] for ask in asks] for key in asks[0]}})
    return home


def _train(point: dict[str, Any], seed: int, ask: Ask) -> Trial:
    """A search's trial: the mean over its two seeds is the ask's value."""
    values = ask.values if ask.state == "complete" else ()
    rows: list[tuple[str, float, int | None, Mapping[str, Any]]] = []
    if values:
        rows = _rows(values[0] + 0.01 * (2 * seed - 1), 0.5, 0.8 + 0.1 * seed)
    return Trial("train", point, seed, rows)


def _rows(loss: float, accuracy: float, clean: float) -> list[Any]:
    return [
        ("loss", 9.0, 1, {}),
        ("loss", loss, 2, {}),
        ("accuracy", 0.01, 2, {"split": "train"}),
        ("accuracy", accuracy, 2, {"split": "validation"}),
        ("clean", clean, None, {}),
    ]


def _confirmation(point: dict[str, Any], name: str, arch: str) -> list[Trial]:
    trials = []
    for seed in FRESH:
        values = [confirmed_value(name, arch, q, seed) for q in ("loss", "accuracy", "clean")]
        train = Trial("train", {**point, "confirmed": name}, seed, _rows(*values))
        need = {"stage": "train", "trial_id": train.identity, "select": "final"}
        rows = [("exam_score", confirmed_value(name, arch, "exam", seed), None, {})]
        trials += [train, Trial("exam", {**point, "confirmed": name}, seed, rows, [need])]
    return trials


def _line(search: str, event: int, ask: Ask, trial_ids: Sequence[str]) -> dict[str, Any]:
    labels = dict(ask.labels)
    block = {"noise": "strength[0]", "penalty": "strength[1]"}.get(labels["kind"], "")
    suggested = {block if key == "strength" else key: value for key, value in labels.items()}
    return {
        "search": search,
        "event": event,
        "number": ask.number,
        "trial_ids": canonical_json(list(trial_ids)),
        "params": canonical_json(labels),
        "attributes": canonical_json({"suggested": suggested, **ask.attributes}),
        "state": ask.state,
        "values": canonical_json(list(ask.values)),
    }


def _planned(trials: Sequence[Trial]) -> dict[str, list[Any]]:
    texts = {"task": "m:f", "params": "{}", "code": "c", "code_files": "{}", "data": "{}"}
    return {
        "trial_id": [one.identity for one in trials],
        "stage": [one.stage for one in trials],
        "point": [canonical_json(one.point) for one in trials],
        "seed": [one.seed for one in trials],
        "parents": [canonical_json(list(one.parents)) for one in trials],
        "cell": [_digest([one.stage, one.point], 16) for one in trials],
        **{name: [text] * len(trials) for name, text in texts.items()},
    }


def _attempts(trials: Sequence[Trial]) -> dict[str, list[Any]]:
    count = len(trials)
    constant = {
        "attempt": 1,
        "status": "done",
        "error": None,
        "traceback": None,
        "log": "logs/a.log",
        "host": "h",
        "worker": "w",
        "queued_s": 0.0,
        "seconds": 2.0,
        "cpu_seconds": 1.0,
        "peak_rss_bytes": 1,
        "resources": "{}",
        "artifacts": "[]",
    }
    return {
        "trial_id": [one.identity for one in trials],
        "started": [STARTED + timedelta(seconds=10 * i) for i in range(count)],
        "rows": [len(one.rows) for one in trials],
        **{name: [value] * count for name, value in constant.items()},
    }


def _measured(trials: Sequence[Trial]) -> dict[str, list[Any]]:
    rows = [(one.identity, seq, *row) for one in trials for seq, row in enumerate(one.rows)]
    ids, seqs, names, values, steps, places = map(list, zip(*rows, strict=True))
    return {
        "trial_id": ids,
        "seq": seqs,
        "name": names,
        "value": values,
        "step": steps,
        "unit": ["1"] * len(rows),
        "coordinates": [canonical_json(place) for place in places],
    }


def _digest(value: object, length: int) -> str:
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:length]
