"""Models of bits whose truth is known, in place of trained ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sensweep.tasks.boolean import Target, rows
from sensweep.tasks.boolean_model import BooleanTransformer, Learnt


class Known(nn.Module):
    """What the analyses ask of a model, beside its answers."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.ModuleList()
        self.positions = nn.Embedding(64, 1)
        self.head = nn.Linear(1, 1)


class Table(Known):
    """Answers with a truth table."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = table

    def forward(self, bits: Tensor) -> Tensor:
        return self.table[rows(bits)]


class Linear(Known):
    """Answers with a weighted sum of the bits, and has no other weights."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.head = nn.Linear(len(weights), 1)
        self.head.weight.data[0] = weights
        self.head.bias.data.zero_()

    def forward(self, bits: Tensor) -> Tensor:
        return self.head(bits.float())[:, 0]


def learnt(model: nn.Module, function: str, length: int, inputs: Tensor | None = None) -> Learnt:
    """Wrap a model as an analysis gets it."""
    return Learnt(model.eval(), Target(function), length, inputs, 1)  # type: ignore[arg-type]


def transformer(seed: int = 0, **arguments: object) -> BooleanTransformer:
    """A small random transformer in double precision, so that batches do not matter."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BooleanTransformer(**{"positions": 6, "width": 8, **arguments})  # type: ignore[arg-type]
    return model.double().eval()
