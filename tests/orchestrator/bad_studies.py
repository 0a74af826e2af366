"""Bad study files, each with what its one line must say. The CLI's tests read them, too."""

# ruff: noqa: E501

from __future__ import annotations

import copy
from pathlib import Path

import yaml

from sensweep.orchestrator.study import shipped_studies

DROP = object()
USER = {"mine.py": "def roughness(params, context):\n    yield\n", "broken.py": "def f(:\n"}

# (path in the study `quickstart`, what is put there, what the line must have)
MUTATIONS = [
    # keys
    ("sead", 3, "sead: unknown key; did you mean 'seeds'?"),
    ("stages.train.params.epochz", 3, "stages.train.params.epochz: unknown key; did you mean 'epochs'"),
    ("stages.train.resources", {"cpu": 1}, "stages.train.resources.cpu: unknown key; did you mean 'cpus'"),
    ("stages.train.need", "train", "stages.train.need: unknown key; did you mean 'needs'"),
    ("budget.walltime", "3m", "budget.walltime: unknown key; did you mean 'wall_time'"),
    ("checkpoints", {"qota": "2 GB"}, "checkpoints.qota: unknown key; did you mean 'quota'"),
    ("stages.sensitivity.params.sigma", 1, "stages.sensitivity.params.sigma: unknown key; did you mean 'sigmas'"),
    ("study", DROP, "study: missing key"),
    ("stages", DROP, "stages: missing key"),
    ("stages.train.task", DROP, "stages.train.task: missing key"),
    # types and ranges
    ("stages", {}, "stages: {} is not valid"),
    ("stages", ["train"], 'stages: ["train"] is not valid'),
    ("study", "Quick Start", 'study: "Quick Start" is not a name'),
    ("study", "../escape", 'study: "../escape" is not a name'),
    ("study", 3, "study: 3 is not valid"),
    ("question", ["why"], 'question: ["why"] is not valid'),
    ("seeds", 0, "seeds: 0 is not a number of seeds"),
    ("seeds", -1, "seeds: -1 is not a number of seeds"),
    ("seeds", "three", 'seeds: "three" is not a number of seeds'),
    ("seeds", [0, 1, 0], "seeds[2]: the seed 0 is listed twice"),
    ("seeds", [1.5], "seeds[0]: 1.5 is not valid"),
    ("seeds", [2**63], "seeds[0]"),
    ("seeds", 10**9, "seeds: 1000000000 is not a number of seeds"),
    ("stages.train.resources", {"cpus": 0}, "stages.train.resources.cpus: 0 is not valid"),
    ("stages.train.resources", {"gpus": 1.5}, "stages.train.resources.gpus: 1.5 is not valid: above one"),
    ("stages.train.retries", -1, "stages.train.retries: -1 is not valid"),
    ("budget.trials", 0, "budget.trials: 0 is not valid"),
    ("stages.train.params", [1], "stages.train.params: [1] is not valid"),
    ("stages.train.params.epochs", "many", 'stages.train.params.epochs: "many" is not valid'),
    ("stages.train.params.lr", -1, "stages.train.params.lr: -1 is not valid"),
    ("stages.sensitivity.params.sigmas", [0.1, -2], "stages.sensitivity.params.sigmas[1]: -2"),
    # units
    ("budget.wall_time", "30 mins", "budget.wall_time: \"30 mins\" is not a duration such as 30m"),
    ("budget.wall_time", "30", "a unit is missing"),
    ("stages.train.timeout", "-3m", 'stages.train.timeout: "-3m" is not a duration'),
    ("checkpoints.quota", "2 Gb", "checkpoints.quota: \"2 Gb\" is not a size such as 2 GB"),
    ("stages.train.resources", {"memory": "two"}, 'stages.train.resources.memory: "two" is not a size'),
    # axes
    ("axes.arch", [], "axes.arch: an axis needs at least one value"),
    ("axes.dataset", "digits", 'axes.dataset: "digits" is not an axis; write a list ([digits])'),
    ("axes.seed", [1, 2], "axes.seed: 'seed' is a column of every result; seeds are given by `seeds`"),
    ("axes.Arch", [1], "axes.Arch"),
    ("axes.lr", {"log_unifrom": [1, 2]}, "axes.lr.log_unifrom: unknown distribution; did you mean 'log_uniform'"),
    ("axes.lr", {"log_uniform": [0, 2]}, "axes.lr.log_uniform: [0, 2] is not a range"),
    ("axes.decay", {"log_uniform": [0.1, 0.2]}, "axes.decay: a distribution (log_uniform in [0.1, 0.2]) has no grid"),
    ("axes.intervention", ["none", "none"], 'axes.intervention[1]: "none" is listed twice'),
    ("axes.strength.0.when", {"interventoin": "none"}, "axes.strength[0].when.interventoin: unknown axis; did you mean 'intervention'"),
    ("axes.strength.0.when", {"intervention": "noise_agmentation"}, "is no label of that axis; did you mean 'noise_augmentation'"),
    ("axes.strength.1.when", {"intervention": "noise_augmentation"}, "axes.strength: blocks 0 and 1 both apply"),
    ("axes.strength.0.whn", 3, "axes.strength[0].whn: unknown key; did you mean 'when'"),
    ("axes.intervention", {"when": {"strength": 0.1}, "values": ["none"]}, "axes.intervention: conditions in a circle: intervention -> strength -> intervention"),
    ("stages.train.params.arch", "mlp", "stages.train.params.arch: 'arch' is an axis of this stage"),
    ("stages.train.axes", ["dataset", "arhc"], "stages.train.axes[1]: unknown axis 'arhc'; did you mean 'arch'"),
    ("stages.train.axes", ["dataset", "arch", "strength"], "depends on intervention, which this stage leaves out"),
    ("stages.train.axes", ["dataset", "dataset"], "stages.train.axes[1]: the axis 'dataset' is given twice"),
    ("stages.sensitivity.axes", ["arch"], "stages.sensitivity.axes[0]: the axis 'arch' is inherited from 'train'"),
    ("stages.train.space", {"random": 1000}, "stages.train.space: 1000 distinct points of 15"),
    ("stages.train.space", {"radnom": 3}, "stages.train.space.radnom: unknown key; did you mean 'random'"),
    ("stages.train.points", [{"arch": "vitt", "dataset": "digits"}], "stages.train.points[0].arch: unknown label \"vitt\"; did you mean 'vit'"),
    ("stages.calibration.space", {"random": 3}, "stages.calibration.space: random points of no axes"),
    # needs
    ("stages.sensitivity.needs", "trian@final", "stages.sensitivity.needs: unknown stage 'trian'; did you mean 'train'"),
    ("stages.sensitivity.needs", "train@last", 'stages.sensitivity.needs: unknown selection "last"'),
    ("stages.sensitivity.needs", "train@every:0", "stages.sensitivity.needs: every:0 wants a whole number"),
    ("stages.sensitivity.needs", "train@first:accuracy", "stages.sensitivity.needs: first:accuracy wants a metric and a bound"),
    ("stages.sensitivity.needs", ["train", "train@every:2"], "stages.sensitivity.needs[1]: 'train' is needed twice"),
    ("stages.sensitivity.needs", ["train", 3], "stages.sensitivity.needs[1]: 3 is not a need"),
    ("stages.train.needs", "sensitivity", "in a circle: train -> sensitivity -> train"),
    ("stages.train.needs", "train", "stages.train.needs: stages need each other in a circle: train -> train"),
    # tasks, architectures, datasets, interventions
    ("stages.train.task", "trian", "stages.train.task: unknown task 'trian'; did you mean 'train'"),
    ("stages.train.task", "mine:roughnes", "stages.train.task: mine.py has no function 'roughnes'; did you mean 'roughness'"),
    ("stages.train.task", "mnie:roughness", "stages.train.task: no module 'mnie'"),
    ("stages.train.task", "broken:f", "broken.py:1: not valid Python"),
    ("stages.train.task", "../mine:f", "stages.train.task: \"../mine:f\" is not a task"),
    ("stages.train.task", "os:system", "stages.train.task: no module 'os'"),
    ("axes.arch.vit.name", "vit_tiny_patch16_24", "axes.arch.vit: unknown arch 'vit_tiny_patch16_24'; did you mean 'vit_tiny_patch16_224'"),
    ("axes.arch.vit", {"depth": 3}, "axes.arch.vit: arch is a name or a mapping with a name"),
    ("axes.dataset", ["digts"], "did you mean 'digits'"),
    ("axes.dataset", ["./no/such.parquet"], "axes.dataset: unknown dataset"),
    ("axes.intervention", {"none": "none", "noise_augmentation": "noise_augmentatoin", "sensitivity_penalty": "sensitivity_penalty"}, "did you mean 'noise_augmentation'"),
    ("axes.strength.0.values", [0.1, 0.3, -0.5], "strength=-0.5: Input should be greater than or equal to 0"),
    # claims, figures, profiles
    ("claims.0.type", "diference", "claims[0].type: unknown value \"diference\"; did you mean 'difference'"),
    ("claims.0.type", DROP, "claims[0]: missing key 'type'"),
    ("claims.0.dirction", "lower", "claims[0].dirction: unknown key; did you mean 'direction'"),
    ("claims.0.direction", "lowr", "claims[0].direction: unknown value \"lowr\"; did you mean 'lower'"),
    ("claims.0.of", {"arch": "vti"}, "claims[0] (1).of"),
    ("claims.0.value.stage", "sensitivty", "claims[0] (1).value.stage: unknown stage 'sensitivty'"),
    ("claims.1.id", "1", "claims[1].id: '1' is taken"),
    ("claims", {"id": "1"}, "claims: "),
    ("claims.0.figure", "sensitivty", "claims[0] (1).figure"),
    ("figures.0.kind", "curv", "figures[0].kind: unknown value \"curv\"; did you mean 'curve'"),
    ("figures.0.logx", True, "figures[0].logx: unknown key; did you mean 'log_x'"),
    ("figures.0.y.nam", "x", "figures[0].y.nam: unknown key; did you mean 'name'"),
    ("figures.0.y.stage", "trian", "figures[0] (sensitivity).y.stage: unknown stage 'trian'; did you mean 'train'"),
    ("figures.0.y.where", {"intervention": "nonne"}, "figures[0] (sensitivity).y.where.intervention: unknown label \"nonne\"; did you mean 'none'"),
    ("figures.0.name", "../x", "figures[0].name: \"../x\" is not valid"),
    ("figures.1.name", "sensitivity", "figures[1].name: 'sensitivity' is taken"),
    ("profiles", ["paper"], 'profiles: ["paper"] is not valid'),
    ("profiles.paper", {"sedes": 1}, "profiles.paper.sedes: unknown key; did you mean 'seeds'"),
    ("profiles.paper", 3, "profiles.paper: 3 is not valid"),
    ("profiles.paper", {"study": "other"}, "profiles.paper.study: unknown key"),
    ("profiles.paper", {"stages": {"train": {"timeout": 1e400}}}, "profiles.paper.stages.train.timeout"),
]  # fmt: skip

TEXTS = [
    ("", "a study file is a mapping"),
    ("- a\n- b\n", "a study file is a mapping"),
    ("study: &x y\nquestion: *x\n", "aliases and anchors"),
    ("study: x\nstudy: y\n", "the key is given twice"),
    ("study: !!python/object/apply:os.system [ls]\n", "tags"),
    ("study: [\n", "not valid YAML"),
    ("study: x\nstages: {1: {task: toy}}\n", 'write "1"'),
    ("study: x\nseeds: .inf\n", "not a finite number"),
    ("\t\n", "not valid YAML"),
    ("study: \x07\n", "not valid YAML"),
    ("a: " + "[" * 64 + "]" * 64, "nested deeper"),
]


def written(path: str, value: object) -> str:
    """The study `quickstart` with one thing changed, as a file's text."""
    data = copy.deepcopy(yaml.safe_load(shipped_studies()["quickstart"].read_text()))
    inner, keys = data, [int(k) if k.isdigit() else k for k in path.split(".")]
    for key in keys[:-1]:
        inner = inner[key]
    if value is DROP:
        del inner[keys[-1]]
    else:
        inner[keys[-1]] = value
    return yaml.safe_dump(data, sort_keys=False)


def bad_studies(folder: Path) -> list[tuple[Path, str]]:
    """Write all bad files into a folder, beside the user's modules; with what each line holds."""
    for name, text in USER.items():
        (folder / name).write_text(text)
    texts = [(written(path, value), wanted) for path, value, wanted in MUTATIONS] + TEXTS
    files = []
    for i, (text, wanted) in enumerate(texts):
        path = folder / f"bad{i:03d}.yaml"
        path.write_text(text)
        files.append((path, wanted))
    return files
