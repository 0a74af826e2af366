"""Words and characters of a text corrupted at random, by type and severity.

The types are the usual ones of synthetic noise for text (Belinkov and Bisk, ICLR 2018; Wei and
Zou, EMNLP 2019). What is drawn depends on the seed of the generator alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from string import ascii_lowercase

from sensweep.tasks.text_data import Text

# Probability that a word is hit, by severity.
RATES = {1: 0.05, 2: 0.1, 3: 0.2, 4: 0.3, 5: 0.5}


def corrupt_text(
    text: Text, corruption: str, severity: int, random: Random, words: Sequence[str]
) -> Text:
    """Corrupt each string of a text.

    Args:
        text: one string, or two; words are what stands between spaces.
        corruption: ``word_deletion``; ``word_swap`` (with the next word), ``word_repetition``,
            ``word_replacement`` (by any of `words`); or ``character_deletion``,
            ``character_swap`` (with the next one), ``character_insertion`` and
            ``character_replacement`` (of a lower-case letter), once within each word that is hit.
        severity: 1 to 5; each word is hit with the probability `RATES[severity]`.
        random: draws everything.
        words: the vocabulary.

    Returns:
        As many strings. A string is never emptied: its first word is kept if all were deleted.
    """
    corrupted = []
    for part in text:
        before = part.split()
        hit = [random.random() < RATES[severity] for _ in before]
        if corruption.startswith("word_"):
            after = _WORDS[corruption](before, hit, random, words)
        else:
            change = _CHARACTERS[corruption]
            after = [change(w, random) if h else w for w, h in zip(before, hit, strict=True)]
        corrupted.append(" ".join(after or before[:1]))
    return tuple(corrupted)


def _delete(before: list[str], hit: list[bool], random: Random, words: Sequence[str]) -> list[str]:
    return [word for word, gone in zip(before, hit, strict=True) if not gone]


def _swap(before: list[str], hit: list[bool], random: Random, words: Sequence[str]) -> list[str]:
    after, place = list(before), 0
    while place < len(after) - 1:
        if hit[place]:
            after[place], after[place + 1] = after[place + 1], after[place]
            place += 1  # a word that was swapped here is not carried further
        place += 1
    return after


def _repeat(before: list[str], hit: list[bool], random: Random, words: Sequence[str]) -> list[str]:
    return [copy for w, twice in zip(before, hit, strict=True) for copy in [w] * (1 + twice)]


def _replace(before: list[str], hit: list[bool], random: Random, words: Sequence[str]) -> list[str]:
    return [random.choice(words) if h else w for w, h in zip(before, hit, strict=True)]


def _delete_character(word: str, random: Random) -> str:
    place = random.randrange(len(word))
    return word[:place] + word[place + 1 :] if len(word) > 1 else word


def _swap_characters(word: str, random: Random) -> str:
    if len(word) < 2:
        return word
    place = random.randrange(len(word) - 1)
    return word[:place] + word[place + 1] + word[place] + word[place + 2 :]


def _insert_character(word: str, random: Random) -> str:
    place = random.randrange(len(word) + 1)
    return word[:place] + random.choice(ascii_lowercase) + word[place:]


def _replace_character(word: str, random: Random) -> str:
    place = random.randrange(len(word))
    return word[:place] + random.choice(ascii_lowercase) + word[place + 1 :]


_WORDS: dict[str, Callable[[list[str], list[bool], Random, Sequence[str]], list[str]]] = {
    "word_deletion": _delete,
    "word_swap": _swap,
    "word_repetition": _repeat,
    "word_replacement": _replace,
}
_CHARACTERS: dict[str, Callable[[str, Random], str]] = {
    "character_deletion": _delete_character,
    "character_swap": _swap_characters,
    "character_insertion": _insert_character,
    "character_replacement": _replace_character,
}
