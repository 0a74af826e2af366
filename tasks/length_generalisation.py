"""Length generalisation: is a function of bits still right on strings longer than the training's?

The protocol is this project's own: Hahn and Rofin (ACL 2024) derive from their theory that
sensitive functions should fail here, and give no experiment. A model must have a trained position
for every bit of a longer string, so it is trained with randomised ones (`places` of
`sensweep.tasks.boolean_model.BooleanTransformer`) on strings of varying length.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from sensweep.tasks.api import Context, Measurement, TaskError, measure
from sensweep.tasks.boolean import random_strings
from sensweep.tasks.boolean_model import load_learnt
from sensweep.tasks.isolation import isolated
from sensweep.tasks.params.length_generalisation import LengthGeneralisationParams


def length_generalisation(params: Mapping[str, object], context: Context) -> Iterator[Measurement]:
    """Yield `length_accuracy` and `length_loss` of one checkpoint at each `test_length`.

    On random strings, the same for every model of a seed. An answer is accurate if it is nearer
    to the right value than to any other value of the function; with a scratchpad, the last answer
    counts, and the model reads its own answers (and has no loss). Of a function that is a truth
    table there is no longer string. Loss: mean squared error in the code 0 and 1.

    Raises:
        TaskError: no single checkpoint of `train_boolean`, a table, or a length beyond the
            model's positions.
    """
    p = LengthGeneralisationParams.model_validate(params)
    with isolated(context.device, context.threads, context.stream("length_generalisation")):
        learnt = load_learnt(context)
        model, target, rows = learnt.model, learnt.target, []
        longest = model.positions.num_embeddings - bool(model.decoder)
        if target.table is not None or max(p.lengths) > longest:
            what = "a truth table" if target.table is not None else f"{longest} positions"
            raise TaskError(
                f"lengths up to {max(p.lengths)} cannot be tested on a model of {what}; train a "
                "named function with `positions` of at least the longest length"
            )
        for n in p.lengths:
            seed = context.stream(f"length_generalisation/{n}")
            bits = random_strings(p.inputs, n, torch.Generator().manual_seed(seed))
            bits = bits.to(context.device)
            wanted = target.values(bits)
            with torch.inference_mode():
                ask = (lambda part: model.answer(part)[:, -1]) if model.decoder else model
                error = torch.cat([ask(part) for part in bits.split(p.batch_size)]) - wanted
            right = (error.abs() < target.tolerance(n)).double().mean().item()
            rows.append(measure("length_accuracy", right, step=learnt.step, test_length=n))
            if not model.decoder:
                loss = error.square().mean().item()
                rows.append(measure("length_loss", loss, step=learnt.step, test_length=n))
    yield from rows
