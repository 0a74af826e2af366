"""Datasets of token sequences as resident tensors, in three splits that are fixed for good."""

from __future__ import annotations

import json
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sensweep.tasks import generated_sequences
from sensweep.tasks.api import TaskError
from sensweep.tasks.datasets import SPLITS
from sensweep.tasks.generated_sequences import TokenSplits
from sensweep.tasks.params.sequences import Cues, ModularAddition, generated
from sensweep.tasks.sequence_datasets import dataset_digest
from sensweep.tasks.text_data import (
    Encoding,
    Text,
    pretrained_encoding,
    read_texts,
    word_encoding,
)


class SequenceSplit(NamedTuple):
    """Token ids int64 [N, T], padded on the right, and labels int64 [N], of one split."""

    x: Tensor
    y: Tensor


@dataclass(frozen=True, slots=True)
class Sequences:
    """A dataset of sequences on one device. Shared by trials: treat all as read-only.

    Attributes:
        train: what models are trained on; its order is random but fixed.
        validation: what searches and early stopping may look at.
        test: what only the final numbers look at.
        num_classes: number of classes.
        length: most tokens that a sequence can have.
        pad: the id of padding, which no sequence holds before its end.
        special: bool [vocabulary], marks the ids that are no words.
        texts: split -> the texts behind its rows; None where there are none.
        encoding: how texts become ids; None where there are no texts.
    """

    train: SequenceSplit
    validation: SequenceSplit
    test: SequenceSplit
    num_classes: int
    length: int
    pad: int
    special: Tensor
    texts: Mapping[str, Sequence[Text]] | None = None
    encoding: Encoding | None = None

    @property
    def facts(self) -> dict[str, int]:
        """What a model must be told: num_classes, vocabulary, length, pad."""
        return {
            "num_classes": self.num_classes,
            "vocabulary": len(self.special),
            "length": self.length,
            "pad": self.pad,
        }


def load_sequences(
    dataset: str | Mapping[str, Any],
    cache: MutableMapping[str, object],
    device: str = "cpu",
    *,
    tokenizer: str = "words",
    vocabulary: int = 30_000,
    max_length: int = 128,
) -> Sequences:
    """Load a dataset of sequences onto a device, once per content and device.

    Args:
        dataset: a mapping of generated data (`params.sequences`), a name from
            `sensweep.tasks.sequence_datasets`, or a path to Parquet files with one or two text
            columns and an integer label column.
        cache: `Context.cache`.
        device: a torch device string.
        tokenizer: ``words`` (made from the train split), or a pretrained one's name or folder.
            This and what follows is for texts alone.
        vocabulary: most words of the tokenizer ``words``.
        max_length: tokens to which longer texts are cut.

    Raises:
        TaskError: unknown, unreadable or unsuitable data, or no network; one line.
    """
    named = isinstance(dataset, str)
    identity = dataset_digest(dataset) if isinstance(dataset, str) else json.dumps(dict(dataset))
    key = f"sequences/{identity}/{device}" + (
        f"/{tokenizer}/{vocabulary}/{max_length}" if named else ""
    )
    cached = cache.get(key)
    if isinstance(cached, Sequences):
        return cached
    if isinstance(dataset, str):
        loaded = _encoded(dataset, tokenizer, vocabulary, max_length, device)
    else:
        loaded = _made(dataset, device)
    cache[key] = loaded
    return loaded


def _encoded(name: str, tokenizer: str, size: int, max_length: int, device: str) -> Sequences:
    parts = read_texts(name)
    if tokenizer == "words":
        encoding = word_encoding(parts["train"].texts, size=size, max_length=max_length)
    else:
        encoding = pretrained_encoding(tokenizer, max_length=max_length)
    splits = {
        split: SequenceSplit(
            encoding.encode(part.texts).to(device), torch.from_numpy(part.y).to(device)
        )
        for split, part in parts.items()
    }
    return Sequences(
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        num_classes=int(parts["train"].y.max()) + 1,
        length=max_length,
        pad=encoding.pad,
        special=encoding.special.to(device),
        texts={split: part.texts for split, part in parts.items()},
        encoding=encoding,
    )


def _made(dataset: Mapping[str, Any], device: str) -> Sequences:
    try:
        options = generated(dataset)
    except ValueError as error:
        raise TaskError(f"dataset: {error}") from None
    made: TokenSplits
    if isinstance(options, Cues):
        made, num_classes = generated_sequences.cues(options), 2
    elif isinstance(options, ModularAddition):
        made, num_classes = generated_sequences.modular_addition(options), options.modulus
    else:
        raise TaskError(f"dataset {options.name!r} has no options: give its name alone")
    for split in SPLITS:
        if len(made.y[split]) == 0:
            raise TaskError(
                f"dataset {dict(dataset)!r}: its {split} split is empty; make it larger"
            )
    splits = {
        split: SequenceSplit(
            torch.from_numpy(made.x[split]).to(device), torch.from_numpy(made.y[split]).to(device)
        )
        for split in SPLITS
    }
    return Sequences(
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        num_classes=num_classes,
        length=made.x["train"].shape[1],
        pad=generated_sequences.PAD,
        special=(torch.arange(made.vocabulary) < made.specials).to(device),
    )


def trimmed(tokens: Tensor, pad: int) -> Tensor:
    """Cut the trailing columns of [N, T] that hold nothing but padding."""
    used = (tokens != pad).any(0).nonzero()
    return tokens[:, : int(used.max()) + 1] if len(used) else tokens[:, :1]
