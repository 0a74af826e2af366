"""Names, digests and params are found without torch, and agree with what is installed."""

import shutil
import subprocess
import sys
from importlib import import_module

import pytest
from pydantic import BaseModel, ValidationError

from sensweep.tasks import datasets
from sensweep.tasks.api import TaskError
from sensweep.tasks.catalog import DATASETS, TASKS, architectures, dataset_digest
from sensweep.tasks.names import unknown
from sensweep.tasks.params.interventions import INTERVENTIONS
from sensweep.tasks.params.train import TrainParams

GOOD = {"dataset": "digits", "arch": "mlp"}


def test_planning_imports_nothing_heavy():
    program = (
        "import sys, sensweep.tasks.catalog as catalog; light = set(sys.modules);"
        "import sensweep.tasks.params.train as train;"
        "train.TrainParams(dataset='digits', arch='resnet18'); catalog.dataset_digest('digits');"
        "heavy = {'torch', 'timm', 'torchvision', 'sklearn', 'pandas', 'numpy', 'mlxtend'};"
        "print(sorted(heavy & set(sys.modules)), 'pydantic' in light)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stdout.strip() == "[] False", run.stderr


def test_tasks_are_generator_functions_with_params_models():
    for task, params in TASKS.values():
        for spec, check in ((task, callable), (params, lambda it: issubclass(it, BaseModel))):
            module, _, name = spec.partition(":")
            assert check(getattr(import_module(module), name)), spec


def test_architectures_are_exactly_timms_and_our_own():
    import timm

    ours = {"mlp", "cnn", "mixer", "resmlp", "gmlp", "convmixer"}
    assert set(architectures()) == set(timm.list_models()) | ours
    assert len(architectures()) == len(set(architectures()))


def test_digest_is_of_the_content_not_the_path(tmp_path):
    first, second = tmp_path / "a", tmp_path / "elsewhere" / "b"
    first.mkdir()
    (first / "train-0.parquet").write_bytes(b"one")
    (first / "test.parquet").write_bytes(b"two")
    shutil.copytree(first, second)
    assert dataset_digest(str(first)) == dataset_digest(str(second))
    (second / "test.parquet").write_bytes(b"2")
    assert dataset_digest(str(first)) != dataset_digest(str(second))
    # The same bytes in another split are another dataset.
    digest = dataset_digest(str(first))
    (first / "test.parquet").rename(first / "validation.parquet")
    assert dataset_digest(str(first)) != digest


def test_digest_of_an_unchanged_file_is_not_computed_again(tmp_path, monkeypatch):
    file = tmp_path / "d.parquet"
    file.write_bytes(b"one")
    digest = dataset_digest(str(file))
    monkeypatch.setattr(datasets.hashlib, "file_digest", None)
    assert dataset_digest(str(file)) == digest


def test_every_name_has_its_own_digest():
    digests = {dataset_digest(name) for name in DATASETS}
    assert len(digests) == len(DATASETS)
    assert all(len(digest) == 64 for digest in digests)


def test_published_sums_are_torchvisions():
    from torchvision import datasets as torchvision

    published = {
        "cifar10": [torchvision.CIFAR10.tgz_md5],
        "cifar100": [torchvision.CIFAR100.tgz_md5],
        "svhn": [torchvision.SVHN.split_list[split][2] for split in ("train", "test")],
        "fashion_mnist": [md5 for _, md5 in torchvision.FashionMNIST.resources],
    }
    assert {name: list(sums) for name, sums in datasets.DOWNLOADED.items()} == published


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["train.parquet", "test.parquet"], {"train": 1, "test": 1}),
        (["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"], {"train": 2}),
        (["plain/train/0.parquet", "plain/validation/0.parquet"], {"train": 1, "validation": 1}),
    ],
)
def test_hub_layouts(tmp_path, files, expected):
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    found = datasets.parquet_files(str(tmp_path))
    assert {split: len(paths) for split, paths in found.items()} == expected


def test_unsuitable_folders_get_one_line(tmp_path):
    with pytest.raises(TaskError, match=r"no train\*\.parquet"):
        dataset_digest(str(tmp_path))
    (tmp_path / "stuff.parquet").touch()
    with pytest.raises(TaskError, match="cannot tell the split of 'stuff"):
        dataset_digest(str(tmp_path))
    with pytest.raises(TaskError, match="unknown dataset 'digts'; did you mean 'digits'"):
        dataset_digest("digts")


def test_unknown_names_the_nearest_and_lists_a_few():
    assert unknown("pet", "dgo", ["dog", "cat"]) == (
        "unknown pet 'dgo'; did you mean 'dog'? (valid: cat, dog)"
    )
    assert "valid" not in unknown("number", "1", map(str, range(100)))


@pytest.mark.parametrize(
    ("change", "where", "message"),
    [
        ({"dataset": "mnist"}, "dataset", "did you mean 'mnist5k'"),
        ({"arch": "vit_tiny_patch16_22"}, "arch", "did you mean 'vit_tiny_patch16_224'"),
        ({"arch": {"patch_size": 2}}, "arch", "a name or a mapping with a name"),
        ({"arch": {"name": "mlp", "img_size": 8}}, "arch", "img_size cannot be given"),
        ({"arch": {"name": "mlp", "pretrained": True}}, "arch", "trained from scratch"),
        ({"intervention": "noise"}, "intervention", "unknown intervention 'noise'"),
        ({"intervention": "noise_augmentation"}, "strength", "needs a strength: standard dev"),
        ({"strength": 0.1}, "strength", "'none': takes no strength"),
        (
            {"intervention": "sensitivity_penalty", "strength": 1.5},
            "strength",
            "less than or equal to 1",
        ),
        (
            {"intervention": {"name": "sensitivity_penalty", "pach": 2}},
            "intervention",
            "did you mean 'patch'",
        ),
        (
            {"intervention": {"name": "sensitivity_penalty", "strength": 0.2}},
            "intervention",
            "give strength beside",
        ),
        ({"epochs": 2, "warmup_epochs": 3}, "warmup_epochs", "more than epochs=2"),
        ({"lr": 0}, "lr", "greater than 0"),
        ({"lrate": 1}, "lrate", "not permitted"),
    ],
)
def test_a_wrong_param_gets_one_line_at_its_name(change, where, message):
    with pytest.raises(ValidationError) as caught:
        TrainParams(**{**GOOD, **change})
    (error,) = caught.value.errors()
    assert error["loc"] == (where,)
    assert message in error["msg"]
    assert "\n" not in error["msg"]


def test_strength_reaches_the_intervention_or_its_default_holds():
    given = TrainParams(**GOOD, intervention="sensitivity_penalty", strength=0.25)
    assert given.intervention_spec().strength == 0.25
    options = {"name": "sensitivity_penalty", "patch": 2}
    assert TrainParams(**GOOD, intervention=options).intervention_spec().strength == 0.5


def test_every_param_is_described():
    for model in (TrainParams, *INTERVENTIONS.values()):
        assert all(field.description for field in model.model_fields.values()), model
