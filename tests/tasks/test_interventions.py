"""Each intervention's loss equals a slow literal version of its definition."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from sensweep.tasks.api import TaskError
from sensweep.tasks.interventions import LOSSES, attacked, random_patches
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
    draws = name in ("noise_augmentation", "sensitivity_penalty")
    assert (first != loss(model, name, 2, **options)) == draws


def test_weight_decay_adds_half_the_squared_norm_whose_gradient_is_the_weights(model):
    plain, value = loss(model, "none"), loss(model, "weight_decay", strength=0.3)
    squares = sum(w.item() ** 2 for p in model.parameters() for w in p.flatten())
    assert value.item() == pytest.approx(plain.item() + 0.15 * squares, rel=1e-5)
    weights = torch.cat([p.flatten() for p in model.parameters()])
    added = gradient(value, model) - gradient(plain, model)
    torch.testing.assert_close(added, 0.3 * weights, rtol=1e-4, atol=1e-6)


def test_weights_that_are_not_trained_do_not_decay(model):
    model[1].requires_grad_(False)
    value = loss(model, "weight_decay", strength=2.0) - loss(model, "none")
    squares = sum(p.square().sum() for p in model[3].parameters())
    assert value.item() == pytest.approx(squares.item(), rel=1e-5)


def test_sam_follows_the_gradient_at_the_weights_a_step_uphill(model):
    """Algorithm 1 of Foret et al. step by step, on a copy whose weights are really moved."""
    rho = 0.4
    value = loss(model, "sam", strength=rho)
    moved = copy.deepcopy(model)
    uphill = gradient(F.cross_entropy(moved(X), Y), moved)
    length, start = uphill.square().sum().sqrt(), 0
    with torch.no_grad():
        for parameter in moved.parameters():
            part = uphill[start : start + parameter.numel()].view_as(parameter)
            parameter += rho * part / length
            start += parameter.numel()
    there = F.cross_entropy(moved(X), Y)
    assert value.item() == pytest.approx(there.item(), rel=1e-5)
    assert value > loss(model, "none") + 0.01
    torch.testing.assert_close(gradient(value, model), gradient(there, moved))


def test_sam_without_a_step_is_plain_training(model):
    value, plain = loss(model, "sam", strength=0.0), loss(model, "none")
    assert value.item() == pytest.approx(plain.item(), rel=1e-6)
    torch.testing.assert_close(gradient(value, model), gradient(plain, model))


def test_sam_counts_running_statistics_once():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(48, 3))
    plain = copy.deepcopy(model)
    loss(model, "sam", strength=5.0)
    loss(plain, "none")
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, plain.get_buffer(name)), name


def library_attack(model, attack, epsilon, steps, start):
    """The images as the Adversarial Robustness Toolbox attacks them."""
    from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescentNumpy
    from art.estimators.classification import PyTorchClassifier

    net = copy.deepcopy(model).eval()
    criterion = nn.CrossEntropyLoss(reduction="sum")
    classifier = PyTorchClassifier(
        net, criterion, (2, 6, 6), 3, clip_values=(0.0, 1.0), device_type="cpu"
    )
    if attack == "fgsm":
        method = FastGradientMethod(classifier, eps=epsilon)
        return torch.from_numpy(method.generate(X.numpy(), F.one_hot(Y, 3).numpy()))
    # Its own random start is off: each step starts from where ours did, and is projected by hand.
    moved = start
    for _ in range(steps):
        method = ProjectedGradientDescentNumpy(
            classifier, eps=1.0, eps_step=2.5 * epsilon / steps, max_iter=1, verbose=False
        )
        moved = torch.from_numpy(method.generate(moved.numpy(), F.one_hot(Y, 3).numpy()))
        moved = (X + (moved - X).clamp(-epsilon, epsilon)).clamp(0, 1)
    return moved


@pytest.mark.parametrize("attack", ["fgsm", "pgd"])
def test_adversarial_training_sees_the_images_as_the_library_attacks_them(model, attack):
    epsilon, steps = 0.06, 4
    spec = INTERVENTIONS["adversarial_training"](strength=epsilon, attack=attack, steps=steps)
    ours = attacked(model, X, Y, spec, generator())
    start = X + epsilon * (2 * torch.rand(X.shape, generator=generator()) - 1)
    theirs = library_attack(model, attack, epsilon, steps, start.clamp(0, 1))
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
    assert (ours - X).abs().max().item() == pytest.approx(epsilon, abs=1e-6)
    assert 0 <= ours.min() <= ours.max() <= 1
    value = loss(model, "adversarial_training", strength=epsilon, attack=attack, steps=steps)
    assert value.item() == F.cross_entropy(model(ours), Y).item()
    assert value > loss(model, "none")


def test_attacks_are_made_in_eval_mode_and_leave_the_model_as_it_was(model):
    net = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm2d(2), model)
    net[2].eval()
    before = copy.deepcopy(net.state_dict())
    spec = INTERVENTIONS["adversarial_training"](strength=0.1, attack="pgd", steps=2)
    twice = [attacked(net, X, Y, spec, generator()) for _ in range(2)]
    assert torch.equal(*twice)  # dropout would have made them differ
    assert [part.training for part in net] == [True, True, False]
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


def test_without_a_strength_adversarial_training_is_plain(model):
    for attack in ("fgsm", "pgd"):
        value = loss(model, "adversarial_training", strength=0.0, attack=attack)
        assert value == loss(model, "none")


@pytest.mark.parametrize("name", ["weight_decay", "sam", "adversarial_training"])
@pytest.mark.parametrize("compiled", [False, True])
def test_trains_a_model_that_normalises_its_batches(name, compiled):
    """As `train` calls it, also through the module that torch.compile gives."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(48, 3))
    forward = torch.compile(model, backend="eager") if compiled else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    spec = INTERVENTIONS[name](strength=0.01)
    values = []
    for _ in range(15):
        value = LOSSES[name](forward, X, Y, spec, F.cross_entropy, generator())
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.7 * values[0]


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
