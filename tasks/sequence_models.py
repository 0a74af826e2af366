"""Classifiers of token sequences, trained from scratch: RoBERTa, GPT-2, LSTM, one attention layer.

A model maps token ids [B, T], padded on the right, to logits [B, num_classes], and has a mapping
``sites`` with the names of two of its submodules, whose outputs [B, T, D] analyses perturb:

- ``lookup``: the word embeddings as they are looked up;
- ``entry``: what the first layer receives (positions added, normalised, as the model does it).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sensweep.tasks.api import TaskError
from sensweep.tasks.names import unknown
from sensweep.tasks.params.sequences import SEQUENCE_ARCHITECTURES


class Transformers(nn.Module):
    """A sequence classifier of the `transformers` library, called on token ids alone."""

    def __init__(self, network: nn.Module, pad: int, sites: Mapping[str, str]) -> None:
        super().__init__()
        self.network, self.pad = network, pad
        self.sites = {site: f"network.{name}" for site, name in sites.items()}

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits [B, num_classes] of token ids [B, T]."""
        mask = (tokens != self.pad).long()
        return self.network(input_ids=tokens, attention_mask=mask).logits


def roberta(
    num_classes: int,
    vocabulary: int,
    length: int,
    pad: int,
    *,
    layers: int = 4,
    width: int = 256,
    heads: int = 8,
    hidden: int = 3072,
    dropout: float = 0.1,
    attention: str = "softmax",
) -> nn.Module:
    """RoBERTa with a classification head on its first token; defaults of Vasudeva et al.

    `hidden` is the width of the feed-forward layers, which their configuration leaves at 3072.
    """
    from transformers import RobertaConfig, RobertaForSequenceClassification

    config = RobertaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=hidden,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        # Positions are counted from pad + 1.
        max_position_embeddings=length + pad + 1,
        type_vocab_size=1,
        pad_token_id=pad,
        **_undeclared(num_classes, attention),
    )
    sites = {"lookup": "roberta.embeddings.word_embeddings", "entry": "roberta.embeddings"}
    return Transformers(RobertaForSequenceClassification(config), pad, sites)


def gpt2(
    num_classes: int,
    vocabulary: int,
    length: int,
    pad: int,
    *,
    layers: int = 4,
    width: int = 256,
    heads: int = 8,
    hidden: int = 3072,
    dropout: float = 0.1,
    attention: str = "softmax",
) -> nn.Module:
    """GPT-2 (causal attention) with a linear head on the last token."""
    from transformers import GPT2Config, GPT2ForSequenceClassification

    config = GPT2Config(
        vocab_size=vocabulary,
        n_positions=length,
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        n_inner=hidden,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        pad_token_id=pad,
        bos_token_id=None,
        eos_token_id=None,
        use_cache=False,
        **_undeclared(num_classes, attention),
    )
    sites = {"lookup": "transformer.wte", "entry": "transformer.drop"}
    return Transformers(GPT2ForSequenceClassification(config), pad, sites)


def _undeclared(num_classes: int, attention: str) -> dict[str, Any]:
    """Give what every configuration of `transformers` takes without declaring it.

    Of ReLU attention the library learns here.
    """
    if attention not in ("softmax", "relu"):
        raise TaskError(unknown("attention", attention, ("softmax", "relu")))
    if attention == "softmax":
        return {"num_labels": num_classes, "attn_implementation": "sdpa"}
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    AttentionInterface.register("relu_attention", relu_attention)
    AttentionMaskInterface.register("relu_attention", eager_mask)
    return {"num_labels": num_classes, "attn_implementation": "relu_attention"}


def relu_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, Tensor]:
    """Attend with ReLU(scores) / n in place of softmax(scores), n the keys that a query may see.

    After Wortsman et al., "Replacing softmax with ReLU in Vision Transformers" (2023); Vasudeva
    et al. do not say how they normalise. Shapes are those of `transformers`' attention interface:
    query, key, value [B, heads, T, D / heads], mask additive and broadcastable to
    [B, heads, T, T]; returns [B, T, heads, D / heads] and the weights.
    """
    scores = query @ key.transpose(2, 3)
    scores = scores * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    seen: Tensor | int = key.shape[2]
    if attention_mask is not None:
        scores = scores + attention_mask
        seen = (attention_mask >= 0).sum(-1, keepdim=True).clamp(min=1)
    weights = F.dropout(F.relu(scores) / seen, dropout, module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class LSTM(nn.Module):
    """Embedding, LayerNorm, LSTM, and a linear head on the last token's state; all are trained.

    After Vasudeva et al. (ICLR 2025), whose code left embedding and head at their random start.
    """

    def __init__(
        self,
        num_classes: int,
        vocabulary: int,
        length: int,
        pad: int,
        *,
        layers: int = 4,
        width: int = 256,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.pad, self.sites = pad, {"lookup": "embedding", "entry": "norm"}
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=pad)
        self.norm = nn.LayerNorm(width)
        self.lstm = nn.LSTM(
            width, width, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0
        )
        self.head = nn.Linear(width, num_classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits [B, num_classes] of token ids [B, T]."""
        states, _ = self.lstm(self.norm(self.embedding(tokens)))
        last = ((tokens != self.pad).sum(1) - 1).clamp(min=0)
        return self.head(states[torch.arange(len(tokens), device=tokens.device), last])


class OneAttention(nn.Module):
    """One self-attention layer without residual or LayerNorm, then perhaps a ReLU layer, a head.

    With ``pool: last`` and ``hidden: 512`` the model of Vasudeva et al.'s grokking experiment;
    with ``pool: mean`` and no hidden layer the one of their synthetic token task.
    """

    def __init__(
        self,
        num_classes: int,
        vocabulary: int,
        length: int,
        pad: int,
        *,
        width: int = 32,
        heads: int = 1,
        hidden: int | None = None,
        pool: str = "mean",
    ) -> None:
        super().__init__()
        if pool not in ("mean", "last"):
            raise TaskError(unknown("pool", pool, ("mean", "last")))
        if width % heads:
            raise TaskError(f"width {width} is not a multiple of heads {heads}")
        self.pad, self.heads, self.pool = pad, heads, pool
        self.sites = {"lookup": "embedding", "entry": "entry"}
        self.embedding = nn.Embedding(vocabulary, width)
        self.position = nn.Embedding(length, width)
        for table in (self.embedding, self.position):
            nn.init.normal_(table.weight, std=width**-0.5)
        self.entry = nn.Identity()
        self.inward = nn.Linear(width, 3 * width, bias=False)
        self.outward = nn.Linear(width, width, bias=False)
        widths = [width] if hidden is None else [width, hidden]
        layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
        self.head = nn.Sequential(*layers, nn.Linear(widths[-1], num_classes))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits [B, num_classes] of token ids [B, T]."""
        real = tokens != self.pad
        x = self.entry(self.embedding(tokens) + self.position.weight[: tokens.shape[1]])
        query, key, value = self.inward(x).unflatten(2, (3, self.heads, -1)).unbind(2)
        if self.pool == "last":
            # One query: products and sums are several times faster than the general kernel.
            last = query[torch.arange(len(x), device=x.device), real.sum(1) - 1]
            scores = (last[:, None] * key).sum(-1) / key.shape[-1] ** 0.5
            weights = scores.masked_fill(~real[..., None], -torch.inf).softmax(1)
            pooled = (weights[..., None] * value).sum(1)
        else:
            query, key, value = (part.transpose(1, 2) for part in (query, key, value))
            mask = None if bool(real.all()) else real[:, None, None]
            seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
            pooled = (seen * real[:, None, :, None]).sum(2) / real.sum(1)[:, None, None]
        # Linear and without a bias, so that it may follow the pooling.
        return self.head(self.outward(pooled.flatten(1)))


class TokenMLP(nn.Module):
    """The embeddings of all positions side by side, hidden ReLU layers, a linear head."""

    def __init__(
        self,
        num_classes: int,
        vocabulary: int,
        length: int,
        pad: int,
        *,
        width: int = 32,
        hidden: Sequence[int] = (128,),
    ) -> None:
        super().__init__()
        self.length, self.sites = length, {"lookup": "embedding", "entry": "embedding"}
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=pad)
        widths = [length * width, *hidden]
        layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
        self.head = nn.Sequential(nn.Flatten(), *layers, nn.Linear(widths[-1], num_classes))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits [B, num_classes] of token ids [B, T], T at most the full length."""
        missing = self.length - tokens.shape[1]
        return self.head(F.pad(self.embedding(tokens), (0, 0, 0, missing)))  # padding embeds as 0


_BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "roberta": roberta,
    "gpt2": gpt2,
    "lstm": LSTM,
    "one_attention": OneAttention,
    "token_mlp": TokenMLP,
}
assert tuple(_BUILDERS) == SEQUENCE_ARCHITECTURES


def build_sequence_model(
    arch: str | Mapping[str, Any], *, num_classes: int, vocabulary: int, length: int, pad: int
) -> nn.Module:
    """Build a freshly initialised model; weights are drawn from torch's global generator.

    Args:
        arch: a name of `SEQUENCE_ARCHITECTURES`, ``module:function`` (called with the four facts
            below and its own arguments), or a mapping of ``name`` and the model's arguments.
        num_classes: number of classes.
        vocabulary: number of token ids.
        length: most tokens of a sequence.
        pad: id of the padding.

    Raises:
        TaskError: unknown name, wrong arguments, or a user's model without ``sites``.
    """
    name = arch if isinstance(arch, str) else str(arch["name"])
    kwargs = {} if isinstance(arch, str) else {k: v for k, v in arch.items() if k != "name"}
    facts = {"num_classes": num_classes, "vocabulary": vocabulary, "length": length, "pad": pad}
    if ":" in name:
        module, _, function = name.partition(":")
        try:
            builder = getattr(import_module(module), function)
        except (ImportError, AttributeError, ValueError) as error:
            raise TaskError(
                f"arch {name!r}: {error}; wanted module:function, importable where trials run"
            ) from error
    elif name in _BUILDERS:
        builder = _BUILDERS[name]
        valid = inspect.signature(builder).parameters.keys() - facts
        for key in kwargs:
            if key not in valid:
                raise TaskError(f"arch {name!r}: {unknown('argument', key, valid)}")
    else:
        raise TaskError(unknown("arch", name, _BUILDERS, hint="or module:function"))
    try:
        model = builder(**facts, **kwargs)
    except TaskError:
        raise
    except Exception as error:  # whatever a model's constructor raises on bad arguments
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TaskError(f"arch {arch!r}: {reason}") from error
    sites = getattr(model, "sites", None)
    if not isinstance(model, nn.Module) or not isinstance(sites, dict) or "lookup" not in sites:
        raise TaskError(
            f"arch {name!r}: wanted a torch Module with a mapping `sites` whose 'lookup' names "
            f"its embedding; got {type(model).__name__}"
        )
    return model


def site_of(model: nn.Module, site: str) -> nn.Module:
    """Return the submodule whose output [B, T, D] a perturbation of `site` changes."""
    sites: Mapping[str, str] = model.sites  # type: ignore[assignment]
    if site not in sites:
        raise TaskError(unknown("site", site, sites))
    return model.get_submodule(sites[site])


@contextmanager
def shifted(model: nn.Module, site: str, change: Tensor) -> Iterator[None]:
    """Within this, add `change` [B, T, D] to the output of a site in every forward pass."""
    handle = site_of(model, site).register_forward_hook(lambda _module, _given, out: out + change)
    try:
        yield
    finally:
        handle.remove()


def outputs_of(model: nn.Module, site: str, tokens: Tensor) -> Tensor:
    """Return the output [B, T, D] of a site in one forward pass, in the model's present mode."""
    seen: list[Tensor] = []
    handle = site_of(model, site).register_forward_hook(lambda _m, _given, out: seen.append(out))
    try:
        model(tokens)
    finally:
        handle.remove()
    return seen[0]
