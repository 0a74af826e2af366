"""Sensitivity to tokens against its definitions, on hand-built models, and as tasks."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from sensweep.tasks.api import Checkpoint, Context, TaskError
from sensweep.tasks.sequence_evaluation import sequence_subject
from sensweep.tasks.sequence_models import build_sequence_model, outputs_of, shifted
from sensweep.tasks.sequence_sensitivity import (
    embedding_norm,
    mean_over_tokens,
    noise_flips,
    position_profile,
    replacement_flips,
    sentence_flips,
)
from sensweep.tasks.token_sensitivity import (
    token_sensitivity,
    with_a_word_replaced,
    word_sensitivity,
)
from sensweep.tasks.train_tokens import train_tokens

VOCABULARY, LENGTH, PAD = 12, 6, 0
SPECIAL = torch.tensor([True, True, True] + [False] * 9)  # padding, start, separator


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sentences() -> torch.Tensor:
    """Four sentences: start, words, separator, padding."""
    x = torch.randint(3, 12, (4, 6), generator=generator(7))
    x[:, 0] = 1
    for row, length in enumerate((6, 4, 5, 3)):
        x[row, length - 1] = 2
        x[row, length:] = 0
    return x


def small(name: str = "gpt2") -> nn.Module:
    archs = {
        "gpt2": {"name": "gpt2", "layers": 1, "width": 8, "heads": 2, "hidden": 8},
        "lstm": {"name": "lstm", "layers": 1, "width": 8},
        "one_attention": {"name": "one_attention", "width": 8},
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_sequence_model(
            archs[name], num_classes=4, vocabulary=VOCABULARY, length=LENGTH, pad=PAD
        )
        with torch.no_grad():
            for key, weight in model.named_parameters():
                # The initial logits of some hardly depend on the tokens.
                weight.mul_(0 if key.endswith("bias") else 4)
    return model.eval()


class Reads(nn.Module):
    """Class 1 where the chosen coordinate of one token's embedding is positive.

    The embedding of an id is (id - 7.5, 0); which token is read is told by its place from the
    end, or from the start.
    """

    def __init__(self, place: int) -> None:
        super().__init__()
        self.place, self.sites = place, {"lookup": "embedding", "entry": "embedding"}
        table = torch.stack([torch.arange(12) - 7.5, torch.zeros(12)], 1)
        self.embedding = nn.Embedding.from_pretrained(table)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        lengths = (tokens != PAD).sum(1)
        place = self.place if self.place >= 0 else lengths + self.place
        read = self.embedding(tokens)[torch.arange(len(tokens)), place, 0]
        return torch.stack([torch.zeros_like(read), read], 1)


class Constant(Reads):
    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        self.embedding(tokens)
        return torch.tensor([0.0, 1.0]).expand(len(tokens), 2)


class Diverged(Constant):
    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return super().forward(tokens) * math.nan


@torch.inference_mode()
def literal_replacement(model, tokens, draws, seed):
    """Definition 4.1 word for word: one word, one draw, one forward pass at a time."""
    source, words = generator(seed), [i for i in range(12) if not SPECIAL[i]]
    drawn = [torch.randint(9, tokens.shape, generator=source) for _ in range(draws)]
    flips = torch.full(tokens.shape, math.nan, dtype=torch.float64)
    for row, sentence in enumerate(tokens):
        length = int((sentence != PAD).sum())
        before = model(sentence[None, :length]).argmax().item()
        for place in range(length):
            if SPECIAL[sentence[place]]:
                continue
            count = 0
            for draw in drawn:
                moved = sentence[:length].clone()
                moved[place] = words[draw[row, place]]
                count += model(moved[None]).argmax().item() != before
            flips[row, place] = count / draws
    return flips


@torch.inference_mode()
def literal_noise(model, tokens, site, stds, draws, seed, whole=False):
    """One token's embedding (or all), one draw, one size, one forward pass at a time."""
    width = outputs_of(model, site, tokens).shape[-1]
    source = generator(seed)
    noises = [torch.randn(*tokens.shape, width, generator=source) for _ in range(draws)]
    flips = torch.full((len(stds), *tokens.shape), math.nan, dtype=torch.float64)
    for row, sentence in enumerate(tokens):
        length = int((sentence != PAD).sum())
        alone = sentence[None, :length]
        before = model(alone).argmax().item()
        for place in range(length):
            for size, std in enumerate(stds):
                count = 0
                for noise in noises:
                    change = torch.zeros(1, length, width)
                    reached = slice(0, length) if whole else place
                    change[0, reached] = std * noise[row, reached]
                    with shifted(model, site, change):
                        count += model(alone).argmax().item() != before
                flips[size, row, place] = count / draws
    return flips[:, :, 0] if whole else flips


def equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(), b.nan_to_num())


@pytest.mark.parametrize("name", ["gpt2", "lstm", "one_attention"])
def test_replacement_equals_the_definition(name):
    model = small(name)
    kwargs = {"pad": PAD, "special": SPECIAL, "draws": 5}
    ours = replacement_flips(model, sentences(), generator=generator(5), batch_size=7, **kwargs)
    truth = literal_replacement(model, sentences(), draws=5, seed=5)
    assert equal(ours, truth)
    assert 0 < ours.nanmean() < 1  # the model is such that this says something


@pytest.mark.parametrize("site", ["lookup", "entry"])
@pytest.mark.parametrize("name", ["gpt2", "lstm", "one_attention"])
def test_noise_equals_the_definition(name, site):
    model, stds = small(name), [0.5, 3.0]
    kwargs = {"pad": PAD, "site": site, "stds": stds, "draws": 3}
    ours = noise_flips(model, sentences(), generator=generator(5), batch_size=5, **kwargs)
    assert equal(ours, literal_noise(model, sentences(), site, stds, 3, seed=5))
    assert 0 < ours.nanmean() < 1
    whole = sentence_flips(model, sentences(), generator=generator(5), batch_size=3, **kwargs)
    assert equal(whole, literal_noise(model, sentences(), site, stds, 3, seed=5, whole=True))


def test_mean_is_over_each_sequences_tokens_first():
    nan = math.nan
    flips = torch.tensor([[1.0, 0.0, nan], [1.0, nan, nan], [nan, nan, nan]], dtype=torch.float64)
    wanted = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 0, 0]], dtype=torch.bool)
    assert mean_over_tokens(flips, wanted) == pytest.approx((0.5 + 1 + 0) / 3)
    diverged = torch.tensor([[nan, 0.0, nan], *flips[1:].tolist()], dtype=torch.float64)
    assert math.isnan(mean_over_tokens(diverged, wanted))


@pytest.mark.parametrize(("place", "spike"), [(-2, 1), (-3, 2)])
def test_a_model_that_reads_one_place_has_a_profile_with_one_spike(place, spike):
    x = sentences()[:3]  # of three words at least, or the place would be that of another kind
    kwargs = {"pad": PAD, "special": SPECIAL, "draws": 200}
    flips = replacement_flips(Reads(place), x, generator=generator(), **kwargs)
    profile = list(position_profile(flips, x, pad=PAD, special=SPECIAL, positions=6))
    assert {kind for kind, _, _ in profile} == {"word"}
    for _, position, value in profile:
        if position == spike:  # ids 3 to 7 are negative, 8 to 11 positive
            truth = [4 / 9 if x[r, (x[r] != 0).sum() + place] < 8 else 5 / 9 for r in range(3)]
            assert value == pytest.approx(sum(truth) / 3, abs=0.06)
        else:
            assert value == 0


def test_a_model_that_reads_the_first_token_is_sensitive_there_alone():
    x = sentences()
    flips = noise_flips(
        Reads(0), x, pad=PAD, site="lookup", stds=[6.5], draws=2000, generator=generator()
    )[0]
    kinds = {}
    for kind, position, value in position_profile(flips, x, pad=PAD, special=SPECIAL, positions=6):
        kinds.setdefault((kind, position), value)
    # The embedding of the start is 6.5 below the threshold: one standard deviation.
    truth = 0.5 * math.erfc(1 / math.sqrt(2))
    assert kinds.pop(("start", None)) == pytest.approx(truth, abs=0.02)
    assert set(kinds.values()) == {0.0}
    assert ("separator", 0) in kinds
    assert ("separator", 1) not in kinds


def test_a_constant_model_has_no_sensitivity_and_a_diverged_one_none_that_counts():
    x = sentences()
    noise = {"pad": PAD, "site": "lookup", "stds": [9.0], "draws": 2}
    words = {"pad": PAD, "special": SPECIAL, "draws": 2}
    for model, expected in ((Constant(0), 0.0), (Diverged(0), math.nan)):
        found = [
            mean_over_tokens(
                replacement_flips(model, x, generator=generator(), **words), ~SPECIAL[x]
            ),
            mean_over_tokens(noise_flips(model, x, generator=generator(), **noise)[0], x != PAD),
            sentence_flips(model, x, generator=generator(), **noise).mean().item(),
        ]
        assert found == pytest.approx([expected] * 3, nan_ok=True)


def test_names_of_classes_do_not_matter():
    class Relabelled(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = small()
            self.sites = {k: f"inner.{v}" for k, v in self.inner.sites.items()}

        def forward(self, x):
            return self.inner(x)[:, [2, 0, 3, 1]]

    kwargs = {"pad": PAD, "site": "entry", "stds": [0.5, 3.0], "draws": 3}
    one = noise_flips(small(), sentences(), generator=generator(), **kwargs)
    other = noise_flips(Relabelled(), sentences(), generator=generator(), **kwargs)
    assert equal(one, other)


def test_spared_tokens_are_not_noised():
    kwargs = {"pad": PAD, "site": "lookup", "stds": [50.0], "draws": 20}
    reads_start = sentence_flips(Reads(0), sentences(), generator=generator(), **kwargs)
    assert reads_start.mean() > 0.3
    spared = sentence_flips(Reads(0), sentences(), generator=generator(), spared=SPECIAL, **kwargs)
    assert spared.sum() == 0


def test_batches_and_other_sizes_do_not_change_the_numbers(unchanged):
    model = small("lstm").double()
    kwargs = {"pad": PAD, "site": "entry", "draws": 3}
    with unchanged():
        whole = noise_flips(model, sentences(), stds=[0.5, 3.0], generator=generator(), **kwargs)
    for batch_size in (1, 5):
        again = noise_flips(
            model,
            sentences(),
            stds=[3.0],
            generator=generator(),
            batch_size=batch_size,
            **kwargs,
        )
        assert equal(again[0], whole[1])


def test_examines_the_model_in_eval_mode_and_leaves_it_as_it_was():
    model = small().train()
    model.network.score.eval()
    modes = [module.training for module in model.modules()]
    kwargs = {"pad": PAD, "site": "lookup", "stds": [1e-9], "draws": 2}
    assert noise_flips(model, sentences(), generator=generator(), **kwargs).nansum() == 0
    assert [module.training for module in model.modules()] == modes


def test_embedding_norm_is_the_mean_over_tokens():
    model = small("lstm")
    norm, width = embedding_norm(model, sentences(), pad=PAD, site="lookup")
    real = sentences()[sentences() != PAD]
    assert norm == pytest.approx(model.embedding.weight[real].norm(dim=-1).mean().item())
    assert width == 8


def test_words_are_replaced_one_at_a_time_in_the_first_text():
    texts = [("a b", "c"), ("", "d"), ("e",)]
    changed, owner = with_a_word_replaced(texts, ["x", "y"], 3, generator())
    assert owner.tolist() == [0] * 6 + [2] * 3
    for place in range(2):
        for first, second in changed[3 * place : 3 * place + 3]:
            parts = first.split()
            assert parts[1 - place] == "ab"[1 - place]
            assert parts[place] in "xy"
            assert second == "c"
    assert all(text in (("x",), ("y",)) for text in changed[6:])


TEXT = {"dataset": "roles", "train_size": 320, "max_length": 24, "epochs": 4, "lr": 0.02}


@pytest.fixture(scope="module")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder: Path = tmp_path_factory.mktemp("text")
    arch = {"name": "lstm", "layers": 1, "width": 16}
    for _ in train_tokens({**TEXT, "arch": arch}, Context(seed=1, folder=folder)):
        pass
    return Checkpoint("train", 4, folder / "step-000004.pt")


@pytest.fixture(scope="module")
def cue_model(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder: Path = tmp_path_factory.mktemp("cues")
    params = {"dataset": {"name": "cues", "examples": 200}, "arch": "one_attention", "lr": 0.01}
    for _ in train_tokens(params | {"epochs": 2}, Context(seed=1, folder=folder)):
        pass
    return Checkpoint("train", 2, folder / "step-000002.pt")


def test_task_gives_every_measure_with_its_coordinates(text_model, unchanged):
    params = {
        "sigmas": [0.5, 2.0],
        "variances": [15],
        "sentence_sigmas": [1.0],
        "sentence_variances": [0.5],
        "sequences": 8,
        "draws": 1,
        "positions": 3,
    }
    with unchanged():
        rows = list(token_sensitivity(params, Context(parents={"train": text_model})))
    assert {row.step for row in rows} == {4}
    found = [
        (row.name, {k: v for k, v in row.coordinates.items() if k != "split"})
        for row in rows
        if row.name != "position_sensitivity"
    ]
    assert found == [
        ("accuracy", {}),
        ("embedding_norm", {}),
        ("token_sensitivity", {}),
        ("embedding_sensitivity", {"sigma": 0.5}),
        ("embedding_sensitivity", {"sigma": 2.0}),
        ("embedding_sensitivity", {"variance": 15}),
        ("sentence_sensitivity", {"sigma": 1.0}),
        ("sentence_sensitivity", {"variance": 0.5}),
        ("noise_ratio", {"variance": 0.5}),
        ("noise_ratio", {"variance": 15}),
    ]
    by_place = [row.coordinates for row in rows if row.name == "position_sensitivity"]
    kinds = {(c["perturbation"], c["token"], c.get("position_from_end")) for c in by_place}
    words = {("word", 1), ("word", 2)}
    assert kinds == {("replacement", *word) for word in words} | {
        ("noise", *place) for place in {*words, ("separator", 0), ("start", None)}
    }
    norm = rows[1].value
    assert rows[-1].value == pytest.approx(math.sqrt(15) * math.sqrt(16) / norm)


def test_relative_noise_is_of_the_size_that_was_asked_for(cue_model):
    """A relative size and the variance that it amounts to give the same number."""
    base = {"sigmas": [2.0], "replacement": False, "sequences": 16}
    context = Context(parents={"train": cue_model})
    _, norm, relative = token_sensitivity(base, context)
    variance = (2.0 * norm.value) ** 2 / 32
    rows = list(token_sensitivity({**base, "sigmas": [], "variances": [variance]}, context))
    assert rows[2].value == relative.value
    assert 0 < relative.value < 1
    assert rows[3].value == pytest.approx(2.0)


def test_rows_depend_on_the_seed_and_on_nothing_that_ran_before(cue_model):
    def rows(seed: int) -> list:
        context = Context(seed=seed, parents={"any": cue_model}, cache=cache)
        return list(token_sensitivity({"sequences": 20}, context))

    cache: dict[str, object] = {}
    first = rows(0)
    torch.manual_seed(77)
    assert rows(0) == first
    assert rows(1) != first


def test_of_the_train_split_only_what_was_trained_on_is_examined(text_model):
    context = Context(parents={"train": text_model})
    subject = sequence_subject(context, "train", 1000)
    assert len(subject.texts) == len(subject.sequences.y) == 320
    assert set(subject.texts) == set(subject.data.texts["train"][:320])
    assert torch.equal(
        subject.data.encoding.encode(subject.texts[:1])[0],
        subject.sequences.x[0][subject.sequences.x[0] != PAD],
    )


def test_word_sensitivity_is_the_plain_loop(text_model):
    context = Context(parents={"train": text_model})
    (row,) = word_sensitivity({"sequences": 6, "draws": 2}, context)
    subject = sequence_subject(context, "train", 6)
    words = sorted({w for (text,) in subject.data.texts["train"] for w in text.split()})
    source = generator(context.stream("word replacement"))
    total = 0.0
    with torch.inference_mode():

        def predict(text: str) -> int:
            return subject.model(subject.data.encoding.encode([(text,)])).argmax().item()

        for (text,) in subject.texts:
            parts = text.split()
            drawn = torch.randint(len(words), (len(parts), 2), generator=source)
            flips = [
                predict(" ".join([*parts[:place], words[choice], *parts[place + 1 :]]))
                != predict(text)
                for place in range(len(parts))
                for choice in drawn[place].tolist()
            ]
            total += sum(flips) / len(flips)
    assert row.value == pytest.approx(total / 6)
    assert 0 < row.value < 1
    assert (row.name, row.step, row.coordinates) == ("word_sensitivity", 4, {"split": "train"})


def test_bad_input_is_one_clear_line(cue_model, trained):
    with pytest.raises(TaskError, match="words can be changed in texts alone"):
        list(word_sensitivity({}, Context(parents={"train": cue_model})))
    with pytest.raises(TaskError, match="needs one checkpoint, and got 0"):
        list(token_sensitivity({}, Context()))
    with pytest.raises(TaskError, match="is not of the task train_tokens"):
        list(token_sensitivity({}, Context(parents={"train": trained})))
