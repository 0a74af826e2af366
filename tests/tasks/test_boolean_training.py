"""Training on bits learns, repeats itself, resumes to the same bits, and can be analysed."""

from __future__ import annotations

import math
from itertools import islice
from pathlib import Path

import pytest
import torch
from boolean_models import Known, Table, learnt
from pydantic import ValidationError

from sensweep.tasks import checkpoints
from sensweep.tasks.api import Checkpoint, Context, TaskError
from sensweep.tasks.boolean import Target, all_strings
from sensweep.tasks.boolean_model import load_learnt
from sensweep.tasks.boolean_sensitivity import boolean_sensitivity, exact, sampled
from sensweep.tasks.boolean_sharpness import boolean_sharpness
from sensweep.tasks.length_generalisation import length_generalisation
from sensweep.tasks.params.boolean_sensitivity import BooleanSensitivityParams
from sensweep.tasks.params.train_boolean import TrainBooleanParams
from sensweep.tasks.train_boolean import learning_rate, train_boolean

TINY = {"length": 4, "width": 16, "batch_size": 16, "steps": 30, "measure_every": 10}
LEARNS = {"width": 16, "batch_size": 32, "lr": 4e-3, "measure_every": 50}


def run(params, **context):
    return list(train_boolean(params, Context(**context)))


def values(rows, name):
    return [row.value for row in rows if row.name == name]


def checkpoint(params, folder: Path, seed: int = 0, **context) -> Checkpoint:
    run(params, folder=folder, seed=seed, **context)
    path = max(folder.glob("step-*.pt"))
    return Checkpoint("train", int(path.stem[5:]), path)


def analysed(task, params, parent: Checkpoint, seed: int = 0):
    return list(task(params, Context(seed=seed, parents={parent.stage: parent})))


@pytest.fixture(scope="module")
def majority(tmp_path_factory) -> Checkpoint:
    params = {"function": "majority", "length": 5, "steps": 200, **LEARNS}
    return checkpoint(params, tmp_path_factory.mktemp("majority"))


@pytest.fixture(scope="module")
def partial(tmp_path_factory) -> Checkpoint:
    """Trained on 20 of the 32 strings of a random function."""
    params = {"function": "random", "length": 5, "train_inputs": 20, "steps": 250, **LEARNS}
    return checkpoint(params, tmp_path_factory.mktemp("partial"))


@pytest.mark.parametrize("function", ["parity", "first", "mean"])
def test_learns_and_says_when_it_fitted(function):
    rows = run({"function": function, "length": 3, "steps": 300, **LEARNS, "cooldown": 0.3})
    losses = values(rows, "evaluation_loss")
    assert losses[-1] < 1e-3
    assert values(rows, "evaluation_accuracy")[-1] == 1
    assert values(rows, "fitted") == [1]
    (first,) = values(rows, "steps_to_fit")
    steps = [row.step for row in rows if row.name == "evaluation_loss"]
    assert first == next(s for s, loss in zip(steps, losses, strict=True) if loss < 1e-3)


def test_a_training_that_did_not_fit_says_so_and_gives_no_steps():
    rows = run(TINY)
    assert values(rows, "fitted") == [0]
    assert values(rows, "steps_to_fit") == []
    assert values(rows, "diverged") == [0]
    assert values(run({**TINY, "fit_loss": 10.0}), "fitted") == [1]
    assert values(run({**TINY, "fit_loss": 10.0, "fit_accuracy": 1.0}), "fitted") == [0]


def test_rows_are_measured_every_so_often_and_at_the_end():
    rows = run({**TINY, "steps": 25})
    assert [row.step for row in rows if row.name == "evaluation_loss"] == [10, 20, 25]
    assert [row.name for row in rows][-3:] == ["fitted", "parameters", "diverged"]
    width = 16
    attention = 4 * (width * width + width)
    layer = attention + 2 * (width * width + width) + 4 * width
    assert values(rows, "parameters") == [2 * width / 2 + 2 * layer + width + 1]


def test_a_loss_that_is_not_finite_ends_the_trial():
    rows = run({**TINY, "lr": 1e30})
    assert [(row.name, row.value) for row in rows] == [("diverged", 1)]


def test_only_the_last_checkpoint_says_whether_it_fitted(tmp_path):
    offered = []

    class Watching(Context):
        def checkpoint(self, step, save, **metrics):
            offered.append((step, sorted(metrics)))

    list(train_boolean(TINY, Watching()))
    both = ["evaluation_accuracy", "evaluation_loss"]
    assert offered == [(10, both), (20, both), (30, [*both, "fitted"])]


@pytest.mark.parametrize(
    "change",
    [{}, {"places": "randomised", "positions": 9, "shortest": 2}, {"scratchpad": True}],
)
def test_repeats_and_resumes_to_the_same_bits_and_leaves_no_trace(tmp_path, change, unchanged):
    params = {**TINY, **change, "cooldown": 0.5}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    with unchanged():
        rows = run(params, folder=whole)
    torch.rand(3)  # what happens elsewhere in the process does not matter
    started = train_boolean(params, Context(folder=cut))
    before = list(islice(started, [row.step for row in rows].index(20)))
    next(started)
    started.close()
    parent = Checkpoint("", 10, cut / "step-000010.pt")
    rest = run(params, folder=cut, resume_from=parent)
    assert before + rest == rows
    one, two = (checkpoints.load(f / "step-000030.pt")["model"] for f in (whole, cut))
    assert all(torch.equal(one[name], two[name]) for name in one)
    other = {**params, "lr": 1e-3}
    with pytest.raises(TaskError, match="a training with other params"):
        run(other, resume_from=parent)


def test_functions_of_one_seed_start_alike_and_seeds_do_not(tmp_path):
    def first_weights(seed, **change):
        run({**TINY, **change, "lr": 1e-12, "weight_decay": 0}, seed=seed, folder=tmp_path)
        return checkpoints.load(tmp_path / "step-000030.pt")["model"]["head.weight"]

    assert torch.allclose(first_weights(0), first_weights(0, function="first"), atol=1e-6)
    assert not torch.allclose(first_weights(0), first_weights(1), atol=1e-3)


def test_every_step_sees_fresh_strings():
    still = {**TINY, "lr": 1e-12, "weight_decay": 0, "length": 10, "measure_every": 1, "steps": 20}
    assert len(set(values(run(still), "train_loss"))) == 20


def test_rate_is_constant_and_then_falls_linearly():
    p = TrainBooleanParams(length=4, steps=100, lr=0.5, cooldown=0.2)
    assert [learning_rate(p, step) for step in (0, 79, 80)] == [0.5, 0.5, 0.5]
    assert learning_rate(p, 90) == pytest.approx(0.25)
    assert learning_rate(TrainBooleanParams(length=4), 9_999) == 3e-4


def test_listed_strings_are_the_only_ones_trained_and_evaluated_on(partial):
    subject = load_learnt(Context(parents={"train": partial}))
    assert len(subject.inputs.unique()) == 20
    table = subject.target.values(all_strings(5))
    answers = (subject.model(all_strings(5)) > 0.5).float()
    assert torch.equal(answers[subject.inputs], table[subject.inputs])
    assert not torch.equal(answers, table)  # of the others it knows nothing


def test_completions_keep_what_the_model_was_trained_on(partial, tmp_path):
    known = load_learnt(Context(parents={"train": partial}))
    answers = (known.model(all_strings(5)) > 0.5).float()
    tables = {}
    for completion in ("learned", "random"):
        params = {**TINY, "length": 5, "completion": completion}
        parent = checkpoint(params, tmp_path / completion, parents={"train": partial})
        subject = load_learnt(Context(parents={"train": parent}))
        tables[completion] = subject.target.values(all_strings(5))
        assert subject.inputs.tolist() == list(range(32))
    assert torch.equal(tables["learned"], answers)
    assert torch.equal(tables["random"][known.inputs], answers[known.inputs])
    assert not torch.equal(tables["random"], answers)


def test_a_completion_needs_a_model_of_listed_strings(majority):
    with pytest.raises(TaskError, match="needs a model trained on listed strings"):
        run({**TINY, "length": 5, "completion": "random"}, parents={"train": majority})
    with pytest.raises(TaskError, match=r"an analysis needs one checkpoint, and got 0 \(none\)"):
        run({**TINY, "completion": "random"})


def test_sensitivity_of_a_fitted_model_is_its_functions(majority):
    rows = analysed(boolean_sensitivity, {"degrees": True}, majority)
    average = {r.coordinates["kind"]: r.value for r in rows if r.name == "average_sensitivity"}
    truth = 2 * 3 * math.comb(5, 3) / 2**5
    assert average["target"] == average["answer"] == truth
    assert average["output"] == pytest.approx(truth, rel=0.1)
    weights = [r for r in rows if r.name == "degree_weight" and r.coordinates["kind"] == "output"]
    weighted = sum(r.value * r.coordinates["degree"] for r in weights)
    assert weighted == pytest.approx(average["output"])
    assert {r.step for r in rows} == {200}


def test_sampled_sensitivity_is_near_the_exact_one_and_exact_for_parity():
    p = BooleanSensitivityParams(inputs=3000)
    for function in ("parity", "random"):
        table = Target(function).values(all_strings(8))
        subject = learnt(Table(table), function, 8)
        found = {
            way: {
                (r.name, r.coordinates["kind"]): r.value
                for r in way(subject, p, torch.Generator().manual_seed(0))
            }
            for way in (exact, sampled)
        }
        for key, value in found[exact].items():
            assert found[sampled][key] == pytest.approx(
                value, rel=0 if function == "parity" else 0.05
            )


def test_the_last_answer_of_a_scratchpad_depends_on_two_of_what_it_reads():
    class Prefixes(Known):
        """Adds each bit to the answer before it."""

        def __init__(self):
            super().__init__()
            self.decoder.append(torch.nn.Identity())

        def forward(self, bits, answers):
            return ((bits + answers % 2) % 2).float()

    rows = sampled(learnt(Prefixes(), "parity", 9), BooleanSensitivityParams(), torch.Generator())
    found = {(r.name, r.coordinates["kind"]): r.value for r in rows}
    assert found == {
        (f"{m}_sensitivity", k): 2 for m in ("average", "max") for k in ("output", "answer")
    }


def test_random_completions_are_as_sensitive_as_coins_where_nothing_is_known():
    every = torch.arange(256)
    constant = learnt(Table(torch.ones(256)), "table", 8, every[:0])
    constant = constant._replace(target=Target("table", table=torch.ones(256)))
    p = BooleanSensitivityParams(random_completions=30)

    def average(subject):
        rows = exact(subject, p, torch.Generator().manual_seed(0))
        return next(r.value for r in rows if r.coordinates["kind"] == "random")

    assert average(constant) == pytest.approx(4, rel=0.03)
    # Known on the strings with an even number: one bit is known half, the others all or nothing.
    known = average(constant._replace(inputs=every[::2]))
    assert known == pytest.approx((7 * 0.5 + 1) / 2, rel=0.03)
    assert average(constant._replace(inputs=every)) == 0


def test_a_model_of_numbers_has_no_sensitivity_where_it_gives_none():
    table = torch.zeros(16).index_fill_(0, torch.tensor([3]), math.nan)
    rows = exact(learnt(Table(table), "first", 4), BooleanSensitivityParams(), torch.Generator())
    found = {r.coordinates["kind"]: r.value for r in rows if r.name == "average_sensitivity"}
    assert math.isnan(found["answer"])
    assert math.isnan(found["output"])
    assert found["target"] == 1


def test_sharpness_rows_and_their_units_of_noise(majority, partial):
    params = {"sigmas": [0.02, 0.04], "rhos": [1.0], "batches": 2, "draws": 2}
    rows = analysed(boolean_sharpness, params, majority)
    found = {(r.name, r.coordinates.get("sigma"), r.coordinates.get("rho")): r.value for r in rows}
    assert 0 < found["sharpness", 0.02, None] < found["sharpness", 0.04, None]
    state = checkpoints.load(majority.path)["model"]
    counted = [weight for name, weight in state.items() if name != "positions.weight"]
    norm = math.sqrt(sum(weight.square().sum().item() for weight in counted))
    assert found["parameter_norm", None, None] == pytest.approx(norm)
    same = {"sigmas": [1 / math.sqrt(sum(w.numel() for w in counted))]}
    again = analysed(boolean_sharpness, {**params, **same}, majority)
    assert again[0].value == pytest.approx(found["sharpness", None, 1.0], rel=1e-4)
    blowups = {r.coordinates["variant"]: r.value for r in rows if r.name == "layernorm_blowup"}
    assert blowups["theory"] > blowups["released"] > 0
    assert analysed(boolean_sharpness, {**params, "strings": "train"}, partial)[0].value > 0
    with pytest.raises(TaskError, match="needs a model trained on listed strings"):
        analysed(boolean_sharpness, {**params, "strings": "train"}, majority)


def test_length_generalisation_of_a_model_whose_truth_is_known(tmp_path):
    params = {
        "function": "first", "length": 5, "shortest": 3, "positions": 12, "places": "randomised",
    }  # fmt: skip
    parent = checkpoint({**params, **LEARNS, "steps": 250}, tmp_path)
    rows = analysed(length_generalisation, {"lengths": [4, 12], "inputs": 200}, parent)
    accuracy = {r.coordinates["test_length"]: r.value for r in rows if r.name == "length_accuracy"}
    assert accuracy[4] > 0.95
    assert accuracy.keys() == {4, 12}
    # A model that says FIRST where PARITY is asked is right on half of the strings, at any length.
    state = checkpoints.load(parent.path)
    state["target"]["function"] = "parity"
    torch.save(state, tmp_path / "step-000999.pt")
    wrong = Checkpoint("train", 999, tmp_path / "step-000999.pt")
    rows = analysed(length_generalisation, {"lengths": [5], "inputs": 4000}, wrong)
    assert rows[0].value == pytest.approx(0.5, abs=0.04)
    with pytest.raises(TaskError, match="lengths up to 13 cannot be tested on a model of 12"):
        analysed(length_generalisation, {"lengths": [13]}, parent)


def test_a_scratchpad_reads_its_own_answers_also_on_longer_strings(tmp_path):
    params = {**TINY, "scratchpad": True, "positions": 6}
    parent = checkpoint(params, tmp_path)
    rows = analysed(length_generalisation, {"lengths": [4, 6]}, parent)
    assert [row.name for row in rows] == ["length_accuracy"] * 2
    with pytest.raises(TaskError, match="a scratchpad has none"):
        analysed(boolean_sensitivity, {"degrees": True}, parent)
    assert len(values(run(params), "autoregressive_accuracy")) == 1


def test_analyses_refuse_what_is_not_theirs(majority, trained):
    with pytest.raises(TaskError, match="needs a stage of the task train_boolean"):
        analysed(boolean_sensitivity, {}, trained)
    with pytest.raises(TaskError, match="random_completions need a model trained on listed"):
        analysed(boolean_sensitivity, {"random_completions": 2}, majority)
    with pytest.raises(TaskError, match="more than exact_up_to=4"):
        analysed(boolean_sensitivity, {"degrees": True, "exact_up_to": 4}, majority)


@pytest.mark.parametrize(
    ("change", "where", "message"),
    [
        ({"shortest": 5}, "shortest", "5 is more than length=4"),
        ({"train_inputs": 17}, "train_inputs", "more than the 16 strings of 4 bits"),
        ({"train_inputs": 9, "shortest": 2}, "train_inputs", "does not go with shortest"),
        ({"train_inputs": 9, "completion": "random"}, "completion", "go with train_inputs"),
        ({"length": 30, "train_inputs": 9}, "train_inputs", "length is at most 20"),
        ({"train_inputs": 9, "scratchpad": True}, "scratchpad", "no values at prefixes"),
        ({"width": 15}, "width", "15 is odd"),
        ({"heads": 3}, "heads", "3 does not divide width=16"),
        ({"positions": 3}, "positions", "3 is less than length=4"),
        ({"function": "xor"}, "function", "'parity'"),
    ],
)
def test_a_wrong_param_gets_one_line_at_its_name(change, where, message):
    with pytest.raises(ValidationError) as caught:
        TrainBooleanParams(**{**TINY, **change})
    (error,) = caught.value.errors()
    assert error["loc"] == (where,)
    assert message in error["msg"]
