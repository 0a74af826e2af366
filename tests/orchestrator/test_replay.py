"""Searches on a virtual clock: what they cost, when chains run, and that faults change nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from sensweep.orchestrator.chain import ChainPlanner
from sensweep.orchestrator.events import Dispatch, Ended, NodeUp
from sensweep.orchestrator.replay import Beat, Replay
from sensweep.orchestrator.search import Search
from sensweep.orchestrator.searches import Searches
from sensweep.orchestrator.simulator import Delays, Faults
from sensweep.orchestrator.study import Study
from sensweep.orchestrator.trial import Trial

INSTANT = Delays(start=0.0, exit=0.0, cancel=0.0)
EPOCHS = 9


def study(seeds: int = 1, chain: bool = False, **search: Any) -> Study:
    stages: dict[str, Any] = {"toy": {"task": "toy", "params": {"y": 0.0}}}
    if chain:
        stages["after"] = {"task": "sensitivity", "needs": "toy@final"}
    last = "after" if chain else "toy"
    return Study.from_dict(
        {
            "study": "replayed",
            "seeds": seeds,
            "axes": {"x": {"uniform": [-2.0, 2.0]}},
            "stages": stages,
            "search": {
                "axes": ["x"],
                "objectives": [{"name": "loss", "stage": last, "direction": "minimize"}],
                "trials": 12,
                **search,
            },
        }
    )


def curve(trial: Trial) -> list[Beat]:
    """Nine epochs of 10 s whose loss falls towards x squared; `after` takes 1 s."""
    x = float(trial.point["x"])
    if trial.stage == "after":
        return [Beat(1.0, (("loss", x * x, None, "1", "{}"),))]
    return [
        Beat(10.0, (("loss", x * x + 1 / epoch, epoch, "1", "{}"),))
        for epoch in range(1, EPOCHS + 1)
    ]


def replay(wanted: Study, workers: int = 1, **more: Any) -> Replay:
    searches = Searches(ChainPlanner(wanted), wanted.axes)
    nodes = [NodeUp(0.0, "a", workers, 0, 10**9)]
    return Replay(searches, wanted, curve, nodes, **{"delays": INSTANT, **more})


def labels_of(found: Replay) -> list[Mapping[str, object]]:
    proposals = found._searches._cells[0].search.proposals
    return [proposal.labels for proposal in proposals]


def test_a_sequential_replay_asks_what_asking_and_telling_by_hand_does() -> None:
    wanted = study(parallel=1)
    found = replay(wanted)
    run = found.run()
    assert wanted.search is not None
    by_hand = Search(found.told[0].search, wanted.search, wanted.axes, {})
    for told in found.told:
        proposal = by_hand.ask()
        x = float(proposal.labels["x"])
        assert told.values == pytest.approx((x * x + 1 / EPOCHS,))
        by_hand.tell(proposal.number, "complete", told.values)
    assert [p.labels for p in by_hand.proposals] == labels_of(found)
    assert len(found.told) == 12
    assert run.makespan == pytest.approx(12 * 90)
    assert found.played == 12 * EPOCHS
    assert [told.now for told in found.told] == pytest.approx([90 * n for n in range(1, 13)])


def test_workers_share_the_points() -> None:
    run = replay(study(), workers=4).run()
    assert run.makespan == pytest.approx(12 * 90 / 4)
    assert run.utilisation["cpus"] == pytest.approx(1.0)


def test_points_that_are_stopped_cost_what_they_ran() -> None:
    found = replay(study(stop={"by": "halving", "rungs": "steps"}, trials=30), workers=2)
    makespan = found.run().makespan
    proposals = found._searches._cells[0].search.proposals
    stopped = [p for p in proposals if p.state == "pruned"]
    assert len(stopped) > 10
    assert {max(p.reports) for p in stopped} <= {1, 2, 4, 8}
    complete = [p for p in proposals if p.state == "complete"]
    ran = EPOCHS * len(complete) + sum(max(p.reports) for p in stopped)
    assert found.played == ran
    assert makespan >= ran * 10 / 2
    assert found.told[-1].played == ran


def test_seeds_are_given_one_by_one_where_they_are_rungs() -> None:
    found = replay(study(seeds=3, stop={"by": "halving", "options": {"eta": 2}}, trials=20))
    found.run()
    seeds = [len(told.trial_ids) for told in found.told if told.state == "pruned"]
    assert seeds
    assert max(seeds) < 3
    assert found.played == EPOCHS * sum(len(told.trial_ids) for told in found.told)


def test_an_analysis_runs_when_its_training_is_done() -> None:
    found = replay(study(chain=True), workers=2)
    done: set[int] = set()
    while (stepped := found.step()) is not None:
        for command in stepped[1]:
            if isinstance(command, Ended) and command.outcome == "done":
                done.add(command.trial)
            if isinstance(command, Dispatch) and found._trials[command.trial].stage == "after":
                [parent] = found._trials[command.trial].parents
                assert found._index[parent.trial_id] in done
    assert len(found.told) == 12
    assert found.now == pytest.approx(6 * 91)
    assert found.played == 12 * (EPOCHS + 1)


def test_faults_cost_time_and_change_no_value() -> None:
    calm = replay(study(parallel=1))
    rough = replay(study(parallel=1), faults=Faults(worker_deaths=10.0, dirty=0.2), seed=3)
    quiet, loud = calm.run(), rough.run()
    assert loud.makespan > quiet.makespan
    assert rough.played > calm.played
    assert [told.values for told in rough.told] == [told.values for told in calm.told]


def test_trials_that_fail_are_told_as_failures() -> None:
    found = replay(study(), workers=2, faults=Faults(raising=0.5), seed=1)
    found.run()
    states = {told.state for told in found.told}
    assert states == {"complete", "failed"}
    assert len(found.told) == 12


def test_the_same_seed_gives_the_same_history() -> None:
    first, second = (
        replay(study(), workers=3, faults=Faults(worker_deaths=5.0), seed=7) for _ in range(2)
    )
    assert first.run().log_hash == second.run().log_hash
    assert first.told == second.told
