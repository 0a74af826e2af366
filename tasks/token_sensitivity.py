"""The sensitivity of a trained sequence model to its tokens, words and embeddings, as tasks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor

from sensweep.tasks.api import Context, Measurement, measure
from sensweep.tasks.isolation import isolated
from sensweep.tasks.params.token_sensitivity import (
    TokenSensitivityParams,
    WordSensitivityParams,
)
from sensweep.tasks.sequence_evaluation import (
    SequenceSubject,
    sequence_predictions,
    sequence_subject,
    text_predictions,
    texts_of,
)
from sensweep.tasks.sequence_sensitivity import (
    embedding_norm,
    mean_over_tokens,
    noise_flips,
    position_profile,
    replacement_flips,
    sentence_flips,
)
from sensweep.tasks.text_data import Text

# Coordinates of a noise size, and the standard deviation of each coordinate of the noise.
Size = tuple[dict[str, Any], float]


def token_sensitivity(params: Mapping[str, object], context: Context) -> Iterator[Measurement]:
    """Yield how often the prediction of one checkpoint changes under each perturbation.

    All have the coordinate split; all but the norm and the ratio are fractions in [0, 1]:

    - ``accuracy`` on the unperturbed sequences, for comparisons at matched accuracy;
    - ``embedding_norm``: mean L2 norm of the embeddings at the site;
    - ``token_sensitivity``: one word replaced by a uniform draw from the vocabulary, mean over
      words and sequences (Definition 4.1);
    - ``embedding_sensitivity``: noise on one token's embedding, mean over all tokens, special
      ones too; coordinate sigma or variance;
    - ``sentence_sensitivity``: noise on all embeddings at once; the same coordinate;
    - ``noise_ratio``: root mean squared norm of the noise over the mean embedding norm, for each
      variance: what that variance amounts to in this model;
    - ``position_sensitivity``, for `positions` places: coordinates perturbation (replacement or
      noise), token (word, separator, start) and position_from_end (0 is the last token; start
      has none).

    Draws depend on the seed alone: models of a seed and width meet the same ones, and every
    noise size the same ones, scaled.

    Raises:
        TaskError: no single checkpoint of `train_tokens`, or a model without that site.
    """
    p = TokenSensitivityParams.model_validate(params)
    scope = partial(isolated, context.device, context.threads, context.stream("sensitivity"))
    with scope():
        subject = sequence_subject(context, p.split, p.sequences)
        x, y = subject.sequences
        pad = subject.data.pad
        predicted = sequence_predictions(subject.model, x, pad, p.batch_size)
        norm, width = embedding_norm(subject.model, x, pad=pad, site=p.site)
    give = partial(measure, step=subject.step, split=p.split)
    yield give("accuracy", (predicted == y).double().mean().item())
    yield give("embedding_norm", norm)
    if p.replacement:
        with scope():
            flips = replacement_flips(
                subject.model,
                x,
                pad=pad,
                special=subject.data.special,
                draws=p.draws,
                generator=_generator(context, "replacement"),
                batch_size=p.batch_size,
            )
        words = ~subject.data.special[x]
        yield give("token_sensitivity", mean_over_tokens(flips, words))
        yield from _by_position(p, subject, flips, perturbation="replacement")

    per_coordinate = norm / math.sqrt(width)
    noise = partial(_noise, p, subject, scope)
    sizes = _sizes(p.sigmas, p.variances, per_coordinate)
    for size, flips in noise(noise_flips, sizes, _generator(context, "noise")):
        yield give("embedding_sensitivity", mean_over_tokens(flips, x != pad), **size)
        yield from _by_position(p, subject, flips, perturbation="noise", **size)
    sizes = _sizes(p.sentence_sigmas, p.sentence_variances, per_coordinate)
    for size, flips in noise(sentence_flips, sizes, _generator(context, "sentence noise")):
        yield give("sentence_sensitivity", flips.mean().item(), **size)
    for variance in sorted({*p.variances, *p.sentence_variances}):
        ratio = math.sqrt(variance) / per_coordinate
        yield give("noise_ratio", ratio, variance=variance)


def word_sensitivity(params: Mapping[str, object], context: Context) -> Iterator[Measurement]:
    """Yield ``word_sensitivity``: how often a random word in a word's place flips the class.

    Each word of a text (of a pair, of its first text, as in the released code of Vasudeva et
    al.) is replaced by `draws` words drawn uniformly from the words of the train split, and the
    text is encoded anew, so that it means the same under every tokenizer. Words are what stands
    between spaces. Mean over words, then over texts; a text without words counts as 0.

    Raises:
        TaskError: no single checkpoint of `train_tokens`, or its data are not texts.
    """
    p = WordSensitivityParams.model_validate(params)
    with isolated(context.device, context.threads, context.stream("words")):
        subject = sequence_subject(context, p.split, p.sequences)
        texts = texts_of(subject)
        assert subject.data.texts is not None
        words = sorted({w for text in subject.data.texts["train"] for s in text for w in s.split()})
        clean = text_predictions(subject.model, texts, subject.data, p.batch_size)
        changed, owner = with_a_word_replaced(
            texts, words, p.draws, _generator(context, "word replacement")
        )
        flipped = torch.zeros(len(texts), dtype=torch.float64)
        counted = torch.bincount(owner, minlength=len(texts)).clamp(min=1)
        if changed:
            moved = text_predictions(subject.model, changed, subject.data, p.batch_size)
            flips = (moved.cpu() != clean.cpu()[owner]).double()
            flipped.index_add_(0, owner, flips)
        valid = bool((clean >= 0).all())
    value = (flipped / counted).mean().item() if valid else math.nan
    yield measure("word_sensitivity", value, step=subject.step, split=p.split)


def with_a_word_replaced(
    texts: list[Text], words: list[str], draws: int, generator: Generator
) -> tuple[list[Text], Tensor]:
    """Replace each word of each text's first part, `draws` times each.

    Returns:
        The changed texts, by text, then word, then draw; and which text each comes from, int64.
    """
    changed, owner = [], []
    for index, (first, *rest) in enumerate(texts):
        parts = first.split()
        drawn = torch.randint(len(words), (len(parts), draws), generator=generator).tolist()
        for place, choices in enumerate(drawn):
            for choice in choices:
                moved = [*parts[:place], words[choice], *parts[place + 1 :]]
                changed.append((" ".join(moved), *rest))
                owner.append(index)
    return changed, torch.tensor(owner, dtype=torch.int64)


def _noise(
    p: TokenSensitivityParams,
    subject: SequenceSubject,
    scope: Callable[[], AbstractContextManager[None]],
    estimate: Callable[..., Tensor],
    sizes: list[Size],
    generator: Generator,
) -> list[tuple[dict[str, Any], Tensor]]:
    """Give each size's coordinates with what `noise_flips` or `sentence_flips` finds for it."""
    if not sizes:
        return []
    with scope():
        found = estimate(
            subject.model,
            subject.sequences.x,
            pad=subject.data.pad,
            site=p.site,
            stds=[std for _, std in sizes],
            draws=p.draws,
            generator=generator,
            batch_size=p.batch_size,
        )
    return [(size, flips) for (size, _), flips in zip(sizes, found, strict=True)]


def _by_position(
    p: TokenSensitivityParams, subject: SequenceSubject, flips: Tensor, **coordinates: Any
) -> Iterator[Measurement]:
    if p.positions == 0:
        return
    profile = position_profile(
        flips,
        subject.sequences.x,
        pad=subject.data.pad,
        special=subject.data.special,
        positions=p.positions,
    )
    for token, position, value in profile:
        place: dict[str, Any] = {} if position is None else {"position_from_end": position}
        yield measure(
            "position_sensitivity",
            value,
            step=subject.step,
            split=p.split,
            token=token,
            **place,
            **coordinates,
        )


def _sizes(sigmas: list[float], variances: list[float], per_coordinate: float) -> list[Size]:
    """List relative, then absolute noise sizes."""
    relative: list[Size] = [({"sigma": sigma}, sigma * per_coordinate) for sigma in sigmas]
    return relative + [({"variance": one}, math.sqrt(one)) for one in variances]


def _generator(context: Context, purpose: str) -> Generator:
    return torch.Generator().manual_seed(context.stream(purpose))
