"""Robustness of a text classifier: accuracy on texts whose words or characters are corrupted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from random import Random

from sensweep.tasks.api import Context, Measurement, measure
from sensweep.tasks.isolation import isolated
from sensweep.tasks.params.text_robustness import TextRobustnessParams
from sensweep.tasks.sequence_evaluation import sequence_subject, text_predictions, texts_of
from sensweep.tasks.text_corruptions import corrupt_text


def text_robustness(params: Mapping[str, object], context: Context) -> Iterator[Measurement]:
    """Yield the accuracies of one checkpoint on clean and on corrupted texts.

    ``accuracy`` has the coordinates corruption and severity (none and 0 for the clean texts);
    ``corruption_accuracy`` is its mean over all corruptions and severities. Texts and corruptions
    depend on the seed alone: every model of a seed meets the same ones.

    Raises:
        TaskError: no single checkpoint of `train_tokens`, or its data are not texts.
    """
    p = TextRobustnessParams.model_validate(params)
    scope = partial(isolated, context.device, context.threads, context.stream("text robustness"))
    with scope():
        subject = sequence_subject(context, p.split, p.texts)
        texts, labels = texts_of(subject), subject.sequences.y
        assert subject.data.texts is not None
        words = sorted({w for text in subject.data.texts["train"] for s in text for w in s.split()})
        predicted = text_predictions(subject.model, texts, subject.data, p.batch_size)
    clean = (predicted == labels).double().mean().item()
    yield measure("accuracy", clean, step=subject.step, corruption="none", severity=0)
    corrupted = []
    for corruption in p.corruptions:
        for severity in p.severities:
            random = Random(context.stream(f"{corruption}/{severity}"))
            changed = [corrupt_text(text, corruption, severity, random, words) for text in texts]
            with scope():
                predicted = text_predictions(subject.model, changed, subject.data, p.batch_size)
            corrupted.append((predicted == labels).double().mean().item())
            yield measure(
                "accuracy",
                corrupted[-1],
                step=subject.step,
                corruption=corruption,
                severity=severity,
            )
    yield measure("corruption_accuracy", sum(corrupted) / len(corrupted), step=subject.step)
