"""What the analyses of a trained sequence model share: the model, sequences, its predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sensweep.tasks import checkpoints
from sensweep.tasks.api import Checkpoint, Context, TaskError
from sensweep.tasks.evaluation import evaluating
from sensweep.tasks.sequence_data import Sequences, SequenceSplit, load_sequences, trimmed
from sensweep.tasks.sequence_models import build_sequence_model
from sensweep.tasks.text_data import Text


class SequenceSubject(NamedTuple):
    """A trained sequence model and the sequences that it is examined on.

    Attributes:
        model: in eval mode, from token ids [N, T] to logits.
        sequences: token ids and labels.
        texts: the texts behind them, or None where there are none.
        data: the whole dataset.
        step: the step of the training after which the model was saved.
    """

    model: nn.Module
    sequences: SequenceSplit
    texts: list[Text] | None
    data: Sequences
    step: int


def sequence_subject(context: Context, split: str, count: int) -> SequenceSubject:
    """Load the one checkpoint that the analysis was given, and a random subset of a split.

    The subset depends on the trial's seed alone: models of the same seed meet the same
    sequences. Of the train split, only sequences that the model was trained on are drawn.

    Args:
        context: the trial's context, with one parent, a checkpoint of `train_tokens`.
        split: ``train``, ``validation`` or ``test``.
        count: how many sequences; all, if there are fewer.

    Raises:
        TaskError: there is not exactly one checkpoint, or it cannot be loaded.
    """
    checkpoint = checkpoints.only_parent(context)
    model, facts = load_sequence_model(checkpoint, context.device)
    data = load_sequences(facts["dataset"], context.cache, context.device, **facts["reading"])
    x, y = getattr(data, split)
    if split == "train":
        x, y = x[: facts["train_size"]], y[: facts["train_size"]]
    generator = torch.Generator().manual_seed(context.stream(f"sequences/{split}"))
    chosen = torch.randperm(len(x), generator=generator)[:count]
    texts = None if data.texts is None else [data.texts[split][row] for row in chosen.tolist()]
    chosen = chosen.to(x.device)
    return SequenceSubject(model, SequenceSplit(x[chosen], y[chosen]), texts, data, checkpoint.step)


def load_sequence_model(
    checkpoint: Checkpoint, device: str = "cpu"
) -> tuple[nn.Module, dict[str, Any]]:
    """Rebuild the model of a `train_tokens` checkpoint from the file alone.

    Returns:
        The model in eval mode on `device`; and the rest of the state except the optimiser's:
        ``dataset``, ``reading`` (how texts are encoded), ``arch``, ``facts`` (what the model is
        told of the data), ``train_size`` (sequences trained on, the first of the train split),
        ``epoch``, ``params``, ``history``.

    Raises:
        TaskError: the file is unreadable, another task's, or does not fit its architecture.
    """
    state = checkpoints.load(checkpoint.path)
    if "reading" not in state:
        raise TaskError(
            f"checkpoint {str(checkpoint.path)!r} is not of the task train_tokens; analyses of "
            f"sequences need one of a stage with that task"
        )
    weights = state.pop("model")
    state.pop("optimizer", None)
    with torch.random.fork_rng(devices=[]):  # the initial weights are overwritten
        model = build_sequence_model(state["arch"], **state["facts"])
    checkpoints.put_weights(model, weights, checkpoint.path, state["arch"])
    return model.eval().to(device), state


def sequence_predictions(model: nn.Module, tokens: Tensor, pad: int, batch_size: int) -> Tensor:
    """Give the class of the largest logit, int64 [N]; -1, which is no class, where one is NaN."""
    with evaluating(model):
        scores = torch.cat([model(trimmed(part, pad)) for part in tokens.split(batch_size)])
    return scores.argmax(1).masked_fill(scores.isnan().any(1), -1)


def text_predictions(
    model: nn.Module, texts: Sequence[Text], data: Sequences, batch_size: int
) -> Tensor:
    """Encode texts as the model's data are, and predict: int64 [N], as `sequence_predictions`."""
    assert data.encoding is not None
    device = data.train.x.device
    parts = [
        sequence_predictions(
            model,
            data.encoding.encode(texts[start : start + batch_size]).to(device),
            data.pad,
            batch_size,
        )
        for start in range(0, len(texts), batch_size)
    ]
    return torch.cat(parts)


def texts_of(subject: SequenceSubject) -> list[Text]:
    """Return the texts of a subject.

    Raises:
        TaskError: its data are token sequences that no text is behind.
    """
    if subject.texts is None:
        raise TaskError(
            "words can be changed in texts alone, and this model was trained on generated tokens; "
            "use token_sensitivity"
        )
    return subject.texts
