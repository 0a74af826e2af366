"""A task and a model of one's own: one function each.

Run the study beside this file:  sensweep run examples/own_task/study.yaml
"""

from collections.abc import Iterator, Mapping

import torch
from torch import nn

from sensweep.tasks.api import Context, Measurement, measure
from sensweep.tasks.data import load
from sensweep.tasks.subject import load_model


def wide_and_shallow(num_classes: int, in_chans: int, img_size: int, width: int = 512) -> nn.Module:
    """Build one hidden layer; `arch: {name: margins:wide_and_shallow, width: 256}` names it."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(in_chans * img_size**2, width),
        nn.ReLU(),
        nn.Linear(width, num_classes),
    )


def margin(params: Mapping[str, object], context: Context) -> Iterator[Measurement]:
    """Measure by how much the right class's logit leads on test images, per class.

    `needs: train@final` in the study hands over the checkpoint; the model is rebuilt from it.
    """
    (checkpoint,) = context.parents.values()
    model, config = load_model(checkpoint, context.device)
    test = load(config["dataset"], context.cache).test
    with torch.inference_mode():
        logits = model(test.x)
    own = logits.gather(1, test.y[:, None]).squeeze(1)
    others = logits.scatter(1, test.y[:, None], float("-inf")).amax(1)
    lead = own - others
    yield measure("margin", lead.mean().item(), unit="logit")
    for label in test.y.unique().tolist():
        yield measure(
            "class_margin", lead[test.y == label].mean().item(), unit="logit", label=label
        )
