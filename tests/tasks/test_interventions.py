"""Each intervention's loss equals a slow literal version of its definition."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from sensweep.tasks.api import TaskError
from sensweep.tasks.interventions import LOSSES, random_patches
from sensweep.tasks.params.interventions import INTERVENTIONS


@pytest.fixture
def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(2 * 6 * 6, 8), nn.Tanh(), nn.Linear(8, 3))


X = torch.rand(5, 2, 6, 6, generator=torch.Generator().manual_seed(1))
Y = torch.tensor([0, 1, 2, 0, 1])


def generator(seed=7):
    return torch.Generator().manual_seed(seed)


def loss(model, name, seed=7, **options):
    spec = INTERVENTIONS[name](**options)
    return LOSSES[name](model, X.clone(), Y, spec, F.cross_entropy, generator(seed))


def gradient(value, model):
    return torch.cat([g.flatten() for g in torch.autograd.grad(value, list(model.parameters()))])


def spy(model):
    """Wrap the model so that the batches it is called on are kept."""
    seen = []

    def forward(x):
        seen.append(x)
        return model(x)

    return forward, seen


def test_none_is_the_cross_entropy(model):
    logits = model(X).double()
    by_hand = -torch.stack([row.log_softmax(0)[y] for row, y in zip(logits, Y, strict=True)]).mean()
    assert loss(model, "none").item() == pytest.approx(by_hand.item(), rel=1e-6)


def test_penalty_is_its_definition_image_by_image(model):
    forward, seen = spy(model)
    p, side = 0.3, 2
    value = loss(forward, "sensitivity_penalty", strength=p, patch=side, noise=0.8)
    clean, perturbed = seen if torch.equal(seen[0], X) else reversed(seen)
    assert torch.equal(clean, X)

    cross_entropy, squares = 0.0, []
    for i in range(len(X)):
        changed = (perturbed[i] != X[i]).nonzero()
        # One contiguous patch, in all channels.
        assert len(changed) == 2 * side * side
        low, high = changed.min(0).values, changed.max(0).values
        assert (high - low).tolist() == [1, side - 1, side - 1]
        logits = model(X[i : i + 1])[0]
        moved = model(perturbed[i : i + 1])[0]
        cross_entropy = cross_entropy - logits.log_softmax(0)[Y[i]]
        squares += [(moved[k] - logits[k]) ** 2 for k in range(3)]
    by_hand = (1 - p) * cross_entropy / len(X) + p * sum(squares) / len(squares)
    assert value.item() == pytest.approx(by_hand.item(), rel=1e-5)
    # The clean logits are not detached: both gradients flow.
    torch.testing.assert_close(gradient(value, model), gradient(by_hand, model))


def test_penalty_noise_has_the_asked_size(model):
    forward, seen = spy(model)
    moves = []
    noise = generator()
    for _ in range(400):
        seen.clear()
        spec = INTERVENTIONS["sensitivity_penalty"](patch=2, noise=0.5)
        LOSSES["sensitivity_penalty"](forward, X, Y, spec, F.cross_entropy, noise)
        moved = max(seen, key=lambda it: (it - X).abs().sum()) - X
        moves.append(moved[moved != 0])
    moves = torch.cat(moves)
    assert moves.mean().item() == pytest.approx(0, abs=0.02)
    assert moves.std().item() == pytest.approx(0.5, rel=0.03)


def test_penalty_at_its_ends(model):
    plain = loss(model, "none")
    torch.testing.assert_close(loss(model, "sensitivity_penalty", strength=0.0), plain)
    assert loss(model, "sensitivity_penalty", strength=1.0, noise=0.0).item() == 0


def test_noise_augmentation_trains_on_noised_images_only(model):
    forward, seen = spy(model)
    value = loss(forward, "noise_augmentation", strength=0.2)
    (noised,) = seen
    assert value.item() == F.cross_entropy(model(noised), Y).item()
    assert (noised != X).all()

    big = torch.zeros(200, 2, 20, 20)
    seen.clear()
    spec = INTERVENTIONS["noise_augmentation"](strength=0.2, probability=0.25)
    net = spy(lambda x: torch.zeros(len(x), 3))
    labels = torch.zeros(200, dtype=torch.long)
    LOSSES["noise_augmentation"](net[0], big, labels, spec, F.cross_entropy, generator())
    added = net[1][0]
    touched = (added != 0).flatten(1).float().mean(1)
    assert set(touched.tolist()) == {0.0, 1.0}  # an image is noised in every pixel, or in none
    assert touched.mean().item() == pytest.approx(0.25, abs=0.1)
    assert added[touched == 1].std().item() == pytest.approx(0.2, rel=0.02)


def test_noise_augmentation_of_strength_zero_is_none(model):
    assert loss(model, "noise_augmentation", strength=0.0) == loss(model, "none")


@pytest.mark.parametrize("name", INTERVENTIONS)
def test_rows_draw_from_their_own_generator_only(model, name, unchanged):
    options = {} if name == "none" else {"strength": 0.5}
    with unchanged():
        first = loss(model, name, 1, **options)
    assert first == loss(model, name, 1, **options)
    if name != "none":
        assert first != loss(model, name, 2, **options)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.data())
def test_patches_are_contiguous_and_inside(height, width, data):
    side = data.draw(st.integers(1, min(height, width)))
    mask = random_patches(torch.Size((50, 3, height, width)), side, generator(), X.device)
    assert mask.shape == (50, 1, height, width)
    for image in mask[:, 0]:
        rows, columns = image.any(1).nonzero()[:, 0], image.any(0).nonzero()[:, 0]
        assert image.sum() == side**2
        assert len(rows) == len(columns) == side
        assert rows[-1] - rows[0] == columns[-1] - columns[0] == side - 1


def test_patches_are_placed_uniformly():
    mask = random_patches(torch.Size((20_000, 1, 4, 5)), 2, generator(), X.device)[:, 0]
    corner = mask.flatten(1).int().argmax(1)  # the top left pixel: one of 3x4 places
    counts = corner.bincount(minlength=20)[[r * 5 + c for r in range(3) for c in range(4)]]
    assert counts.sum() == 20_000
    expected = 20_000 / 12
    chi_square = ((counts - expected) ** 2 / expected).sum().item()
    assert chi_square < 31.3  # 99.9% quantile with 11 degrees of freedom


def test_a_patch_larger_than_the_image_gets_one_line(model):
    with pytest.raises(TaskError, match="patch=7 is larger than the images of 6x6"):
        loss(model, "sensitivity_penalty", patch=7)
