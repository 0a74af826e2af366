"""The transformer of bits: its variants, what it reads, and that it is torch's own."""

from __future__ import annotations

import pytest
import torch
from boolean_models import transformer
from torch import nn

from sensweep.tasks.boolean import Target, all_strings, random_strings
from sensweep.tasks.boolean_model import START, posed

VARIANTS = [
    {"norm": norm, "attention": attention, "embedding": embedding}
    for norm in ("post", "pre")
    for attention in ("softmax", "relu")
    for embedding in ("concatenate", "add")
]


def torch_layer(layer: nn.Module, width: int, heads: int, decoder: bool, pre: bool) -> nn.Module:
    """Copy a layer's weights into torch's own."""
    kind = nn.TransformerDecoderLayer if decoder else nn.TransformerEncoderLayer
    twin = kind(width, heads, width, 0.0, batch_first=True, norm_first=pre).double().eval()
    pairs = [(twin.self_attn, layer.attention)]
    pairs += [(twin.multihead_attn, layer.cross)] if decoder else []
    with torch.no_grad():
        for theirs, ours in pairs:
            theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key_value.weight]))
            theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key_value.bias]))
            theirs.out_proj.load_state_dict(ours.out.state_dict())
    twin.linear1.load_state_dict(layer.feedforward[0].state_dict())
    twin.linear2.load_state_dict(layer.feedforward[2].state_dict())
    norms = [layer.norm1, layer.norm_cross, layer.norm2] if decoder else [layer.norm1, layer.norm2]
    for number, norm in enumerate(norms, start=1):
        getattr(twin, f"norm{number}").load_state_dict(norm.state_dict())
    return twin


def stirred(model: nn.Module) -> nn.Module:
    """Move all weights, biases and gains included, off the values that they start with."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn(weight.shape, generator=generator))
    return model


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_the_encoder_is_torchs_read_at_the_last_position(norm):
    model = stirred(transformer(norm=norm))
    bits = all_strings(5)
    x = torch.cat([model.tokens(bits), model.positions.weight[:5].expand(32, -1, -1)], dim=2)
    for layer in model.encoder:
        x = torch_layer(layer, 8, 2, decoder=False, pre=norm == "pre")(x)
    assert torch.allclose(model(bits), model.head(model.norm(x))[:, -1, 0], atol=1e-10)


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_the_scratchpad_is_torchs_decoder_and_sees_no_later_answer(norm):
    model = stirred(transformer(norm=norm, scratchpad=True))
    arguments, _ = posed(model, Target("parity"), all_strings(5))
    bits, answers = arguments
    x, y = (
        torch.cat([model.tokens(z), model.positions.weight[:5].expand(32, -1, -1)], dim=2)
        for z in (bits, answers)
    )
    pre = norm == "pre"
    for layer in model.encoder:
        x = torch_layer(layer, 8, 2, decoder=False, pre=pre)(x)
    mask = nn.Transformer.generate_square_subsequent_mask(5, dtype=torch.float64)
    for layer in model.decoder:
        y = torch_layer(layer, 8, 2, decoder=True, pre=pre)(y, x, tgt_mask=mask)
    found = model(bits, answers)
    assert torch.allclose(found, model.head(model.norm(y))[:, :, 0], atol=1e-10)
    later = answers.clone()
    later[:, 3] ^= 1
    assert torch.allclose(model(bits, later)[:, :3], found[:, :3], atol=1e-12)
    assert not torch.allclose(model(bits, later)[:, 3], found[:, 3])


@pytest.mark.parametrize("arguments", VARIANTS)
def test_every_variant_reads_all_bits_and_their_order_and_gives_one_number(arguments):
    model = stirred(transformer(**arguments, depth=3))
    bits = random_strings(6, 6, torch.Generator().manual_seed(1))
    assert model(bits).shape == (6,)
    for bit in range(6):
        moved = bits.clone()
        moved[:, bit] ^= 1
        assert (model(moved) != model(bits)).all()
    swapped = torch.tensor([[0, 1, 0, 1, 1, 0], [1, 0, 0, 1, 1, 0]])
    assert model(swapped)[0] != model(swapped)[1]


def test_relu_attention_divides_by_the_number_of_keys():
    layer = transformer(attention="relu").encoder[0].attention
    at, to = torch.randn(1, 2, 8).double(), torch.randn(1, 3, 8).double()
    heads = []
    for head in range(2):
        part = slice(4 * head, 4 * head + 4)
        q = layer.query(at)[0, :, part]
        k, v = layer.key_value(to)[0, :, :8][:, part], layer.key_value(to)[0, :, 8:][:, part]
        heads.append((q @ k.T / 2).clamp(min=0) / 3 @ v)
    assert torch.allclose(layer(at, to)[0], layer.out(torch.cat(heads, dim=1)), atol=1e-12)


def test_a_scratchpad_reads_its_own_answers():
    model = stirred(transformer(scratchpad=True))
    bits = all_strings(4)
    found = model.answer(bits)
    given = torch.full((16, 1), START)
    for place in range(4):
        answers = (model(bits, given) > 0.5).long()[:, -1]
        assert torch.equal(found[:, place], answers)
        given = torch.cat([given, answers[:, None]], dim=1)


def test_posed_gives_the_scratchpad_the_answers_before_each_one():
    bits = torch.tensor([[1, 1, 0, 1]])
    arguments, wanted = posed(transformer(scratchpad=True), Target("parity"), bits)
    assert arguments[1].tolist() == [[START, 1, 0, 0]]
    assert wanted.tolist() == [[1, 0, 0, 1]]
    arguments, wanted = posed(transformer(), Target("parity"), bits)
    assert len(arguments) == 1
    assert wanted.tolist() == [1]


def test_randomised_places_rise_between_fixed_ends_and_are_evenly_spaced_at_rest():
    model = transformer(positions=20, places="randomised")
    assert model._places(20).tolist() == list(range(20))
    assert model._places(5).tolist() == [0, 5, 10, 14, 19]
    model.train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        drawn = [model._places(7).tolist() for _ in range(200)]
    assert all(places == sorted(set(places)) for places in drawn)
    assert {(places[0], places[-1]) for places in drawn} == {(0, 19)}
    assert {place for places in drawn for place in places} == set(range(20))
