"""Whole sweeps on a virtual clock: random histories, fairness between shapes, figures."""

from __future__ import annotations

import random

import numpy as np
import pytest
from scheduler_oracle import Oracle

from sensweep.orchestrator.events import NodeUp, StopAll
from sensweep.orchestrator.moves import FINAL, State
from sensweep.orchestrator.nodes import Shape
from sensweep.orchestrator.policy import Group, Policy
from sensweep.orchestrator.simulator import Delays, Faults, Simulation

GB = 10**9


def watch(simulation: Simulation, parents, groups) -> Oracle:
    """Run to the end with every rule checked after every event."""
    oracle = Oracle(simulation.scheduler, parents, groups)
    step = simulation.step()
    while step is not None:
        event, commands = step
        oracle.observe(event, commands)
        step = simulation.step()
    return oracle


def random_history(seed: int) -> tuple[Simulation, list[tuple[int, ...]], list[int]]:
    """A random cluster, plan and set of faults that every trial can survive or fail in."""
    draw = random.Random(seed)
    shapes = [Shape(1), Shape(2), Shape(0.5, 0.5), Shape(1, 1, 2 * GB), Shape(4, 2), Shape(3)]
    groups = [
        Group(
            f"g{index}", shape, draw.choice([20.0, 60.0]), draw.choice([1, 3]), draw.choice([0, 2])
        )
        for index, shape in enumerate(draw.sample(shapes, draw.randint(1, 4)))
    ]
    trials = draw.randint(1, 40)
    group = [draw.randrange(len(groups)) for _ in range(trials)]
    parents = [
        tuple(draw.choices(range(trial), k=draw.choice([0, 0, 1, 1, 2]))) if trial else ()
        for trial in range(trials)
    ]
    nodes = [NodeUp(0.0, "n0", 4, 2, 8 * GB)] + [
        NodeUp(
            draw.choice([0.0, 30.0]), f"n{index}", draw.choice([2, 8]), draw.choice([0, 4]), 8 * GB
        )
        for index in range(1, draw.randint(1, 4))
    ]
    simulation = Simulation(
        groups,
        group,
        [draw.choice([0.0, 0.01, 1.0, 15.0]) for _ in range(trials)],
        nodes,
        parents=parents,
        priority=[draw.randint(-2, 2) for _ in range(trials)],
        policy=Policy(patience=draw.choice([0.0, 1.0, 10.0]), grace=draw.choice([0.0, 5.0])),
        delays=Delays(start=draw.choice([0.0, 3.0]), exit=draw.choice([0.0, 1.0])),
        faults=Faults(
            worker_deaths=draw.choice([0.0, 30.0, 200.0]),
            node_losses=draw.choice([0.0, 30.0]),
            node_away=20.0,
            raising=draw.choice([0.0, 0.1]),
            hanging=draw.choice([0.0, 0.1]),
            dirty=draw.choice([0.0, 0.2]),
        ),
        seed=seed,
    )
    return simulation, parents, group


@pytest.mark.parametrize("block", range(10))
def test_random_histories_keep_every_rule_and_end(block):
    for seed in range(20 * block, 20 * block + 20):
        simulation, parents, group = random_history(seed)
        oracle = watch(simulation, parents, group)
        assert simulation.scheduler.finished, f"seed {seed} got stuck"
        assert set(simulation.scheduler.states().tolist()) <= FINAL, f"seed {seed}"
        assert len(oracle.settled) == len(parents), f"seed {seed}"


def test_random_histories_meet_what_they_are_for():
    """The faults do happen: else the test above would prove little."""
    seen, stale = set(), 0
    for seed in range(60):
        simulation, parents, group = random_history(seed)
        oracle = watch(simulation, parents, group)
        stale += simulation.scheduler.stale
        seen |= {(end.outcome, end.final) for end in oracle.ended}
        seen |= {State(state) for state in simulation.scheduler.states().tolist()}
    ends = {(outcome, final) for outcome in ("lost", "failed") for final in (False, True)}
    assert seen >= ends | {State.SKIPPED, State.DONE}
    assert stale > 50


def test_the_same_seed_gives_the_same_history():
    hashes = [random_history(seed)[0].run().log_hash for seed in (3, 3, 4)]
    assert hashes[0] == hashes[1] != hashes[2]


def two_shapes(trials=100, seconds=3.0):
    return Simulation(
        [Group("narrow", Shape(1)), Group("wide", Shape(2))],
        [0] * trials + [1] * trials,
        [seconds] * 2 * trials,
        [NodeUp(0.0, "laptop", 2, 0, 8 * GB)],
    )


def test_two_shapes_share_two_cores_without_starving_or_thrashing():
    simulation = two_shapes()
    policy, delays = simulation.scheduler.policy, Delays()
    oracle = watch(simulation, [()] * 200, [0] * 100 + [1] * 100)
    run = simulation.run()
    assert simulation.scheduler.finished
    # A turn: the other's patience and its last trial, two workers' exits, a start.
    turn = 2 * policy.patience + 3.0 + delays.start + 1.0
    assert max(run.longest_starved.values()) <= turn
    # A worker that served for `patience` seconds had three trials of 3 s in that time.
    assert sum(oracle.worked_on.values()) / len(oracle.worked_on) >= 3
    assert run.utilisation["cpus"] > 0.7


def test_busy_shapes_share_a_large_node_evenly():
    simulation = Simulation(
        [Group("a", Shape(1)), Group("b", Shape(2))],
        [0] * 4000 + [1] * 2000,
        [7.0] * 6000,
        [NodeUp(0.0, "big", 32, 0, 8 * GB)],
    )
    shares = []
    while simulation.now < 400 and simulation.step() is not None:
        running = simulation.scheduler.counts()[:, State.RUNNING]
        if simulation.now > 100:
            shares.append(running[0] / 32)
    assert 0.4 <= np.mean(shares) <= 0.6


def test_a_wide_shape_gets_a_node_that_narrow_trials_keep_full():
    """Eight narrow workers that never fall idle together must drain for the wide trial."""
    draw = random.Random(0)
    seconds = [draw.uniform(5, 60) for _ in range(400)]
    simulation = Simulation(
        [Group("narrow", Shape(1, 1)), Group("wide", Shape(8, 8))],
        [0] * 400 + [1] * 2,
        [*seconds, 30.0, 30.0],
        [NodeUp(0.0, "n0", 8, 8, 8 * GB), NodeUp(0.0, "n1", 8, 8, 8 * GB)],
        # The wide ones become ready once the cluster is full.
        parents=[()] * 400 + [(0,), (0,)],
    )
    done_at = None
    while simulation.step() is not None:
        if done_at is None and simulation.scheduler.counts()[1, State.DONE] == 2:
            done_at = simulation.now
    assert done_at is not None
    assert done_at < 400, "the wide trials had to wait for most narrow ones"
    assert simulation.scheduler.counts()[:, State.DONE].tolist() == [400, 2]


def test_nodes_that_join_late_are_used():
    simulation = Simulation(
        [Group("train", Shape(1))],
        [0] * 100,
        [10.0] * 100,
        [NodeUp(0.0, "a", 1, 0, GB), NodeUp(100.0, "b", 9, 0, GB)],
    )
    run = simulation.run()
    # 9 trials in the first 100 s, the other 91 on ten workers.
    assert 190 <= run.makespan <= 215


def test_figures_of_a_sweep_that_can_be_checked_by_hand():
    run = Simulation(
        [Group("train", Shape(1))],
        [0] * 4,
        [10.0] * 4,
        [NodeUp(0.0, "a", 2, 0, GB)],
        delays=Delays(start=5.0),
    ).run()
    assert run.makespan == 25.0
    assert run.utilisation == {"cpus": 40 / 50, "gpus": 0.0}
    assert run.mean_wait["train"] == (2 * 5 + 2 * 15) / 4
    assert run.longest_starved["train"] == 5.0


def test_stop_all_ends_a_simulated_sweep():
    simulation = two_shapes()
    simulation.send(StopAll(50.0, "ctrl-c"))
    run = simulation.run()
    assert run.makespan == pytest.approx(50.0 + Delays().cancel)
    counts = simulation.scheduler.counts().sum(axis=0)
    assert counts[State.STOPPED] in (1, 2)
    assert counts[State.RUNNING] == 0
    assert counts[State.READY] > 100
