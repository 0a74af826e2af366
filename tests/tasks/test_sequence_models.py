"""Sequence models: shapes, padding, sites, and ReLU attention against its definition."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sensweep.tasks.api import TaskError
from sensweep.tasks.sequence_models import (
    build_sequence_model,
    outputs_of,
    relu_attention,
    shifted,
    site_of,
)

FACTS = {"num_classes": 3, "vocabulary": 15, "length": 9, "pad": 0}
SMALL = {"layers": 2, "width": 16, "heads": 2, "hidden": 24}
ARCHS = {
    "roberta": {"name": "roberta", **SMALL},
    "roberta_relu": {"name": "roberta", **SMALL, "attention": "relu"},
    "gpt2": {"name": "gpt2", **SMALL},
    "gpt2_relu": {"name": "gpt2", **SMALL, "attention": "relu"},
    "lstm": {"name": "lstm", "layers": 2, "width": 16},
    "one_attention": {"name": "one_attention", "width": 16, "heads": 2},
    "grokking": {"name": "one_attention", "width": 16, "heads": 2, "hidden": 24, "pool": "last"},
    "token_mlp": {"name": "token_mlp", "width": 4, "hidden": [8]},
}


def build(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_sequence_model(ARCHS[name], **FACTS).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3)  # with the library's small initial weights hardly anything matters
    return model


def tokens() -> torch.Tensor:
    drawn = torch.randint(1, 15, (4, 9), generator=torch.Generator().manual_seed(1))
    drawn[1, 6:] = 0
    drawn[2, 2:] = 0
    return drawn


@pytest.mark.parametrize("name", ARCHS)
@torch.no_grad()
def test_padding_and_the_rest_of_the_batch_do_not_matter(name):
    model = build(name)
    logits = model(tokens())
    assert logits.shape == (4, 3)
    assert logits.std(0).min() > 0  # it looks at its input
    for row, length in zip(tokens(), (9, 6, 2, 9), strict=True):
        alone = model(row[None, :length])
        index = int((tokens() == row).all(1).nonzero()[0])
        torch.testing.assert_close(alone[0], logits[index], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ARCHS)
def test_every_weight_is_trained(name):
    model = build(name).train()
    model(tokens()).square().sum().backward()
    for weight_name, weight in model.named_parameters():
        assert weight.requires_grad, weight_name
        assert weight.grad is not None, weight_name


@pytest.mark.parametrize("site", ["lookup", "entry"])
@pytest.mark.parametrize("name", ARCHS)
@torch.no_grad()
def test_sites_are_of_one_vector_per_token_and_noise_there_reaches_the_logits(name, site):
    model = build(name)
    embedded = outputs_of(model, site, tokens())
    assert embedded.shape[:2] == (4, 9)
    clean = model(tokens())
    change = torch.zeros_like(embedded)
    change[0, 3] = torch.linspace(-3, 3, embedded.shape[-1])
    with shifted(model, site, change):
        moved = model(tokens())
    assert (moved[0] - clean[0]).abs().max() > 1e-4
    torch.testing.assert_close(moved[1:], clean[1:], atol=1e-5, rtol=1e-5)
    assert torch.equal(model(tokens()), clean)  # and nothing stays
    assert torch.equal(outputs_of(model, site, tokens()), embedded)


@pytest.mark.parametrize(("name", "network"), [("gpt2", "transformer"), ("roberta", "roberta")])
@torch.no_grad()
def test_the_decoder_is_causal_and_the_encoder_is_not(name, network):
    model, states = build(name), []
    getattr(model.network, network).register_forward_hook(lambda m, a, out: states.append(out[0]))
    first, second = tokens()[:1], tokens()[:1].clone()
    second[0, -1] = 1 + second[0, -1] % 14
    model(first), model(second)
    early = (states[0] - states[1])[0, :-1].abs().max()
    assert (early > 1e-6) == (name == "roberta")


@torch.no_grad()
def test_relu_attention_is_its_definition():
    generator = torch.Generator().manual_seed(2)
    query, key, value = torch.randn(3, 2, 2, 5, 4, generator=generator).unbind()
    mask = torch.zeros(2, 1, 5, 5)
    mask[1, ..., 3:] = torch.finfo(torch.float32).min
    got, _ = relu_attention(nn.Module().eval(), query, key, value, mask)
    for batch, seen in ((0, 5), (1, 3)):
        for head in range(2):
            for place in range(5):
                expected = torch.zeros(4)
                for other in range(seen):
                    score = query[batch, head, place] @ key[batch, head, other] / 2
                    expected += score.clamp(min=0) / seen * value[batch, head, other]
                torch.testing.assert_close(got[batch, place, head], expected)


@pytest.mark.parametrize("pool", ["mean", "last"])
@torch.no_grad()
def test_one_attention_is_its_definition(pool):
    """Two heads, no residual, no LayerNorm, pooled before the head: by loops over positions."""
    arch = {"name": "one_attention", "width": 4, "heads": 2, "pool": pool}
    model = build_sequence_model(arch, **FACTS).eval()
    row = tokens()[1]
    real = row[row != 0]
    x = model.embedding(real) + model.position.weight[: len(real)]
    query, key, value = model.inward(x).split(4, dim=-1)
    outs = []
    for place in range(len(real)):
        heads = []
        for one in (slice(0, 2), slice(2, 4)):
            scores = [query[place, one] @ key[other, one] / 2**0.5 for other in range(len(real))]
            weights = torch.softmax(torch.stack(scores), 0)
            heads.append((weights[:, None] * value[:, one]).sum(0))
        outs.append(model.outward(torch.cat(heads)))
    pooled = torch.stack(outs).mean(0) if pool == "mean" else outs[-1]
    torch.testing.assert_close(model(row[None])[0], model.head(pooled))


def test_a_model_of_ones_own_and_its_mistakes(tmp_path, monkeypatch):
    (tmp_path / "my_sequence_models.py").write_text(
        "from torch import nn\n"
        "class Bag(nn.Module):\n"
        "    def __init__(self, num_classes, vocabulary, length, pad, width=4):\n"
        "        super().__init__()\n"
        "        self.sites = {'lookup': 'embedding'}\n"
        "        self.embedding = nn.Embedding(vocabulary, width)\n"
        "        self.head = nn.Linear(width, num_classes)\n"
        "    def forward(self, x):\n"
        "        return self.head(self.embedding(x).mean(1))\n"
        "def siteless(**facts):\n"
        "    return nn.Linear(1, 1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    model = build_sequence_model({"name": "my_sequence_models:Bag", "width": 6}, **FACTS)
    assert model(tokens()).shape == (4, 3)
    with pytest.raises(TaskError, match="unknown site 'entry'"):
        site_of(model, "entry")
    with pytest.raises(TaskError, match="with a mapping `sites`"):
        build_sequence_model("my_sequence_models:siteless", **FACTS)
    for arch, message in (
        ("my_sequence_models:none", "wanted module:function"),
        ("lstmm", "did you mean 'lstm'"),
        ({"name": "lstm", "layer": 2}, "unknown argument 'layer'; did you mean 'layers'"),
        ({"name": "roberta", "width": 10, "heads": 4}, "multiple of the number of attention"),
        ({"name": "roberta", "attention": "rel"}, "unknown attention 'rel'"),
        ({"name": "one_attention", "width": 5, "heads": 2}, "width 5 is not a multiple"),
        ({"name": "one_attention", "pool": "max"}, "unknown pool 'max'"),
    ):
        with pytest.raises(TaskError, match=message):
            build_sequence_model(arch, **FACTS)
