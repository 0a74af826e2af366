"""A study of three stages, and what a home would hold once it has run."""

import copy
import json
import textwrap

from sensweep.orchestrator.recorded import Recorded
from sensweep.orchestrator.study import Study
from sensweep.orchestrator.trial import trial_columns
from sensweep.orchestrator.why import why

STUDY = {
    "study": "bowl",
    "seeds": 2,
    "axes": {"x": [0.0, 1.0], "kind": ["plain", "noisy"], "noise": {
        "when": {"kind": "noisy"}, "values": [0.5, 1.0]}},
    "stages": {
        "fit": {"task": "my_tasks:fit", "params": {"lr": 0.1, "steps": 5}},
        "look": {"task": "my_tasks:look", "needs": "fit@final", "params": {"width": 3}},
        "probe": {"task": "probes:probe", "needs": "fit@every:2", "axes": ["where"]},
    },
}  # fmt: skip
STUDY["axes"]["where"] = ["head", "body"]
STUDY["stages"]["fit"]["axes"] = ["x", "kind", "noise"]
FITS, LOOKS, PROBES = 2 * 2 * 3, 2 * 2 * 3, 2 * 2 * 3 * 2
FILES = {
    "my_tasks.py": """
        from shared import base

        def fit(params, context):
            '''Fit.'''
            yield base(params)

        def look(params, context):
            yield base(params)
        """,
    "probes.py": "from shared import base\n\ndef probe(params, context):\n    yield base(params)\n",
    "shared.py": "def base(params):\n    return 1\n",
}


def study(folder, **changes):
    """The study above; a change is a path such as stages__fit__params__lr=0.2."""
    data = copy.deepcopy(STUDY)
    for path, value in changes.items():
        *parents, last = path.split("__")
        inner = data
        for key in parents:
            inner = inner[key]
        inner[last] = value
    return Study.from_dict(data, folder=folder)


def home(*plans, keep=None, seconds=2.0, **statuses):
    """What a home would hold once the plans have run; the rows are those of its tables."""
    trials, attempts = [], []
    for plan in plans:
        columns = trial_columns(plan.trials, plan.code)
        trials += [
            dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)
        ]
        for trial in plan.trials:
            selects = list(plan.study.keeps(trial.stage) if keep is None else keep)
            saved = [
                {"kind": "checkpoint", "step": s, "path": f"{trial.trial_id}/{s}", "metrics": {},
                 "selects": [t for t in selects if t == "every:2"]}
                for s in (2, 4)
            ] + [{"kind": "checkpoint", "step": 5, "path": f"{trial.trial_id}/5", "metrics": {},
                  "selects": [t for t in selects if t != "every:2"]}]  # fmt: skip
            attempts.append(
                {"trial_id": trial.trial_id, "status": statuses.get(trial.stage, "done"),
                 "seconds": seconds, "artifacts": json.dumps(saved)}
            )  # fmt: skip
    return trials, attempts


def recorded(*plans, gone=(), **options):
    return Recorded.from_rows(*home(*plans, **options), exists=lambda path: path not in gone)


def reasons(plan, known):
    return {(r.stage, r.text): len(r.trials) for r in why(plan, known)}


def write_files(folder):
    for name, text in FILES.items():
        (folder / name).write_text(textwrap.dedent(text))
    return folder
