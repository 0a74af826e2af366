"""Labelled texts, single or in pairs, from Parquet files, GLUE, or generated; and tokenizers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sensweep.tasks.api import TaskError
from sensweep.tasks.datasets import SPLITS, parquet_files
from sensweep.tasks.generated_sequences import roles
from sensweep.tasks.sequence_datasets import GLUE, GLUE_COMMIT

# The columns that hold the text, in the order of preference, as the Hub's datasets name them.
TEXT_COLUMNS = (
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
    ("question", "passage"),
    ("text1", "text2"),
    ("sentence",),
    ("text",),
)
LABEL_COLUMNS = ("label", "labels", "answer")
# Without a test or validation split of its own, a dataset gives a sixth of its texts for each,
# but no more than these, as image datasets do.
MOST_TEST, MOST_VALIDATION = 10_000, 5_000
PAD, UNKNOWN, START, SEPARATOR = "[PAD]", "[UNK]", "[CLS]", "[SEP]"

Text = tuple[str, ...]


class Texts(NamedTuple):
    """The texts of one split: one or two strings each, and their labels (int64 [N])."""

    texts: list[Text]
    y: np.ndarray


class Encoding(NamedTuple):
    """How texts become token ids.

    Attributes:
        encode: texts -> int64 [N, T], padded on the right to the longest, cut to `max_length`.
        pad: the id of padding.
        special: bool [vocabulary], marks ids that are no words: padding, start, separator.
    """

    encode: Callable[[Sequence[Text]], Tensor]
    pad: int
    special: Tensor


def read_texts(name: str) -> dict[str, Texts]:
    """Read a dataset of labelled texts in three splits, which are fixed for good.

    A split whose labels are hidden (-1, as in GLUE's test splits) is not used; what is missing
    is taken from the train split: a sixth each, at most 10,000 texts for test and 5,000 for
    validation. The train split's order is random but fixed.

    Args:
        name: a name from `sensweep.tasks.sequence_datasets`, or a path to Parquet files.

    Raises:
        TaskError: unknown, unreadable or unsuitable data, or no network; one line.
    """
    if name == "roles":
        return {split: Texts(*part) for split, part in roles().items()}
    tables = _download(name) if name in GLUE else _read_parquet(name)
    given = {split: _texts(table, split, name) for split, table in tables.items()}
    labelled = {split: part for split, part in given.items() if not (part.y < 0).any()}
    if "train" not in labelled:
        raise TaskError(f"dataset {name!r}: the train split has negative labels")
    return _split(labelled, name)


def _split(given: dict[str, Texts], name: str) -> dict[str, Texts]:
    train = given["train"]
    order = np.random.RandomState(0).permutation(len(train.y))
    start, splits = 0, {}
    for split, most in (("test", MOST_TEST), ("validation", MOST_VALIDATION)):
        if split in given:
            splits[split] = given[split]
            continue
        size = min(most, len(order) // 6)
        splits[split] = _taken(train, order[start : start + size])
        start += size
    splits["train"] = _taken(train, order[start:])
    classes = int(splits["train"].y.max(initial=0)) + 1
    for split, part in splits.items():
        if len(part.y) == 0:
            raise TaskError(f"dataset {name!r}: {len(order)} texts cannot be split in three")
        if part.y.max() >= classes:
            raise TaskError(
                f"dataset {name!r}: a {split} label is {part.y.max()}; the train split has "
                f"classes 0 to {classes - 1}"
            )
    return {split: splits[split] for split in SPLITS}


def _taken(part: Texts, rows: np.ndarray) -> Texts:
    return Texts([part.texts[row] for row in rows], part.y[rows])


def _read_parquet(name: str) -> dict[str, dict[str, Sequence[Any]]]:
    import pandas

    tables: dict[str, dict[str, Sequence[Any]]] = {}
    for split, files in parquet_files(name).items():
        try:
            read = pandas.concat([pandas.read_parquet(file) for file in files])
        except Exception as error:
            raise TaskError(
                f"dataset {name!r}: unreadable: {str(error).splitlines()[0]}"
            ) from error
        tables[split] = {str(column): read[column].tolist() for column in read}
    return tables


def _download(name: str) -> dict[str, dict[str, Sequence[Any]]]:
    """Read a GLUE task from the cache of the `datasets` library, or from the Hub."""
    from datasets import load_dataset

    task = name.partition("/")[2]
    try:
        loaded = load_dataset("nyu-mll/glue", task, revision=GLUE_COMMIT)
    except Exception as error:  # whatever the library and its network layers raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TaskError(
            f"dataset {name!r}: not in the cache of the `datasets` library and not downloadable "
            f"here ({reason}); give the path of a folder with its train and test .parquet files"
        ) from error
    return {split: loaded[split].to_dict() for split in SPLITS if split in loaded}


def _texts(table: dict[str, Sequence[Any]], split: str, name: str) -> Texts:
    found = ", ".join(table)
    columns = next((c for c in TEXT_COLUMNS if table.keys() >= set(c)), None)
    if columns is None:
        wanted = "; ".join(" and ".join(c) for c in TEXT_COLUMNS)
        raise TaskError(f"dataset {name!r}: no text column; wanted {wanted}; found {found}")
    label = next((c for c in LABEL_COLUMNS if c in table), None)
    if label is None:
        raise TaskError(
            f"dataset {name!r}: no label column; wanted one of {', '.join(LABEL_COLUMNS)}; "
            f"found {found}"
        )
    if not all(isinstance(value, int) for value in table[label]):
        raise TaskError(
            f"dataset {name!r}: column {label!r} of the {split} split holds other than integers"
        )
    for column in columns:
        if not all(isinstance(value, str) for value in table[column]):
            raise TaskError(
                f"dataset {name!r}: column {column!r} of the {split} split holds other than text"
            )
    texts = list(zip(*(table[column] for column in columns), strict=True))
    return Texts(texts, np.array(table[label], dtype=np.int64))


def word_encoding(texts: Sequence[Text], *, size: int, max_length: int) -> Encoding:
    """Make the word-level tokenizer of a train split: lower case, punctuation marks are words.

    A text becomes ``[CLS] words [SEP]``, a pair ``[CLS] words [SEP] words [SEP]``. Words that
    are not among the `size` most frequent (ties in alphabetical order) become ``[UNK]``.

    Args:
        texts: the texts whose words make the vocabulary.
        size: most ids, specials included.
        max_length: longest encoding; a pair's longer text is cut first.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    specials = [PAD, UNKNOWN, START, SEPARATOR]
    trainer = trainers.WordLevelTrainer(
        vocab_size=size, special_tokens=specials, show_progress=False
    )
    tokenizer.train_from_iterator((part for text in texts for part in text), trainer)
    ids = {token: number for number, token in enumerate(specials)}  # the trainer's numbering
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {SEPARATOR}",
        pair=f"{START} $A {SEPARATOR} $B {SEPARATOR}",
        special_tokens=list(ids.items()),
    )
    tokenizer.enable_truncation(max_length)
    tokenizer.enable_padding(pad_id=ids[PAD], pad_token=PAD)

    def encode(texts: Sequence[Text]) -> Tensor:
        given = [text if len(text) > 1 else text[0] for text in texts]
        return torch.tensor([one.ids for one in tokenizer.encode_batch(given)])

    special = torch.zeros(tokenizer.get_vocab_size(), dtype=torch.bool)
    special[list(ids.values())] = True
    return Encoding(encode, int(ids[PAD]), special)


def pretrained_encoding(name: str, *, max_length: int) -> Encoding:
    """Load a tokenizer by the name that the Hub has for it, or from a folder.

    Raises:
        TaskError: it is not there, or it has no token for padding.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except Exception as error:  # whatever the library and its network layers raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TaskError(
            f"tokenizer {name!r}: {reason}; give the name of one on the Hub, a folder, or 'words'"
        ) from error
    tokenizer.padding_side = "right"
    if tokenizer.pad_token_id is None:  # GPT-2 has none of its own
        tokenizer.add_special_tokens({"pad_token": PAD})

    def encode(texts: Sequence[Text]) -> Tensor:
        parts = [list(part) for part in zip(*texts, strict=True)]
        return tokenizer(
            *parts, truncation=True, max_length=max_length, padding=True, return_tensors="pt"
        )["input_ids"]

    special = torch.zeros(len(tokenizer), dtype=torch.bool)
    special[tokenizer.all_special_ids] = True
    return Encoding(encode, int(tokenizer.pad_token_id), special)
