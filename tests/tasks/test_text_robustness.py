"""Corruptions of texts do what their names say, at the rates of their severities."""

from __future__ import annotations

from collections import Counter
from difflib import SequenceMatcher
from random import Random

import pytest
from pydantic import ValidationError

from sensweep.tasks.api import Checkpoint, Context
from sensweep.tasks.params.text_robustness import TextRobustnessParams
from sensweep.tasks.text_corruptions import RATES, corrupt_text
from sensweep.tasks.text_robustness import text_robustness
from sensweep.tasks.train_tokens import train_tokens

TEXT = " ".join(f"w{i:03d}abc" for i in range(400))
TYPES = TextRobustnessParams().corruptions


def corrupted(corruption: str, severity: int, seed: int = 0, text: str = TEXT) -> list[str]:
    (changed,) = corrupt_text((text,), corruption, severity, Random(seed), ["new"])
    return changed.split()


@pytest.mark.parametrize("severity", RATES)
def test_words_are_hit_at_the_rate_of_the_severity(severity):
    before, expected = TEXT.split(), RATES[severity] * 400
    tolerance = 4 * (expected * (1 - RATES[severity])) ** 0.5
    deleted = corrupted("word_deletion", severity)
    assert 400 - len(deleted) == pytest.approx(expected, abs=tolerance)
    assert deleted == [word for word in before if word in set(deleted)]  # in their order
    repeated = corrupted("word_repetition", severity)
    assert len(repeated) - 400 == pytest.approx(expected, abs=tolerance)
    assert list(dict.fromkeys(repeated)) == before
    assert corrupted("word_replacement", severity).count("new") == pytest.approx(
        expected, abs=tolerance
    )
    swapped = corrupted("word_swap", severity)
    assert Counter(swapped) == Counter(before)
    moved = [i for i in range(400) if swapped[i] != before[i]]
    pairs = moved[::2]
    assert [swapped[i : i + 2] for i in pairs] == [before[i : i + 2][::-1] for i in pairs]
    for kind in ("character_deletion", "character_insertion"):
        changed = corrupted(kind, severity)
        hit = [(a, b) for a, b in zip(before, changed, strict=True) if a != b]
        assert len(hit) == pytest.approx(expected, abs=tolerance)
        step = -1 if kind == "character_deletion" else 1
        assert all(len(b) == len(a) + step for a, b in hit)


def test_characters_change_one_at_a_time():
    for kind in (k for k in TYPES if k.startswith("character_")):
        for before, after in zip(TEXT.split(), corrupted(kind, 5), strict=True):
            if kind == "character_swap":
                assert Counter(after) == Counter(before)
                assert sum(a != b for a, b in zip(before, after, strict=True)) in (0, 2)
            else:
                kept = SequenceMatcher(None, before, after, autojunk=False)
                assert sum(block.size for block in kept.get_matching_blocks()) >= 6


@pytest.mark.parametrize("corruption", TYPES)
def test_corruption_depends_on_the_seed_alone_and_never_empties_a_text(corruption):
    assert corrupted(corruption, 3) == corrupted(corruption, 3)
    assert corrupted(corruption, 3) != corrupted(corruption, 3, seed=1)
    for seed in range(20):
        assert len(corrupted(corruption, 5, seed, "a")) >= 1
        assert corrupt_text(("", "b"), corruption, 5, Random(seed), ["x"])[0] == ""


def test_task_measures_clean_and_corrupted_texts(tmp_path, unchanged):
    arch = {"name": "lstm", "layers": 1, "width": 16}
    params = {"dataset": "roles", "train_size": 64, "max_length": 24, "arch": arch, "epochs": 1}
    for _ in train_tokens(params, Context(folder=tmp_path)):
        pass
    parents = {"train": Checkpoint("train", 1, tmp_path / "step-000001.pt")}
    asked = {"texts": 40, "severities": [1, 5], "corruptions": ["word_swap", "character_swap"]}
    with unchanged():
        rows = list(text_robustness(asked, Context(parents=parents)))
    assert [(row.name, *row.coordinates.values()) for row in rows] == [
        ("accuracy", "none", 0),
        ("accuracy", "word_swap", 1),
        ("accuracy", "word_swap", 5),
        ("accuracy", "character_swap", 1),
        ("accuracy", "character_swap", 5),
        ("corruption_accuracy",),
    ]
    assert rows[-1].value == pytest.approx(sum(row.value for row in rows[1:5]) / 4)
    # A corruption meets the same draws alone and in company.
    alone = list(
        text_robustness({**asked, "corruptions": ["character_swap"]}, Context(parents=parents))
    )
    assert alone[1:3] == rows[3:5]
    with pytest.raises(ValidationError):
        TextRobustnessParams(corruptions=["typos"])
