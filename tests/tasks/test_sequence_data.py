"""Sequence data: what their definitions say holds, splits are fixed, bad input is one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from pydantic import ValidationError

from sensweep.tasks.api import TaskError
from sensweep.tasks.catalog import dataset_digest
from sensweep.tasks.generated_sequences import ANIMALS, PERSONS, cues, modular_addition, roles
from sensweep.tasks.params.sequences import Cues, ModularAddition, generated
from sensweep.tasks.params.train_tokens import TrainTokensParams
from sensweep.tasks.sequence_data import load_sequences, trimmed
from sensweep.tasks.text_data import pretrained_encoding, read_texts, word_encoding

MRPC = Path("/work/shared/data/mrpc")


def parquet(path: Path, **columns: list) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


def test_roles_need_the_order_of_the_words():
    texts, labels = roles()["train"]
    by_words: dict[frozenset, set] = {}
    first_is_agent = []
    for (text,), label in zip(texts, labels, strict=True):
        words = text.split()
        person = next(i for i, w in enumerate(words) if w in PERSONS)
        animal = next(i for i, w in enumerate(words) if w in ANIMALS)
        agent_first = "was" not in words
        assert label == ((person < animal) == agent_first)
        first_is_agent.append(agent_first)
        content = frozenset(w for w in words if w in (*PERSONS, *ANIMALS, "was"))
        by_words.setdefault(content, set()).add(int(label))
    # The same nouns and voice occur with both classes, and each voice and class are even.
    assert sum(len(found) == 2 for found in by_words.values()) > 0.9 * len(by_words)
    assert np.mean(first_is_agent) == pytest.approx(0.5, abs=0.05)
    assert labels.mean() == pytest.approx(0.5, abs=0.05)
    everything = [text for part, _ in roles().values() for text in part]
    assert len(set(everything)) == len(everything) == 3400


def sides(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the sparse token and the majority of the frequent tokens vote for, counted by hand."""
    sparse, frequent = [], []
    for row in x.tolist():
        (token,) = [t for t in row if t in (1, 2)]
        sparse.append(token - 1)
        ones = sum(7 <= t <= 10 for t in row)
        frequent.append(int(ones > sum(3 <= t <= 6 for t in row)))
    return np.array(sparse), np.array(frequent)


def test_cues_are_as_reliable_as_asked_in_training_and_opposed_in_the_test():
    options = Cues(sparse_reliability=0.9, frequent_reliability=0.75, examples=4000)
    made = cues(options)
    sparse, frequent = sides(made.x["train"])
    assert (sparse == made.y["train"]).mean() == pytest.approx(0.9, abs=0.02)
    assert (frequent == made.y["train"]).mean() == pytest.approx(0.75, abs=0.03)
    sparse, frequent = sides(made.x["test"])
    assert (frequent == made.y["test"]).all()
    assert (sparse != made.y["test"]).all()
    certain = cues(Cues())
    for split in ("train", "validation"):
        sparse, frequent = sides(certain.x[split])
        assert (sparse == certain.y[split]).all()
        assert (frequent == certain.y[split]).all()
    assert ((certain.x["train"] >= 1) & (certain.x["train"] < certain.vocabulary)).all()
    places = [row.index(next(t for t in row if t < 3)) for row in certain.x["train"].tolist()]
    assert set(places) == set(range(20))  # the sparse token may stand anywhere


def test_modular_addition_has_every_pair_once_and_the_right_sums():
    made = modular_addition(ModularAddition(modulus=13, train_fraction=0.4))
    x = np.concatenate([made.x[split] for split in ("train", "validation", "test")])
    y = np.concatenate([made.y[split] for split in ("train", "validation", "test")])
    assert len({tuple(row) for row in x[:, :2].tolist()}) == len(x) == 169
    assert (y == (x[:, 0] - 2 + x[:, 1] - 2) % 13).all()
    assert (x[:, 2] == 1).all()
    assert len(made.y["train"]) == round(0.4 * 169)
    assert x.max() == 14 == made.vocabulary - 1


def test_word_tokenizer_is_of_the_train_split_alone():
    texts = [("The cat sat.",), ("the dog", "A cat!")]
    encoding = word_encoding(texts, size=100, max_length=8)
    vocabulary = 4 + len({"the", "cat", "sat", ".", "dog", "a", "!"})
    assert len(encoding.special) == vocabulary
    assert encoding.special.nonzero().squeeze(1).tolist() == [0, 1, 2, 3]
    single, pair = encoding.encode([("THE cat",), ("zebra", "dog")])
    the, cat = single[1:3].tolist()
    assert single.tolist() == [2, the, cat, 3, 0]
    assert pair.tolist()[:3] == [2, 1, 3]  # an unknown word
    assert pair.tolist()[4] == 3
    assert encoding.encode([("the " * 20,)]).shape == (1, 8)
    # Ties in frequency do not make the numbering depend on chance.
    again = word_encoding(texts, size=100, max_length=8)
    assert torch.equal(again.encode(texts), encoding.encode(texts))


def test_parquet_by_path_is_split_for_good_and_hidden_labels_are_not_used(tmp_path):
    texts = [f"text number {i}" for i in range(60)]
    parquet(tmp_path / "train.parquet", sentence=texts, label=[i % 2 for i in range(60)])
    parquet(tmp_path / "test.parquet", sentence=["hidden"], label=[-1])
    parts = read_texts(str(tmp_path))
    assert {split: len(part.y) for split, part in parts.items()} == {
        "train": 40,
        "validation": 10,
        "test": 10,
    }
    together = [text for part in parts.values() for (text,) in part.texts]
    assert sorted(together) == sorted(texts)
    assert read_texts(str(tmp_path))["train"].texts == parts["train"].texts
    data = load_sequences(str(tmp_path), {}, max_length=16)
    row = data.texts["train"][0]
    assert torch.equal(trimmed(data.encoding.encode([row]), 0)[0], trimmed(data.train.x[:1], 0)[0])


def test_a_dataset_is_loaded_once_per_content_and_encoding(tmp_path):
    cache: dict[str, object] = {}
    one = load_sequences("roles", cache, max_length=24)
    assert load_sequences("roles", cache, max_length=24) is one
    assert load_sequences("roles", cache, max_length=12) is not one
    assert one.facts == {"num_classes": 2, "vocabulary": 78, "length": 24, "pad": 0}


@pytest.mark.skipif(not MRPC.is_dir(), reason=f"no MRPC under {MRPC}")
def test_mrpc_by_path():
    data = load_sequences(str(MRPC), {}, max_length=128)
    assert len(data.test.y) == 1725
    assert len(data.train.y) + len(data.validation.y) == 4076
    assert data.num_classes == 2
    assert all(len(text) == 2 for text in data.texts["train"])
    # [CLS], first sentence, [SEP], second sentence, [SEP].
    assert ((data.train.x == 3).sum(1) == 2).all()


def test_glue_without_a_network_is_one_clear_line(monkeypatch):
    import datasets

    def unreachable(*args, **kwargs):
        assert args == ("nyu-mll/glue", "qqp")
        raise ConnectionError("no route to host\nand much more")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(TaskError, match=r"'glue/qqp': not in the cache .*no route to host") as it:
        read_texts("glue/qqp")
    assert "\n" not in str(it.value)
    assert dataset_digest("glue/qqp") != dataset_digest("glue/mrpc")


def test_an_unknown_tokenizer_is_one_clear_line(tmp_path):
    with pytest.raises(TaskError, match="give the name of one on the Hub, a folder, or 'words'"):
        pretrained_encoding(str(tmp_path), max_length=8)


def test_a_pretrained_tokenizer_from_a_folder(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["<pad>", "<s>", "</s>", "<unk>", "a", "b"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    named = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **named}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    encoding = pretrained_encoding(str(tmp_path), max_length=4)
    assert encoding.encode([("a",), ("b a b a b",)]).tolist() == [[1, 4, 2, 0], [1, 5, 4, 2]]
    assert encoding.pad == 0
    assert encoding.special.tolist() == [True] * 4 + [False] * 2


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"body": ["a"], "label": [0]}, "no text column; wanted sentence1 and sentence2"),
        ({"text": ["a"], "stars": [0]}, "no label column; wanted one of label"),
        ({"text": ["a"], "label": ["x"]}, "holds other than integers"),
        ({"text": [1], "label": [0]}, "'text' of the train split holds other than text"),
        ({"text": ["a"], "label": [-1]}, "train split has negative labels"),
        ({"text": ["a", "b"], "label": [0, 1]}, "2 texts cannot be split in three"),
    ],
)
def test_unsuitable_parquet_gets_one_line(tmp_path, columns, message):
    parquet(tmp_path / "train.parquet", **columns)
    with pytest.raises(TaskError, match=message):
        read_texts(str(tmp_path))


def test_bad_options_of_generated_data_name_the_field():
    for given, message in (
        ({"name": "cue"}, "did you mean 'cues'"),
        ({"name": "cues", "reliability": 1}, "unknown option 'reliability'"),
        ({"name": "cues", "sparse_reliability": 0.2}, "sparse_reliability=0.2"),
        ({"name": "cues", "frequent": 8}, "give an odd number below the length"),
        ({"name": "roles", "size": 3}, "takes no size"),
        ({"size": 3}, "a mapping with a name"),
    ):
        with pytest.raises(ValueError, match=message):
            generated(given)
    with pytest.raises(TaskError, match="its validation split is empty"):
        load_sequences({"name": "modular_addition", "modulus": 2, "train_fraction": 0.9}, {})


GOOD = {"dataset": "roles", "arch": "lstm"}


@pytest.mark.parametrize(
    ("change", "where", "message"),
    [
        ({"dataset": "role"}, "dataset", "did you mean 'roles'"),
        ({"dataset": {"name": "cues", "frequent": 4}}, "dataset", "an odd number"),
        ({"arch": "lstmm"}, "arch", "did you mean 'lstm'"),
        ({"arch": {"layers": 2}}, "arch", "a mapping with a name"),
        ({"intervention": "penalty"}, "intervention", "unknown intervention 'penalty'"),
        ({"intervention": "noise_augmentation"}, "strength", "Field required"),
        ({"strength": 0.1}, "strength", "takes no strength"),
        (
            {"intervention": {"name": "sensitivity_penalty", "nois": 2}},
            "intervention",
            "did you mean 'noise'",
        ),
        ({"intervention": "sensitivity_penalty", "strength": 2}, "strength", "less than or equal"),
    ],
)
def test_a_wrong_param_gets_one_line_at_its_name(change, where, message):
    with pytest.raises(ValidationError) as caught:
        TrainTokensParams(**{**GOOD, **change})
    (error,) = caught.value.errors()
    assert error["loc"][0] == where
    assert message in error["msg"]
    assert "\n" not in error["msg"]


def test_defaults_of_generated_data_are_filled_in_and_other_names_of_params_are_taken():
    short = TrainTokensParams(sequences={"name": "cues"}, network="one_attention")
    long = TrainTokensParams(
        dataset={"name": "cues", "sparse_reliability": 1.0}, arch="one_attention"
    )
    assert short == long
    assert short.model_dump()["dataset"]["agreement"] == 0.8
    assert TrainTokensParams.model_validate(short.model_dump()) == short


def test_every_param_is_described():
    from sensweep.tasks.params.sequence_interventions import SEQUENCE_INTERVENTIONS
    from sensweep.tasks.params.sequences import GENERATED
    from sensweep.tasks.params.text_robustness import TextRobustnessParams
    from sensweep.tasks.params.token_sensitivity import (
        TokenSensitivityParams,
        WordSensitivityParams,
    )

    for model in (
        TrainTokensParams,
        TokenSensitivityParams,
        WordSensitivityParams,
        TextRobustnessParams,
        *SEQUENCE_INTERVENTIONS.values(),
        *GENERATED.values(),
    ):
        assert all(field.description for field in model.model_fields.values()), model


def test_params_need_no_torch():
    names = ("train_tokens", "token_sensitivity", "text_robustness")
    code = ";".join(f"import sensweep.tasks.params.{name}" for name in names)
    code += ";import sys; assert not {'torch', 'numpy', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
