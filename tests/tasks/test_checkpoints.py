"""A checkpoint alone rebuilds its model; nothing in it is executed."""

import pickle

import pytest
import torch

from sensweep.tasks import checkpoints
from sensweep.tasks.api import Checkpoint, Context, TaskError
from sensweep.tasks.data import load
from sensweep.tasks.subject import load_model
from sensweep.tasks.train import evaluate, train

PARAMS = {
    "dataset": "digits",
    "arch": {"name": "resnet18", "layers": [1, 1, 1, 1], "channels": [4, 4, 8, 8]},
    "train_size": 256,
    "epochs": 1,
    "lr": 0.01,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    rows = {row.name: row.value for row in train(PARAMS, Context(seed=3, folder=folder))}
    return Checkpoint("train", 1, folder / "step-000001.pt"), rows


def test_the_rebuilt_model_is_the_trained_one(trained):
    checkpoint, rows = trained
    model, config = load_model(checkpoint)
    assert not any(module.training for module in model.modules())
    # BatchNorm's statistics and the normalisation came along: the same loss to the last bit.
    loss, accuracy = evaluate(model, load("digits", {}).test)
    assert (loss, accuracy) == (rows["test_loss"], rows["test_accuracy"])
    assert {key: config[key] for key in ("dataset", "arch", "num_classes", "in_chans")} == {
        "dataset": "digits",
        "arch": PARAMS["arch"],
        "num_classes": 10,
        "in_chans": 1,
    }
    assert (config["img_size"], config["train_size"], config["epoch"]) == (8, 256, 1)
    assert config["params"]["lr"] == 0.01
    assert "model" not in config
    assert "optimizer" not in config


def test_loading_leaves_the_global_generator_alone(trained, unchanged):
    with unchanged():
        load_model(trained[0])


def test_a_damaged_file_gets_one_line(trained, tmp_path):
    content = trained[0].path.read_bytes()
    for bad in (b"", content[: len(content) // 2], b"no checkpoint"):
        path = tmp_path / "bad.pt"
        path.write_bytes(bad)
        with pytest.raises(TaskError, match=r"bad\.pt.*unreadable") as caught:
            checkpoints.load(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(TaskError, match="unreadable"):
        checkpoints.load(tmp_path / "missing.pt")


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_code_in_a_checkpoint_is_not_executed(tmp_path):
    for write in (torch.save, lambda it, path: path.write_bytes(pickle.dumps(it))):
        write(Hostile(str(tmp_path / "made")), tmp_path / "bad.pt")
        with pytest.raises(TaskError, match="unreadable"):
            checkpoints.load(tmp_path / "bad.pt")
        assert not (tmp_path / "made").exists()


def test_weights_of_another_architecture_are_refused(trained, tmp_path):
    state = checkpoints.load(trained[0].path)
    checkpoints.save(tmp_path / "other.pt", {**state, "arch": "mlp"})
    with pytest.raises(TaskError, match="does not fit arch 'mlp'") as caught:
        load_model(Checkpoint("train", 1, tmp_path / "other.pt"))
    assert "\n" not in str(caught.value)
