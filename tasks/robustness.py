"""Robustness: accuracy under common corruptions, made here or published, and under attacks."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sensweep.tasks.api import Context, Measurement, measure
from sensweep.tasks.cifar_c import CifarC
from sensweep.tasks.corruptions import corrupt
from sensweep.tasks.evaluation import predictions
from sensweep.tasks.isolation import isolated
from sensweep.tasks.params.robustness import RobustnessParams
from sensweep.tasks.subject import subject


def robustness(params: Mapping[str, object], context: Context) -> Iterator[Measurement]:
    """Yield the accuracies of one checkpoint on clean, corrupted and attacked images.

    `accuracy` has coordinates corruption and severity (none and 0 for the clean images);
    `corruption_accuracy` is its mean over all corruptions and severities. Both have the
    coordinate benchmark: ``CIFAR-10-C`` if the images are the published ones (`cifar_c`), else
    ``CIFAR-C-style``. `adversarial_accuracy` has coordinates attack and epsilon (in pixels of
    [0, 1]).
    Images, noise and the attacks' starts depend on the seed alone: every model of a seed meets
    the same ones, in whatever order and company.

    Raises:
        TaskError: no single checkpoint, images that are neither grey nor RGB, or published arrays
            that are missing or do not fit the model.
    """
    p = RobustnessParams.model_validate(params)
    scope = partial(isolated, context.device, context.threads)
    with scope(context.stream("robustness")):
        model, (x, y), step = subject(context, p.split, p.images)
        model.to(memory_format=torch.channels_last)  # convolutions on a CPU are up to 2x faster
        clean = (predictions(model, x, p.batch_size) == y).double().mean().item()
    yield measure("accuracy", clean, step=step, corruption="none", severity=0)
    published = None
    if p.cifar_c is not None:
        published = CifarC(p.cifar_c, p.images, context.stream("images/cifar_c"))
    benchmark = "CIFAR-C-style" if published is None else "CIFAR-10-C"
    corrupted = []
    for corruption in p.corruptions:
        for severity in p.severities:
            generator = torch.Generator().manual_seed(context.stream(f"{corruption}/{severity}"))
            with scope(context.stream("robustness")):
                if published is None:
                    changed, labels = corrupt(x.cpu(), corruption, severity, generator), y
                else:
                    changed, labels = published.read(corruption, severity, x.shape[1:])
                guesses = predictions(model, changed.to(x), p.batch_size)
            corrupted.append((guesses == labels.to(y)).double().mean().item())
            yield measure(
                "accuracy",
                corrupted[-1],
                step=step,
                corruption=corruption,
                severity=severity,
                benchmark=benchmark,
            )
    if corrupted:
        mean = sum(corrupted) / len(corrupted)
        yield measure("corruption_accuracy", mean, step=step, benchmark=benchmark)
    x, y = x[: p.attack_images], y[: p.attack_images]
    for attack in p.attacks:
        for epsilon in p.epsilons:
            with scope(context.stream("robustness")):
                value = adversarial_accuracy(
                    model,
                    x,
                    y,
                    attack=attack,
                    epsilon=epsilon,
                    steps=p.pgd_steps,
                    seed=context.stream("pgd"),
                    batch_size=p.batch_size,
                )
            yield measure("adversarial_accuracy", value, step=step, attack=attack, epsilon=epsilon)


def adversarial_accuracy(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    attack: str,
    epsilon: float,
    steps: int = 10,
    seed: int = 0,
    batch_size: int = 256,
) -> float:
    """Attack each image and give the fraction that is classified right before and after.

    An image that is misclassified as it is counts as lost, for a change of nothing is within
    every bound; so the value never exceeds the clean accuracy.

    Args:
        model: from [N, C, H, W] to logits; attacked in eval mode, as a copy.
        images: float32 [N, C, H, W] in [0, 1], where attacked images stay.
        labels: int64 [N].
        attack: ``fgsm``, one step of size epsilon along the sign of the gradient of the
            cross-entropy (Goodfellow et al., ICLR 2015); or ``pgd``, `steps` projected steps of
            2.5 epsilon / steps from a random start (Madry et al., ICLR 2018).
        epsilon: largest change of a pixel.
        steps: steps of pgd.
        seed: of the random starts of pgd.
        batch_size: images in one forward and backward pass.
    """
    # Here, because it takes a second to import, and only attacks need it.
    from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    target = copy.deepcopy(model).eval().requires_grad_(False)
    right = predictions(target, images, batch_size) == labels
    classes = target(images[:1]).shape[1]
    # Summed, not averaged: the attacks use the gradient's sign, and a batch's size as divisor
    # would only let the gradients of confident predictions vanish sooner.
    classifier = PyTorchClassifier(
        target,
        nn.CrossEntropyLoss(reduction="sum"),
        tuple(images.shape[1:]),
        classes,
        clip_values=(0.0, 1.0),
        device_type="gpu" if images.is_cuda else "cpu",
    )
    if attack == "fgsm":
        method = FastGradientMethod(classifier, eps=epsilon, batch_size=batch_size)
    else:
        method = ProjectedGradientDescentPyTorch(
            classifier,
            eps=epsilon,
            eps_step=2.5 * epsilon / steps,
            max_iter=steps,
            num_random_init=1,
            batch_size=batch_size,
            verbose=False,
        )
    # The library draws from the global generator of numpy.
    with isolated(str(images.device), torch.get_num_threads(), seed):
        attacked = method.generate(images.cpu().numpy(), F.one_hot(labels, classes).cpu().numpy())
    held = predictions(target, torch.from_numpy(attacked).to(images), batch_size) == labels
    return (right & held).double().mean().item()
