"""All searches of a study, with trials that are answered here instead of on a cluster."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from sensweep.orchestrator.chain import ChainPlanner
from sensweep.orchestrator.errors import InputError
from sensweep.orchestrator.growth import Growth
from sensweep.orchestrator.plan import make_plan
from sensweep.orchestrator.search_values import Row
from sensweep.orchestrator.searches import Searches
from sensweep.orchestrator.study import Study
from sensweep.orchestrator.trial import Trial

TASKS = """
    from sensweep.tasks.api import measure

    def train(params, context):
        yield measure("loss", 0.0)

    def probe(params, context):
        yield measure("size", 0.0)
"""


def study(folder: Path, **search: Any) -> Study:
    (folder / "mine.py").write_text("\n".join(line[4:] for line in TASKS.splitlines()))
    block = {
        "axes": ["x"],
        "objectives": [
            {"name": "loss", "stage": "train", "direction": "minimize"},
            {"name": "size", "stage": "probe", "direction": "maximize"},
        ],
        "trials": 5,
    }
    return Study.from_dict(
        {
            "study": "bowl",
            "seeds": 3,
            "axes": {"kind": ["a", "b"], "x": {"uniform": [-1.0, 1.0]}, "sigma": [0.1, 0.2]},
            "stages": {
                "train": {"task": "mine:train", "axes": ["kind", "x"]},
                "probe": {"task": "mine:probe", "needs": "train@final", "axes": ["sigma"]},
                "exam": {"task": "mine:probe", "needs": "train@final", "params": {"exam": True}},
            },
            "search": block | search,
        },
        folder=folder,
    )


def measured(trial: Trial) -> list[Row]:
    x = float(trial.params.get("x", 0.0))  # type: ignore[arg-type]
    if trial.stage == "train":
        return [("loss", x * x + trial.seed, step, "1", "{}") for step in (1, 2)]
    where = json.dumps({"sigma": trial.point.get("sigma", 0.0)})
    return [("size", 2.0 * trial.seed + float(trial.point.get("sigma", 0.0)), None, "1", where)]


class Cluster:
    """Runs each trial that is added, one at a time, and keeps what was asked of it."""

    def __init__(
        self, searches: Searches, answer: Callable[[Trial], tuple[str, list[Row]]] | None = None
    ) -> None:
        self.searches = searches
        self.answer = answer or (lambda trial: ("done", measured(trial)))
        self.done = set[str]()  # what the home had
        self.queue: list[Trial] = []
        self.ran: list[Trial] = []
        self.stopped: list[str] = []
        self.asks: list[dict[str, Any]] = []

    def take(self, growth: Growth) -> None:
        known = {t.trial_id for t in [*self.queue, *self.ran]} | self.done
        self.queue += [t for t in growth.add if t.trial_id not in known]
        self.queue = [t for t in self.queue if t.trial_id not in growth.stop]
        self.stopped += growth.stop
        self.asks += growth.asks

    def run(self, trials: int = 10_000) -> None:
        while len(self.ran) < trials:
            while not self.queue and self.searches.can_ask():
                self.take(self.searches.next())
            if not self.queue:
                return
            trial = self.queue.pop(0)
            self.ran.append(trial)
            outcome, rows = self.answer(trial)
            self.take(self.searches.ended(trial.trial_id, outcome, rows))  # type: ignore[arg-type]


def searches(of: Study, recorded: Sequence[dict[str, Any]] = (), **more: Any) -> Searches:
    return Searches(ChainPlanner(of), of.axes, recorded, **more)


def told(cluster: Cluster) -> list[dict[str, Any]]:
    return [ask for ask in cluster.asks if ask["state"] != "running"]


def test_a_point_is_a_chain_of_trials_and_is_told_its_objectives_over_seeds(tmp_path: Path) -> None:
    of = study(
        tmp_path, constraints=[{"name": "size", "stage": "probe", "over": "max", "at_most": 2.15}]
    )
    cluster = Cluster(searches(of))
    cluster.run()
    assert cluster.searches.finished
    assert len(cluster.ran) == 2 * 5 * 3 * (1 + 2 + 1)  # cells, points, seeds, stages with sigmas
    assert len(told(cluster)) == 10
    for ask in told(cluster):
        x = json.loads(ask["params"])["x"]
        loss, size = json.loads(ask["values"])
        assert loss == pytest.approx(x * x + 1.0)  # the mean over seeds 0, 1, 2 of the last step
        assert size == pytest.approx(2.0 + 0.15)  # over seeds and sigmas
        assert json.loads(ask["attributes"])["violations"] == [pytest.approx(2.2 - 2.15)]
        assert len(json.loads(ask["trial_ids"])) == 12


def test_the_search_that_is_furthest_behind_asks_next(tmp_path: Path) -> None:
    found = searches(study(tmp_path))
    names = [found.next().asks[0]["search"] for _ in range(6)]
    assert [name.partition("#")[0] for name in names] == ["kind=a", "kind=b"] * 3


def test_a_sequential_search_has_one_point_under_way(tmp_path: Path) -> None:
    found = searches(study(tmp_path, parallel=1))
    assert [len(found.next().asks) for _ in range(3)] == [1, 1, 0]
    assert not found.can_ask()


def test_failed_and_diverged_chains_are_told_as_failures(tmp_path: Path) -> None:
    def answer(trial: Trial) -> tuple[str, list[Row]]:
        x = float(trial.params.get("x", 1.0))  # type: ignore[arg-type]
        if trial.stage == "train" and x < 0 and trial.seed == 1:
            return "failed", []
        if trial.stage == "train" and x > 0.5:
            return "done", [("diverged", 1.0, None, "1", "{}")]
        return "done", measured(trial)

    cluster = Cluster(searches(study(tmp_path, trials=12)), answer)
    cluster.run()
    states = {}
    for ask in told(cluster):
        x = json.loads(ask["params"])["x"]
        states.setdefault("failed" if x < 0 or x > 0.5 else "complete", set()).add(ask["state"])
        reason = json.loads(ask["attributes"]).get("reason", "")
        assert ("train of seed 1 failed" in reason) == (x < 0)
        assert ("diverged" in reason) == (x > 0.5)
    assert states == {"failed": {"failed"}, "complete": {"complete"}}
    # What is left of a failed point is not run.
    assert cluster.stopped
    assert not set(cluster.stopped) & {t.trial_id for t in cluster.ran if t.stage == "probe"}


def test_labels_that_a_task_refuses_are_a_failed_point_not_the_end(tmp_path: Path) -> None:
    of = Study.from_dict(
        {
            "study": "refused",
            "axes": {"warmup_epochs": {"uniform": [0.0, 1.9]}, "epochs": {"integers": [1, 3]}},
            "stages": {"train": {"task": "train", "params": {"dataset": "digits", "arch": "mlp"}}},
            "search": {
                "axes": ["epochs", "warmup_epochs"],
                "objectives": [
                    {"name": "validation_loss", "stage": "train", "direction": "minimize"}
                ],
                "trials": 16,
            },
        },
        folder=tmp_path,
    )
    cluster = Cluster(searches(of), lambda _: ("done", [("validation_loss", 1.0, 1, "1", "{}")]))
    cluster.run()
    points = [(json.loads(a["params"]), a) for a in told(cluster)]
    states = {(p["warmup_epochs"] > p["epochs"], a["state"]) for p, a in points}
    assert states == {(True, "failed"), (False, "complete")}
    reasons = [json.loads(a["attributes"]).get("reason", "") for a in told(cluster)]
    assert any("axes.warmup_epochs: " in reason for reason in reasons)
    settled, growth = searches(of, cluster.asks).begin()
    assert {t.trial_id for t in settled} == {t.trial_id for t in cluster.ran}
    assert growth.add == []


def test_a_constraint_may_refer_to_a_point_which_is_then_tried_first(tmp_path: Path) -> None:
    bound = {"name": "loss", "stage": "train", "at_most": 0.25, "relative_to": {"x": 0.5}}
    of = study(tmp_path, constraints=[bound], trials=8)
    cluster = Cluster(searches(of))
    # The baseline's trials end last: what was told meanwhile is held.
    for _ in range(6):
        cluster.take(cluster.searches.next())
    first = [t for t in cluster.queue if t.point["x"] == 0.5]
    assert len(first) == 2 * 12
    cluster.queue = [t for t in cluster.queue if t.point["x"] != 0.5] + first
    others = len(cluster.queue) - len(first)
    cluster.run(others)
    assert told(cluster) == []
    cluster.run()
    assert len(told(cluster)) == 16
    for ask in told(cluster):
        x = json.loads(ask["params"])["x"]
        (violation,) = json.loads(ask["attributes"])["violations"]
        assert violation == pytest.approx(x * x - 0.25 - 0.25)


def test_a_poor_point_is_not_given_its_remaining_seeds(tmp_path: Path) -> None:
    stop = {"by": "halving", "rungs": "seeds", "options": {"eta": 2, "startup": 2}}
    cluster = Cluster(searches(study(tmp_path, trials=10, stop=stop)))
    cluster.run()
    pruned = [ask for ask in told(cluster) if ask["state"] == "pruned"]
    complete = [ask for ask in told(cluster) if ask["state"] == "complete"]
    assert len(pruned) >= 8
    assert {len(json.loads(ask["trial_ids"])) for ask in complete} == {12}
    assert {len(json.loads(ask["trial_ids"])) for ask in pruned} <= {4, 8}
    assert len(cluster.ran) == sum(len(json.loads(a["trial_ids"])) for a in told(cluster))
    worst = max(json.loads(a["values"])[0] for a in complete)
    assert min(abs(json.loads(a["params"])["x"]) for a in complete) < 0.3 or worst < 1.5


def test_steps_are_rungs_and_a_stopped_point_stops_its_trials(tmp_path: Path) -> None:
    stop = {"by": "median", "rungs": "steps", "options": {"n_startup_trials": 2}}
    objective = [{"name": "loss", "stage": "train", "direction": "minimize"}]
    found = searches(study(tmp_path, stop=stop, objectives=objective, seeds=1))
    cluster = Cluster(found)
    for _ in range(2):
        cluster.take(found.next())
        cluster.take(found.next())
        cluster.run(len(cluster.ran) + len(cluster.queue))
    cluster.take(found.next())
    train = next(t for t in cluster.queue if t.stage == "train")
    cluster.take(found.measured(train.trial_id, [("loss", 99.0, 1, "1", "{}")]))
    assert cluster.asks[-1]["state"] == "pruned"
    assert train.trial_id in cluster.stopped
    assert json.loads(cluster.asks[-1]["attributes"])["reports"] == {"1": [99.0]}


def test_a_repeated_point_costs_nothing(tmp_path: Path) -> None:
    cluster = Cluster(searches(study(tmp_path, enqueue=[{"x": 0.25}], trials=3)))
    cluster.run()
    ran = len(cluster.ran)
    again = searches(study(tmp_path, enqueue=[{"x": 0.25}], trials=3), cluster.asks)
    cell = again._cells[0]
    cell.queue.append(({"x": 0.25}, "enqueued"))
    again.spec.__dict__["trials"] = 4
    growth = again.next()
    assert growth.add == []
    assert [ask["state"] for ask in growth.asks] == ["running", "complete"]
    assert growth.asks[1]["values"] == told(cluster)[0]["values"]
    assert ran == 2 * 3 * 12


def test_rows_of_the_home_are_told_first_and_do_not_count(tmp_path: Path) -> None:
    of = study(tmp_path, warm_start=True)
    planner = ChainPlanner(of)
    there = {
        trial.trial_id: measured(trial)
        for trial in planner.chain({"kind": "a"}, {"x": 0.125}, planner.seeds())
    }
    warm = [{"kind": "a", "x": 0.125}, {"kind": "b", "x": 0.125}, {"kind": "a", "x": 7.0}, {}]
    cluster = Cluster(searches(of, lookup=there.get, warm=warm))
    cluster.done |= there.keys()
    cluster.run()
    assert len(told(cluster)) == 11
    assert json.loads(told(cluster)[0]["attributes"])["given"] == "warm"
    assert json.loads(told(cluster)[0]["params"]) == {"x": 0.125}
    assert not there.keys() & {t.trial_id for t in cluster.ran}


def test_the_winner_is_confirmed_on_fresh_seeds_beside_what_it_is_compared_with(
    tmp_path: Path,
) -> None:
    confirm = {"seeds": 2, "stages": ["exam"], "compare": {"default": {"x": 0.5}}}
    objective = [{"name": "loss", "stage": "train", "direction": "minimize"}]
    cluster = Cluster(searches(study(tmp_path, confirm=confirm, objectives=objective, trials=6)))
    cluster.run()
    search = [t for t in cluster.ran if "confirmed" not in t.point]
    assert {t.stage for t in search} == {"train", "probe"}
    assert {t.seed for t in search} == {0, 1, 2}
    for kind in "ab":
        asks = [a for a in told(cluster) if a["search"].startswith(f"kind={kind}")]
        winner = min(asks, key=lambda a: json.loads(a["values"])[0])
        for name, x in (("best", json.loads(winner["params"])["x"]), ("default", 0.5)):
            found = [
                t for t in cluster.ran
                if t.point.get("confirmed") == name and t.point["kind"] == kind
            ]  # fmt: skip
            assert {t.point["x"] for t in found} == {x}
            assert {t.seed for t in found} == {10_000, 10_001}
            assert {t.stage for t in found} == {"train", "probe", "exam"}


@pytest.mark.parametrize("cut", [0, 1, 5, 9, 14])
def test_interrupted_searches_go_on_as_if_nothing_had_happened(tmp_path: Path, cut: int) -> None:
    of = study(tmp_path, parallel=1, trials=4, confirm={"seeds": 1})
    whole = Cluster(searches(of))
    whole.run()
    part = Cluster(searches(of))
    part.run(cut * 6)
    done = {t.trial_id: measured(t) for t in part.ran}
    rest = Cluster(searches(of, part.asks, lookup=done.get))
    settled, growth = rest.searches.begin()
    assert {t.trial_id for t in settled} <= done.keys()
    rest.done |= done.keys()
    rest.take(growth)
    rest.run()
    assert {t.trial_id for t in part.ran} | {t.trial_id for t in rest.ran} == {
        t.trial_id for t in whole.ran
    }
    assert len(part.ran) + len(rest.ran) == len(whole.ran)


def test_the_plan_has_no_trials_of_the_search_but_checks_its_points(tmp_path: Path) -> None:
    assert make_plan(study(tmp_path)).trials == ()


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"axes": ["y"]}, "search.axes[0]: unknown axis 'y' (valid: kind, x, sigma)"),
        ({"axes": ["x", "x"]}, "search.axes[1]: the axis 'x' is listed twice"),
        ({"objectives": [{"name": "test_loss", "stage": "train", "direction": "minimize"}]},
         "search.objectives[0]: a search never sees the test set"),
        ({"objectives": [{"name": "loss", "stage": "trian", "direction": "minimize"}]},
         "did you mean 'train'?"),
        ({"objectives": [{"name": "loss", "stage": "train", "direction": "smaller"}]},
         "search.objectives[0].direction"),
        ({"constraints": [{"name": "loss", "stage": "train"}]}, "needs at_least or at_most"),
        ({"sampler": "tpee"}, "unknown sampler 'tpee'; did you mean 'tpe'?"),
        ({"stop": {"by": "median"}}, "use halving"),
        ({"stop": {"by": "havling"}}, "did you mean 'halving'?"),
        ({"seeds": 9}, "search.seeds: 9 seeds of 3"),
        ({"enqueue": [{"x": 3.0}]}, "search.enqueue[0].x: 3.0 is not valid; wanted uniform in"),
        ({"enqueue": [{"z": 3.0}]}, "search.enqueue[0].z: the axis 'z' is not searched"),
        ({"confirm": {"seeds": [1]}}, "the seed 1 is one of the search"),
        ({"confirm": {"stages": ["exma"]}}, "search.confirm.stages[0]"),
        ({"confirm": {"compare": {"best": {"x": 0.0}}}}, "choose another name"),
        ({"confirm": {"compare": {"zero": {}}}}, "the axis 'x' is missing"),
    ],
)  # fmt: skip
def test_a_search_that_cannot_be_run_is_refused_in_one_line(
    tmp_path: Path, change: dict[str, Any], wanted: str
) -> None:
    with pytest.raises(InputError) as refused:
        make_plan(study(tmp_path, **change))
    assert wanted in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_held_point_neither_blocks_its_baseline_nor_is_told_twice(tmp_path: Path) -> None:
    bounds = [
        {"name": "loss", "stage": "train", "at_most": 1.0, "relative_to": {"x": x}}
        for x in (0.1234567, 0)  # written otherwise than the search writes them
    ]
    cluster = Cluster(searches(study(tmp_path, constraints=bounds, parallel=1, trials=4)))
    cluster.run()
    assert cluster.searches.finished
    assert [ask["state"] for ask in told(cluster)] == ["complete"] * 8


def test_a_baseline_that_is_not_finite_fails_the_points_that_refer_to_it(tmp_path: Path) -> None:
    def answer(trial: Trial) -> tuple[str, list[Row]]:
        rows = measured(trial)
        if trial.stage == "train" and trial.point["x"] == 0.5:
            rows = [(name, float("nan"), *rest) for name, _, *rest in rows]  # type: ignore[misc]
        return "done", rows

    bound = [{"name": "size", "stage": "probe", "at_most": 1.0, "relative_to": {"x": 0.5}}]
    cluster = Cluster(searches(study(tmp_path, constraints=bound, trials=4)), answer)
    cluster.run()
    assert [ask["state"] for ask in told(cluster)] == ["failed"] * 8


def test_another_number_of_seeds_or_another_model_is_another_search(tmp_path: Path) -> None:
    def names(**search: Any) -> list[str]:
        return [cell.search.name for cell in searches(study(tmp_path, **search))._cells]

    assert names() == names(trials=9) == names(parallel=1)
    assert not set(names()) & set(names(seeds=2))


def test_rows_of_one_step_that_come_in_two_beats_are_judged_together(tmp_path: Path) -> None:
    stop = {"by": "median", "rungs": "steps"}
    objective = [{"name": "loss", "stage": "train", "direction": "minimize"}]
    found = searches(study(tmp_path, stop=stop, objectives=objective, seeds=1))
    cluster = Cluster(found)
    cluster.take(found.next())
    train = next(t for t in cluster.queue if t.stage == "train")
    for part, value in (("a", 1.0), ("b", 3.0)):
        row: Row = ("loss", value, 1, "1", json.dumps({"part": part}))
        cluster.take(found.measured(train.trial_id, [row]))
    assert cluster.asks[-1]["state"] == "running"
    assert "reports" not in json.loads(cluster.asks[-1]["attributes"])
    cluster.take(found.measured(train.trial_id, [("loss", 9.0, 2, "1", '{"part":"a"}')]))
    assert json.loads(cluster.asks[-1]["attributes"])["reports"] == {"1": [2.0]}


def test_a_rung_that_was_passed_is_not_judged_again_after_an_interruption(tmp_path: Path) -> None:
    stop = {"by": "halving", "rungs": "seeds", "options": {"eta": 2, "startup": 1}}
    objective = [{"name": "loss", "stage": "train", "direction": "minimize"}]
    points = [{"x": x} for x in (1.0, 0.0)]
    of = study(tmp_path, stop=stop, objectives=objective, enqueue=points, trials=2)
    part = Cluster(searches(of))
    part.take(part.searches.next())
    part.take(part.searches.next())
    for trial in [t for t in part.queue if t.point["kind"] == "a"]:
        part.queue.remove(trial)
        part.ran.append(trial)
        part.take(part.searches.ended(trial.trial_id, "done", measured(trial)))
    part.take(part.searches.next())  # x = 0, better than what passed the first rung
    done = {t.trial_id: measured(t) for t in part.ran}
    rest = Cluster(searches(of, part.asks, lookup=done.get))
    rest.done |= done.keys()
    rest.take(rest.searches.begin()[1])
    rest.run()
    states = {
        json.loads(a["params"])["x"]: a["state"] for a in told(rest) if "kind=a" in a["search"]
    }
    assert states == {1.0: "complete", 0.0: "complete"}
