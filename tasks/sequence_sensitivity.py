"""How often a prediction changes when tokens of a sequence, or their embeddings, are perturbed.

The definitions are of Vasudeva et al., "Transformers Learn Low Sensitivity Functions" (ICLR
2025): Definition 4.1 with a uniform draw from the vocabulary in place of one token; and, as in
their released code for language, Gaussian noise on the embedding of one token, or of all at once.
These functions know nothing of checkpoints; `token_sensitivity` is the task.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Generator, Tensor, nn

from sensweep.tasks.evaluation import evaluating
from sensweep.tasks.sequence_data import trimmed
from sensweep.tasks.sequence_evaluation import sequence_predictions
from sensweep.tasks.sequence_models import outputs_of, shifted


def replacement_flips(
    model: nn.Module,
    tokens: Tensor,
    *,
    pad: int,
    special: Tensor,
    draws: int,
    generator: Generator,
    batch_size: int = 512,
) -> Tensor:
    """Estimate, for each word, the probability that a random word in its place flips the class.

    The word is drawn uniformly from the vocabulary, itself included, as Definition 4.1 has it.

    Args:
        model: from int64 [N, T] to logits; examined in eval mode and left as it was.
        tokens: int64 [N, T], padded on the right.
        pad: id of the padding.
        special: bool [vocabulary]; special tokens are neither replaced nor drawn.
        draws: draws for each word.
        generator: a CPU generator, so that all devices see the same draws.
        batch_size: perturbed sequences in one forward pass.

    Returns:
        float64 [N, T] in [0, 1], on the CPU; NaN where there is no word, and for all sequences
        of which the model gives NaN.
    """
    words = (~special).nonzero().squeeze(1)
    clean = sequence_predictions(model, tokens, pad, batch_size)
    wanted = ~special[tokens]
    flips = torch.zeros(tokens.shape, dtype=torch.float64, device=tokens.device)
    with evaluating(model):
        for _ in range(draws):
            drawn = torch.randint(len(words), tokens.shape, generator=generator)
            drawn = words[drawn.to(words.device)]
            for rows, places in _pairs(tokens, wanted, pad, batch_size):
                moved = tokens[rows]
                moved[torch.arange(len(rows), device=rows.device), places] = drawn[rows, places]
                changed = model(trimmed(moved, pad)).argmax(1) != clean[rows]
                flips[rows, places] += changed
    return _fractions(flips, draws, wanted, clean)


def noise_flips(
    model: nn.Module,
    tokens: Tensor,
    *,
    pad: int,
    site: str,
    stds: Sequence[float],
    draws: int,
    generator: Generator,
    batch_size: int = 512,
) -> Tensor:
    """Estimate, for each token, the probability that noise on its embedding flips the class.

    Args:
        model: from int64 [N, T] to logits, with ``sites``; examined in eval mode and left as it
            was.
        tokens: int64 [N, T], padded on the right.
        pad: id of the padding.
        site: where the noise is added: ``lookup`` or ``entry`` (`sequence_models`).
        stds: standard deviations of the Gaussian noise on each coordinate. All share the draws.
        draws: draws for each token.
        generator: a CPU generator, so that all devices see the same noise.
        batch_size: perturbed sequences in one forward pass.

    Returns:
        float64 [len(stds), N, T] in [0, 1], on the CPU; NaN at padding, and for all sequences of
        which the model gives NaN.
    """
    clean = sequence_predictions(model, tokens, pad, batch_size)
    wanted = tokens != pad
    width = _width(model, tokens, site)
    flips = torch.zeros(len(stds), *tokens.shape, dtype=torch.float64, device=tokens.device)
    with evaluating(model):
        for _ in range(draws):
            noise = torch.randn(*tokens.shape, width, generator=generator).to(tokens.device)
            for rows, places in _pairs(tokens, wanted, pad, batch_size):
                base = trimmed(tokens[rows], pad)
                change = torch.zeros(*base.shape, width, device=tokens.device)
                change[torch.arange(len(rows), device=rows.device), places] = noise[rows, places]
                for size, std in enumerate(stds):
                    with shifted(model, site, change * std):
                        changed = model(base).argmax(1) != clean[rows]
                    flips[size, rows, places] += changed
    return torch.stack([_fractions(part, draws, wanted, clean) for part in flips])


def sentence_flips(
    model: nn.Module,
    tokens: Tensor,
    *,
    pad: int,
    site: str,
    stds: Sequence[float],
    draws: int,
    generator: Generator,
    spared: Tensor | None = None,
    batch_size: int = 512,
) -> Tensor:
    """Estimate, for each sequence, how probably noise on all its embeddings flips the class.

    Args:
        model, tokens, pad, site, stds, draws, generator, batch_size: as in `noise_flips`.
        spared: bool [vocabulary], ids whose embeddings are left alone; none by default.

    Returns:
        float64 [len(stds), N] in [0, 1], on the CPU; NaN for sequences of which the model gives
        NaN.
    """
    clean = sequence_predictions(model, tokens, pad, batch_size)
    reached = tokens != pad if spared is None else (tokens != pad) & ~spared[tokens]
    width = _width(model, tokens, site)
    flips = torch.zeros(len(stds), len(tokens), dtype=torch.float64, device=tokens.device)
    with evaluating(model):
        for _ in range(draws):
            noise = torch.randn(*tokens.shape, width, generator=generator).to(tokens.device)
            noise *= reached[..., None]
            for rows in torch.arange(len(tokens), device=tokens.device).split(batch_size):
                base = trimmed(tokens[rows], pad)
                for size, std in enumerate(stds):
                    with shifted(model, site, noise[rows, : base.shape[1]] * std):
                        flips[size, rows] += model(base).argmax(1) != clean[rows]
    return (flips / draws).masked_fill(clean < 0, math.nan).cpu()


def embedding_norm(model: nn.Module, tokens: Tensor, *, pad: int, site: str) -> tuple[float, int]:
    """Return the mean norm of the embeddings of all tokens at a site, and their width D."""
    tokens = trimmed(tokens, pad)
    with evaluating(model):
        embedded = outputs_of(model, site, tokens)
    return embedded.norm(dim=-1)[tokens != pad].mean().item(), embedded.shape[-1]


def mean_over_tokens(flips: Tensor, wanted: Tensor) -> float:
    """Average flips [N, T] over each sequence's wanted tokens, then over sequences.

    A sequence without any counts as 0: nothing in it can be perturbed. A diverged model has NaN.

    Args:
        flips: as `replacement_flips` or one size of `noise_flips` gives them.
        wanted: bool [N, T], the tokens that were perturbed.
    """
    wanted = wanted.cpu()
    sums = flips.where(wanted, torch.zeros_like(flips)).sum(-1)
    return (sums / wanted.sum(-1).clamp(min=1)).mean().item()


def position_profile(
    flips: Tensor, tokens: Tensor, *, pad: int, special: Tensor, positions: int
) -> Iterator[tuple[str, int | None, float]]:
    """Average flips [N, T] by place: yield (kind of token, position from the end, mean).

    Sequences are lined up at their last token, whose position from the end is 0. Kinds: ``word``;
    ``separator``, a special token; and ``start``, a special token that opens the sequence, whose
    place from the end differs from sequence to sequence: it has one mean, without a position.
    Places where no sequence has such a token are left out.
    """
    tokens, special = tokens.cpu(), special.cpu()
    lengths = (tokens != pad).sum(1)
    every = torch.arange(len(tokens))
    is_special = special[tokens]
    opened = is_special[:, 0] & ~flips[:, 0].isnan()
    if opened.any():
        yield "start", None, flips[opened, 0].mean().item()
    for position in range(positions):
        place = lengths - 1 - position
        # The opening token has been given already.
        there = place >= is_special[:, 0].long()
        place = place.clamp(min=0)
        values, specials = flips[every, place], is_special[every, place]
        for kind, of_kind in (("word", ~specials), ("separator", specials)):
            chosen = there & of_kind & ~values.isnan()
            if chosen.any():
                yield kind, position, values[chosen].mean().item()


def _pairs(
    tokens: Tensor, wanted: Tensor, pad: int, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Part the wanted (row, place) into batches, short sequences first: less padding to compute."""
    order = (tokens != pad).sum(1).argsort(stable=True)
    rows, places = wanted[order].nonzero(as_tuple=True)
    yield from zip(order[rows].split(batch_size), places.split(batch_size), strict=True)


def _fractions(flips: Tensor, draws: int, wanted: Tensor, clean: Tensor) -> Tensor:
    # A model without predictions has no sensitivity: a diverged one would have 0.
    return (flips / draws).masked_fill(~wanted | (clean < 0)[:, None], math.nan).cpu()


def _width(model: nn.Module, tokens: Tensor, site: str) -> int:
    with evaluating(model):
        return outputs_of(model, site, tokens[:1]).shape[-1]
