"""Sequence data made by rule: who acts in a sentence, two opposed cues, modular addition.

All draws come from numpy's `RandomState(0)`, whose stream is frozen for good: the data depend on
their options alone, never on a trial's seed.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sensweep.tasks.params.sequences import Cues, ModularAddition

# Sentences of the splits of `roles`.
ROLES_SIZES = {"train": 2000, "validation": 400, "test": 1000}
PERSONS = [
    "baker",
    "doctor",
    "farmer",
    "girl",
    "king",
    "nurse",
    "pilot",
    "sailor",
    "soldier",
    "teacher",
]
ANIMALS = [
    "bear",
    "cat",
    "dog",
    "donkey",
    "fox",
    "goat",
    "horse",
    "monkey",
    "wolf",
    "parrot",
]
VERBS = [
    "chased",
    "watched",
    "followed",
    "pushed",
    "helped",
    "found",
    "heard",
    "carried",
    "called",
    "washed",
]
ADJECTIVES = [
    "old",
    "young",
    "tall",
    "small",
    "quiet",
    "angry",
    "happy",
    "tired",
    "clever",
    "hungry",
]
OPENERS = ["yesterday", "last night", "early that morning", "once", "after the rain"]
PLACES = ["near the river", "in the garden", "behind the house", "on the road", "under a tree"]
CLOSERS = ["for a while", "again", "without a sound", "and nobody saw it", "before dinner"]
# Specials have the lowest ids: padding everywhere, "=" in sums.
PAD, EQUALS = 0, 1


class TokenSplits(NamedTuple):
    """Token ids and labels by split, and what the ids are.

    Attributes:
        x: split -> int64 [N, T].
        y: split -> int64 [N].
        vocabulary: number of ids.
        specials: ids below this are no words (padding, the sign "=").
    """

    x: dict[str, np.ndarray]
    y: dict[str, np.ndarray]
    vocabulary: int
    specials: int


def roles() -> dict[str, tuple[list[tuple[str, ...]], np.ndarray]]:
    """Make the sentences of `params.sequences.Roles`: split -> (1-tuples of text, labels [N]).

    Label 1: the person acts. No sentence occurs twice, within or across the splits.
    """
    random = np.random.RandomState(0)

    def one_of(choices: list[str]) -> str:
        return choices[random.randint(len(choices))]

    def noun(word: str) -> str:
        return f"the {one_of(ADJECTIVES)} {word}" if random.rand() < 0.5 else f"the {word}"

    made: dict[str, int] = {}
    while len(made) < sum(ROLES_SIZES.values()):
        label, passive = random.randint(2), random.randint(2)
        person, animal = noun(one_of(PERSONS)), noun(one_of(ANIMALS))
        agent, patient = (person, animal) if label else (animal, person)
        verb = one_of(VERBS)
        clause = f"{patient} was {verb} by {agent}" if passive else f"{agent} {verb} {patient}"
        parts = [
            one_of(phrases) if random.rand() < 0.5 else "" for phrases in (OPENERS, PLACES, CLOSERS)
        ]
        sentence = " ".join(filter(None, (parts[0], clause, parts[1], parts[2])))
        made.setdefault(sentence, label)
    sentences, labels = list(made), np.array(list(made.values()), dtype=np.int64)
    splits: dict[str, tuple[list[tuple[str, ...]], np.ndarray]] = {}
    start = 0
    for split, size in ROLES_SIZES.items():
        part = slice(start, start + size)
        splits[split] = ([(text,) for text in sentences[part]], labels[part])
        start += size
    return splits


def cues(options: Cues) -> TokenSplits:
    """Make the sequences of `Cues`.

    Ids: 1 and 2 are the sparse tokens of the classes 0 and 1; 3 to 6 are the frequent tokens of
    class 0 and 7 to 10 those of class 1; 11 to 20 say nothing. A sequence has one sparse token,
    `frequent` frequent ones, of which most are of the side that they vote for, and fills up with
    tokens that say nothing, all in random order.
    """
    random = np.random.RandomState(0)
    held_out = max(1, options.examples // 6)
    sizes = {"train": options.examples, "validation": held_out, "test": held_out}
    x, y = {}, {}
    for split, size in sizes.items():
        label = random.randint(2, size=size)
        sparse, majority = label, label
        if split == "test":
            sparse = 1 - label
        else:
            sparse = np.where(random.rand(size) < options.sparse_reliability, label, 1 - label)
            agrees = random.rand(size) < options.frequent_reliability
            majority = np.where(agrees, label, 1 - label)
        for_majority = random.rand(size, options.frequent) < options.agreement
        # A draw in which the majority came out the other way is turned around.
        lost = for_majority.sum(1) * 2 < options.frequent
        for_majority[lost] = ~for_majority[lost]
        side = np.where(for_majority, majority[:, None], 1 - majority[:, None])
        frequent = 3 + 4 * side + random.randint(4, size=side.shape)
        rest = 11 + random.randint(10, size=(size, options.length - options.frequent - 1))
        tokens = np.concatenate([1 + sparse[:, None], frequent, rest], axis=1)
        order = random.rand(*tokens.shape).argsort(axis=1)
        x[split] = np.take_along_axis(tokens, order, axis=1).astype(np.int64)
        y[split] = label.astype(np.int64)
    return TokenSplits(x, y, vocabulary=21, specials=1)


def modular_addition(options: ModularAddition) -> TokenSplits:
    """Make all pairs of `ModularAddition` as "a b =".

    The number n has the id n + 2. Of the pairs that are not trained on, a fifth is the
    validation split and the rest the test split.
    """
    modulus = options.modulus
    a, b = (part.ravel() for part in np.mgrid[:modulus, :modulus])
    order = np.random.RandomState(0).permutation(len(a))
    trained = round(options.train_fraction * len(a))
    ends = {"train": trained, "validation": trained + (len(a) - trained) // 5, "test": len(a)}
    tokens = np.stack([a + 2, b + 2, np.full_like(a, EQUALS)], axis=1).astype(np.int64)
    sums = ((a + b) % modulus).astype(np.int64)
    x, y, start = {}, {}, 0
    for split, end in ends.items():
        x[split], y[split] = tokens[order[start:end]], sums[order[start:end]]
        start = end
    return TokenSplits(x, y, vocabulary=modulus + 2, specials=2)
