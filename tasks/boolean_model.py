"""Transformers that read a string of bits and give one number, or one number for each prefix.

After Hahn and Rofin, "Why are Sensitive Functions Hard for Transformers?" (ACL 2024): two layers,
the token's and the position's embedding side by side, layer normalisation after each sublayer, and
the answer read from the last position. Their released model is
`BooleanTransformer(positions=n, width=128)`, save that its layers start as copies of one another.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sensweep.tasks import checkpoints
from sensweep.tasks.api import Context, TaskError
from sensweep.tasks.boolean import Target

START = 2  # the token that the scratchpad begins with, beside the bits 0 and 1


class Attention(nn.Module):
    """Multi-head attention with softmax or ReLU weights.

    The ReLU weights are relu(scores) / number of keys (Wortsman et al., "Replacing softmax with
    ReLU in Vision Transformers", 2023).
    """

    def __init__(self, width: int, heads: int, kind: str) -> None:
        super().__init__()
        self.heads, self.kind = heads, kind
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        # As torch's own transformer layers start, whose three projections are one matrix.
        for layer in (self.query, self.key_value):
            nn.init.uniform_(layer.weight, -((1.5 / width) ** 0.5), (1.5 / width) ** 0.5)
        for layer in (self.query, self.key_value, self.out):
            nn.init.zeros_(layer.bias)

    def forward(self, at: Tensor, to: Tensor, causal: bool = False) -> Tensor:
        """Attend from `at` [N, Q, width] to `to` [N, K, width]; `causal`: to no later place."""
        q = self.query(at).unflatten(2, (self.heads, -1)).transpose(1, 2)
        k, v = self.key_value(to).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if self.kind == "softmax":
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        else:
            weights = (q @ k.transpose(2, 3) / math.sqrt(q.shape[3])).relu() / k.shape[2]
            mixed = (weights.tril() if causal else weights) @ v
        return self.out(mixed.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """Self-attention, in a decoder attention to the encoder, and a feed-forward net of ReLUs.

    Each sublayer is added to its input; the sum is normalised (``post``), or else the input of
    the sublayer is (``pre``).
    """

    def __init__(
        self, width: int, heads: int, feedforward: int, norm: str, attention: str, decoder: bool
    ) -> None:
        super().__init__()
        self.post = norm == "post"
        self.attention = Attention(width, heads, attention)
        self.norm1 = nn.LayerNorm(width)
        self.cross = Attention(width, heads, attention) if decoder else None
        self.norm_cross = nn.LayerNorm(width) if decoder else None
        self.feedforward = nn.Sequential(
            nn.Linear(width, feedforward), nn.ReLU(), nn.Linear(feedforward, width)
        )
        self.norm2 = nn.LayerNorm(width)

    def forward(self, x: Tensor, memory: Tensor | None = None, last: bool = False) -> Tensor:
        """Give [N, T, width]; with `last`, only what it gives at the last place, [N, 1, width]."""
        at = slice(-1, None) if last else slice(None)
        causal = self.cross is not None
        if self.post:
            x = self.norm1(x[:, at] + self.attention(x[:, at], x, causal))
            if self.cross is not None and self.norm_cross is not None:
                x = self.norm_cross(x + self.cross(x, memory))
            return self.norm2(x + self.feedforward(x))
        normed = self.norm1(x)
        x = x[:, at] + self.attention(normed[:, at], normed, causal)
        if self.cross is not None and self.norm_cross is not None:
            x = x + self.cross(self.norm_cross(x), memory)
        return x + self.feedforward(self.norm2(x))


class BooleanTransformer(nn.Module):
    """From bits to one number, or with a scratchpad to one number after each bit.

    Args:
        positions: learned position embeddings, at least the longest string's length.
        places: ``fixed``: bit i has position i. ``randomised``: bits have positions in rising
            order, the first bit the first of all and the last bit the last of all; in training
            those between are drawn anew for each batch, else they are evenly spaced. So strings
            longer than the training's have positions that were trained (after Ruoss et al.,
            "Randomized Positional Encodings Boost Length Generalization", ACL 2023).
        depth: layers of the encoder, and of the decoder where there is one.
        width: features; even where embeddings are concatenated, and a multiple of `heads`.
        heads: attention heads.
        feedforward: width of the feed-forward nets; None for `width`.
        norm: ``post`` (after each sublayer's sum) or ``pre`` (before each sublayer, and at the
            end).
        attention: ``softmax`` or ``relu``.
        embedding: ``concatenate`` halves of the width, of the token and of the position; or
            ``add`` them.
        scratchpad: add a decoder that reads its own answers so far and attends to all bits.
    """

    def __init__(
        self,
        *,
        positions: int,
        places: str = "fixed",
        depth: int = 2,
        width: int = 128,
        heads: int = 2,
        feedforward: int | None = None,
        norm: str = "post",
        attention: str = "softmax",
        embedding: str = "concatenate",
        scratchpad: bool = False,
    ) -> None:
        super().__init__()
        part = width // 2 if embedding == "concatenate" else width
        self.randomised = places == "randomised"
        self.concatenate = embedding == "concatenate"
        self.tokens = nn.Embedding(3 if scratchpad else 2, part)
        self.positions = nn.Embedding(positions + 1 if scratchpad else positions, part)
        shape = (width, heads, feedforward or width, norm, attention)
        self.encoder = nn.ModuleList(Layer(*shape, decoder=False) for _ in range(depth))
        self.decoder = nn.ModuleList(
            Layer(*shape, decoder=True) for _ in range(depth if scratchpad else 0)
        )
        self.norm = nn.LayerNorm(width) if norm == "pre" else nn.Identity()
        self.head = nn.Linear(width, 1)

    def forward(self, bits: Tensor, answers: Tensor | None = None) -> Tensor:
        """Give the function's value, or with a scratchpad its value on each prefix.

        Args:
            bits: int64 [N, n], 0 or 1.
            answers: for a scratchpad, int64 [N, m], the answers before each one asked for: START,
                then bits.

        Returns:
            [N]; with a scratchpad [N, m]. In the code of the targets, 0 and 1.
        """
        x = self._embed(bits, self._places(bits.shape[1]))
        if not self.decoder:
            for layer in self.encoder[:-1]:
                x = layer(x)
            # Only the last position is read, so only it goes through the last layer.
            x = self.encoder[-1](x, last=True)
            return self.head(self.norm(x))[:, 0, 0]
        for layer in self.encoder:
            x = layer(x)
        y = self._embed(answers, torch.arange(answers.shape[1]))  # type: ignore[union-attr,arg-type]
        for layer in self.decoder:
            y = layer(y, x)
        return self.head(self.norm(y))[:, :, 0]

    @torch.inference_mode()
    def answer(self, bits: Tensor) -> Tensor:
        """Give what a scratchpad answers at every prefix, reading its own answers; int64 [N, n]."""
        answers = torch.full((len(bits), 1), START, device=bits.device)
        for _ in range(bits.shape[1]):
            latest = (self(bits, answers)[:, -1:] > 0.5).long()
            answers = torch.cat([answers, latest], dim=1)
        return answers[:, 1:]

    def _places(self, n: int) -> Tensor:
        if not self.randomised:
            return torch.arange(n)
        last = self.positions.num_embeddings - 1
        if not self.training or n < 2:
            return torch.linspace(0, last, n).round().long()
        between = torch.randperm(last - 1)[: n - 2].sort().values + 1
        return torch.cat([torch.tensor([0]), between, torch.tensor([last])])

    def _embed(self, tokens: Tensor, places: Tensor) -> Tensor:
        token, place = self.tokens(tokens), self.positions(places.to(tokens.device))
        if self.concatenate:
            return torch.cat([token, place.expand(len(token), -1, -1)], dim=2)
        return token + place


def posed(model: BooleanTransformer, target: Target, bits: Tensor) -> tuple[list[Tensor], Tensor]:
    """Give a model's arguments for strings [N, n], and the values that it should answer.

    A model with a scratchpad is given the right answers before each one that it is to find, and
    its values are [N, n]; else they are [N].
    """
    if not model.decoder:
        return [bits], target.values(bits)
    wanted = target.prefix_values(bits)
    start = torch.full((len(bits), 1), START, device=bits.device)
    return [bits, torch.cat([start, wanted[:, :-1].long()], dim=1)], wanted


class Learnt(NamedTuple):
    """A model of bits, as it was after a step of its training, and what it was to learn.

    Attributes:
        model: in eval mode.
        target: the function.
        length: bits of the strings, the longest of the training.
        inputs: int64 [N], the truth table's rows that it was trained on; None for all strings.
        step: the step of the training.
    """

    model: BooleanTransformer
    target: Target
    length: int
    inputs: Tensor | None
    step: int


def load_learnt(context: Context) -> Learnt:
    """Rebuild the model of the one `train_boolean` checkpoint that an analysis was given.

    Raises:
        TaskError: there is not exactly one checkpoint, or it is of something else.
    """
    checkpoint = checkpoints.only_parent(context)
    state = checkpoints.load(checkpoint.path)
    if "target" not in state:
        raise TaskError(
            f"checkpoint {str(checkpoint.path)!r} of stage {checkpoint.stage!r} holds no function "
            "of bits; this analysis needs a stage of the task train_boolean"
        )
    with torch.random.fork_rng(devices=[]):  # the initial weights are overwritten
        model = BooleanTransformer(**state["arch"])
    checkpoints.put_weights(model, state["model"], checkpoint.path, state["arch"])
    target, inputs = Target(**state["target"]), state["inputs"]
    if target.table is not None:
        target = target._replace(table=target.table.to(context.device))
    return Learnt(
        model.eval().to(context.device),
        target,
        state["length"],
        None if inputs is None else inputs.to(context.device),
        checkpoint.step,
    )
