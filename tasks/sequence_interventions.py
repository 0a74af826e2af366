"""How each intervention changes the training loss of a sequence model: name -> function.

A row is a function ``(model, x, y, spec, data, noise) -> loss`` that is called once a step:

- model: maps token ids [B, T] to logits, with ``sites`` (`sequence_models`); in train mode.
- x: int64 [B, T], padded on the right; y: int64 [B].
- spec: the intervention's strength and options (`sensweep.tasks.params.sequence_interventions`).
- data: the dataset, for its padding and vocabulary.
- noise: the only generator to draw from; the same stream under every intervention.
- loss: a scalar (nats, if nothing is added) whose gradient the optimiser follows.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from sensweep.tasks.params.sequence_interventions import (
    SEQUENCE_INTERVENTIONS,
    EmbeddingNoise,
    NoIntervention,
    SequenceSensitivityPenalty,
)
from sensweep.tasks.sequence_data import Sequences
from sensweep.tasks.sequence_models import shifted, site_of


def none(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    spec: NoIntervention,
    data: Sequences,
    noise: Generator,
) -> Tensor:
    """Cross-entropy of the sequences as they are."""
    return F.cross_entropy(model(x), y)


def noise_augmentation(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    spec: EmbeddingNoise,
    data: Sequences,
    noise: Generator,
) -> Tensor:
    """Cross-entropy with noise on the embedding of every token; see `EmbeddingNoise`."""
    with shifted(model, "lookup", _noise(model, x, spec.strength, data.pad, noise)):
        return F.cross_entropy(model(x), y)


def sensitivity_penalty(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    spec: SequenceSensitivityPenalty,
    data: Sequences,
    noise: Generator,
) -> Tensor:
    """(1 - p) * CE(logits(x), y) + p * MSE(logits(x~), logits(x)).

    x~ is x with one of its tokens perturbed, drawn uniformly for each sequence from all but
    padding. The gradient flows through both logits, the clean ones too.
    """
    chosen = torch.rand(x.shape, generator=noise, device=x.device)
    chosen = chosen.masked_fill(x == data.pad, -1).argmax(1, keepdim=True)
    clean = model(x)
    if spec.perturbation == "embedding":
        change = _noise(model, x, spec.noise, data.pad, noise)
        alone = torch.zeros_like(x).scatter_(1, chosen, 1)[..., None]
        with shifted(model, "lookup", change * alone):
            moved = model(x)
    else:
        words = (~data.special).nonzero().squeeze(1)
        drawn = torch.randint(len(words), chosen.shape, generator=noise, device=x.device)
        moved = model(x.scatter(1, chosen, words[drawn]))
    penalty = F.mse_loss(moved, clean)
    return (1 - spec.strength) * F.cross_entropy(clean, y) + spec.strength * penalty


def _noise(model: nn.Module, x: Tensor, ratio: float, pad: int, generator: Generator) -> Tensor:
    """Draw noise [B, T, D] whose root mean squared norm is `ratio` times the mean embedding's."""
    with torch.no_grad():
        embedded = site_of(model, "lookup")(x)
        norm = embedded.norm(dim=-1)[x != pad].mean()
    drawn = torch.randn(embedded.shape, generator=generator, device=x.device)
    return drawn * (ratio * norm / embedded.shape[-1] ** 0.5)


SEQUENCE_LOSSES: dict[str, Callable[..., Tensor]] = {
    "none": none,
    "noise_augmentation": noise_augmentation,
    "sensitivity_penalty": sensitivity_penalty,
}
assert SEQUENCE_LOSSES.keys() == SEQUENCE_INTERVENTIONS.keys()
