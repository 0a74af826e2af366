"""Which workers are started, where, and which must go: one short history for each rule."""

from __future__ import annotations

import pytest

from sensweep.orchestrator.events import (
    Dispatch,
    Finished,
    NodeDown,
    NodeUp,
    RetireWorker,
    StartWorker,
    StopTrial,
    Tick,
    WorkerDied,
    WorkerReady,
)
from sensweep.orchestrator.nodes import Shape
from sensweep.orchestrator.policy import Group, Policy
from sensweep.orchestrator.scheduler import Scheduler

GB = 10**9
ONE, TWO = Shape(1), Shape(2)


def scheduler(*shapes: Shape, trials: list[int], nodes: list[NodeUp], **policy):
    """A scheduler with one group per shape and `trials[i]` ready trials in group i."""
    made = Scheduler(Policy(**policy))
    for index, shape in enumerate(shapes):
        made.add_group(Group(f"g{index}", shape))
    made.add(0.0, [group for group, number in enumerate(trials) for _ in range(number)])
    commands = [command for node in nodes for command in made.handle(node)]
    return made, commands


def kinds(commands) -> list[str]:
    return [type(command).__name__ for command in commands]


def test_no_more_workers_are_started_than_trials_are_ready():
    made, commands = scheduler(ONE, trials=[3], nodes=[NodeUp(0, "a", 8, 0, GB)])
    assert kinds(commands) == ["StartWorker"] * 3
    assert made.add(1.0, [0]) == [StartWorker(3, "a", ONE)]


def test_workers_are_spread_and_gpu_nodes_are_left_to_gpu_shapes():
    nodes = [NodeUp(0, "gpu", 16, 4, GB), NodeUp(0, "b", 2, 0, GB), NodeUp(0, "c", 3, 0, GB)]
    made, _ = scheduler(ONE, trials=[0], nodes=nodes)
    commands = made.add(0.0, [0] * 6)
    assert [command.node for command in commands] == ["c", "b", "c", "b", "c", "gpu"]


@pytest.mark.parametrize(
    ("shape", "fits"),
    [
        (Shape(0.1), 20),
        (Shape(1, memory=3 * GB), 1),
        (Shape(0.01, gpus=0.4), 4),  # two on each of the two gpus, not five on both together
        (Shape(0.01, gpus=1), 2),
        (Shape(0.01, gpus=2), 1),
        (Shape(0.01, gpus=3), 0),
        (Shape(3), 0),
    ],
)
def test_no_node_is_over_committed(shape, fits):
    _, commands = scheduler(shape, trials=[50], nodes=[NodeUp(0, "a", 2, 2, 5 * GB)])
    assert kinds(commands) == ["StartWorker"] * fits


def test_rests_of_two_gpus_do_not_make_a_gpu():
    made, commands = scheduler(Shape(1, 0.6), trials=[2], nodes=[NodeUp(0, "a", 8, 2, GB)])
    assert kinds(commands) == ["StartWorker"] * 2
    half = made.add_group(Group("half", Shape(1, 0.5)))
    assert made.add(0.0, [half]) == []
    rest = made.add_group(Group("rest", Shape(1, 0.4)))
    assert kinds(made.add(0.0, [rest, rest, rest])) == ["StartWorker"] * 2


def test_a_fraction_goes_where_it_leaves_the_smallest_rest():
    made, _ = scheduler(ONE, trials=[0], nodes=[NodeUp(0, "a", 8, 2, GB)])
    for fraction in (0.5, 0.6, 0.4, 0.5):  # first fit would leave no half for the last
        group = made.add_group(Group(f"{fraction}", Shape(1, fraction)))
        assert kinds(made.add(0.0, [group])) == ["StartWorker"]


@pytest.mark.parametrize(
    "amounts",
    [
        {"cpus": 0},
        {"cpus": -1},
        {"cpus": 1, "gpus": 1.5},
        {"cpus": 1, "gpus": -1},
        {"cpus": 1, "memory": -1},
    ],
)
def test_a_shape_out_of_range_is_refused(amounts):
    with pytest.raises(ValueError, match=f"{list(amounts)[-1]} is {list(amounts.values())[-1]}"):
        Shape(**amounts)


def test_the_most_recently_used_worker_is_taken_first():
    made, _ = scheduler(ONE, trials=[3], nodes=[NodeUp(0, "a", 3, 0, GB)])
    for worker in range(3):
        made.handle(WorkerReady(1.0, worker))
    for trial in (2, 0, 1):
        made.handle(Finished(2.0, trial, 1, trial, "done"))
    assert made.add(3.0, [0, 0]) == [Dispatch(3, 1, 1), Dispatch(4, 1, 0)]


def test_groups_of_one_shape_share_workers():
    made, _ = scheduler(ONE, ONE, trials=[1, 1], nodes=[NodeUp(0, "a", 1, 0, GB)])
    assert made.handle(WorkerReady(1.0, 0)) == [Dispatch(0, 1, 0)]
    assert made.handle(Finished(2.0, 0, 1, 0, "done"))[1] == Dispatch(1, 1, 0)


def test_an_idle_worker_without_work_makes_way_at_once():
    made, _ = scheduler(ONE, TWO, trials=[2, 0], nodes=[NodeUp(0, "a", 2, 0, GB)])
    for worker in range(2):
        made.handle(WorkerReady(1.0, worker))
    made.add(1.0, [1], parents=[(0, 1)])
    assert kinds(made.handle(Finished(2.0, 0, 1, 0, "done"))) == ["Ended"]
    made.handle(Finished(2.0, 1, 1, 1, "done"))  # both are idle now, and the wide trial is ready
    assert made.handle(WorkerDied(2.1, 0, "exited")) == []
    assert made.handle(WorkerDied(2.2, 1, "exited")) == [StartWorker(2, "a", TWO)]


def test_idle_workers_are_kept_while_nothing_needs_their_room():
    made, _ = scheduler(ONE, TWO, trials=[1, 1], nodes=[NodeUp(0, "a", 3, 0, GB)])
    for worker in range(2):
        made.handle(WorkerReady(1.0, worker))
    assert kinds(made.handle(Finished(2.0, 0, 1, 0, "done"))) == ["Ended"]
    assert made.add(3.0, [0]) == [Dispatch(2, 1, 0)]


def two_cores():
    """Two workers of one cpu with a long queue; a trial of two cpus is ready since 0 s."""
    made, commands = scheduler(
        ONE, TWO, trials=[50, 1], nodes=[NodeUp(0, "a", 2, 0, GB)], patience=10
    )
    assert commands == [StartWorker(0, "a", ONE), StartWorker(1, "a", ONE)]
    for worker in range(2):
        made.handle(WorkerReady(1.0, worker))
    return made


def test_a_starving_wide_shape_is_given_both_workers_when_they_fall_idle():
    made = two_cores()
    assert kinds(made.handle(Finished(9.9, 0, 1, 0, "done"))) == ["Ended", "Dispatch"]
    assert kinds(made.handle(Finished(11.0, 1, 1, 1, "done"))) == ["Ended", "RetireWorker"]
    assert made.handle(WorkerDied(11.1, 1, "exited")) == []  # the room is kept for the wide one
    assert made.handle(Finished(30.0, 2, 1, 0, "done"))[1] == RetireWorker(0)
    assert made.handle(WorkerDied(30.1, 0, "exited")) == [StartWorker(2, "a", TWO)]
    assert made.handle(WorkerReady(33.0, 2)) == [Dispatch(50, 1, 2)]
    # Its queue is empty then, so that it makes way without having served for long.
    assert made.handle(Finished(34.0, 50, 1, 2, "done"))[1:] == [RetireWorker(2)]
    assert kinds(made.handle(WorkerDied(34.1, 2, "exited"))) == ["StartWorker"] * 2


def test_a_worker_serves_for_its_patience_before_it_makes_way_for_others():
    made = two_cores()
    made.add(1.0, [1] * 50)
    made.handle(Finished(11.0, 0, 1, 0, "done"))
    made.handle(Finished(11.0, 1, 1, 1, "done"))
    made.handle(WorkerDied(11.1, 0, "exited"))
    assert made.handle(WorkerDied(11.1, 1, "exited")) == [StartWorker(2, "a", TWO)]
    made.handle(WorkerReady(20.0, 2))
    assert kinds(made.handle(Finished(29.9, 50, 1, 2, "done"))) == ["Ended", "Dispatch"]
    assert kinds(made.handle(Finished(30.1, 51, 1, 2, "done"))) == ["Ended", "RetireWorker"]


def test_a_shape_waits_for_its_patience_even_where_workers_are_old():
    made, _ = scheduler(ONE, TWO, trials=[50, 0], nodes=[NodeUp(0, "a", 2, 0, GB)], patience=10)
    for worker in range(2):
        made.handle(WorkerReady(1.0, worker))
    made.add(100.0, [1])
    assert kinds(made.handle(Finished(109.9, 0, 1, 0, "done"))) == ["Ended", "Dispatch"]
    assert kinds(made.handle(Finished(110.1, 1, 1, 1, "done"))) == ["Ended", "RetireWorker"]


def test_no_more_workers_make_way_than_the_claimed_room_takes():
    nodes = [NodeUp(0, "a", 3, 0, GB), NodeUp(0, "b", 20, 0, GB)]
    made, commands = scheduler(ONE, TWO, trials=[90, 0], nodes=nodes, patience=10)
    for command in commands:
        made.handle(WorkerReady(1.0, command.worker))
    made.add(1.0, [1] * 50)
    on_a = [command.worker for command in commands if command.node == "a"]
    ends = [made.handle(Finished(12.0, worker, 1, worker, "done"))[-1] for worker in on_a]
    assert kinds(ends) == ["RetireWorker", "RetireWorker", "Dispatch"]


def test_no_more_room_is_claimed_than_trials_are_ready():
    nodes = [NodeUp(0, "a", 2, 0, GB), NodeUp(0, "b", 20, 0, GB)]
    made, commands = scheduler(ONE, TWO, trials=[90, 0], nodes=nodes, patience=10)
    for command in commands:
        made.handle(WorkerReady(1.0, command.worker))
    made.add(1.0, [1])
    on_a, on_b = (next(c.worker for c in commands if c.node == node) for node in "ab")
    assert made.handle(Finished(12.0, on_a, 1, on_a, "done"))[-1] == RetireWorker(on_a)
    assert kinds(made.handle(Finished(12.0, on_b, 1, on_b, "done"))) == ["Ended", "Dispatch"]


def test_only_workers_that_hold_what_a_claim_lacks_make_way():
    gpu, gpus = Shape(1, 1), Shape(1, 2)
    nodes = [NodeUp(0, "a", 4, 2, GB)]
    made, commands = scheduler(gpu, ONE, gpus, trials=[50, 50, 0], nodes=nodes, patience=10)
    assert [command.shape for command in commands] == [gpu, ONE, ONE, gpu]
    for worker, trial in enumerate([0, 50, 51, 1]):
        assert made.handle(WorkerReady(1.0, worker)) == [Dispatch(trial, 1, worker)]
    made.add(1.0, [2])
    assert kinds(made.handle(Finished(12.0, 0, 1, 0, "done"))) == ["Ended", "RetireWorker"]
    assert kinds(made.handle(Finished(12.0, 50, 1, 1, "done"))) == ["Ended", "Dispatch"]
    assert kinds(made.handle(Finished(12.0, 1, 1, 3, "done"))) == ["Ended", "RetireWorker"]


def test_room_that_a_killed_worker_leaves_counts_for_what_waits():
    made, _ = scheduler(ONE, TWO, trials=[2, 0], nodes=[NodeUp(0, "a", 2, 0, GB)], grace=0)
    for worker in range(2):
        made.handle(WorkerReady(1.0, worker))
    made.add(1.0, [1])
    assert kinds(made.handle(Finished(2.0, 0, 1, 0, "done"))) == ["Ended"]
    commands = made.handle(StopTrial(3.0, 1))
    assert kinds(commands) == ["Cancel", "KillWorker", "Ended", "RetireWorker"]


def test_idle_workers_do_not_make_way_on_a_node_that_rests():
    other = Shape(1, memory=1)
    made, _ = scheduler(ONE, other, trials=[2, 0], nodes=[NodeUp(0, "a", 2, 0, GB)])
    made.handle(WorkerReady(1.0, 0))
    made.handle(WorkerDied(1.0, 1, "cannot start"))
    made.handle(StopTrial(1.0, 1))
    made.handle(Finished(1.5, 0, 1, 0, "done"))
    assert made.add(1.5, [1, 1]) == []
    assert kinds(made.handle(Tick(2.0))) == ["StartWorker", "RetireWorker"]


def test_workers_on_a_node_too_small_for_a_starving_shape_do_not_make_way():
    nodes = [NodeUp(0, "small", 1, 0, GB), NodeUp(0, "large", 2, 0, GB)]
    made, commands = scheduler(ONE, TWO, trials=[50, 0], nodes=nodes, patience=10)
    assert [command.node for command in commands] == ["small", "large", "large"]
    for worker in range(3):
        made.handle(WorkerReady(1.0, worker))
    made.add(1.0, [1])
    ends = [made.handle(Finished(12.0, trial, 1, trial, "done"))[-1] for trial in range(3)]
    assert kinds(ends) == ["Dispatch", "RetireWorker", "RetireWorker"]


def three_of_five_make_way():
    """Five idle workers of one shape; three of another are wanted where there is no more room."""
    other = Shape(1, memory=1)
    made, _ = scheduler(ONE, other, trials=[5, 0], nodes=[NodeUp(0, "a", 5, 0, GB)])
    for worker in range(5):
        made.handle(WorkerReady(1.0, worker))
    for worker in range(5):
        made.handle(Finished(2.0, worker, 1, worker, "done"))
    assert made.add(3.0, [1] * 3) == [RetireWorker(0), RetireWorker(1), RetireWorker(2)]
    assert made.handle(WorkerDied(3.1, 1, "exited")) == [StartWorker(5, "a", other)]
    return made, other


def test_idle_workers_make_way_for_as_many_as_are_wanted():
    made, other = three_of_five_make_way()
    assert made.handle(WorkerDied(3.2, 0, "exited")) == [StartWorker(6, "a", other)]
    assert made.handle(WorkerReady(3.3, 5)) == [Dispatch(5, 1, 5)]
    # The fifth trial of the first shape still finds a warm worker of its own.
    assert made.add(3.3, [0]) == [Dispatch(8, 1, 4)]


def test_claimed_room_is_not_used_while_its_node_rests():
    made, other = three_of_five_make_way()
    assert made.handle(WorkerDied(3.2, 5, "cannot start")) == []
    assert made.handle(WorkerDied(3.3, 0, "exited")) == []
    assert made.next_deadline() == 4.2
    assert StartWorker(6, "a", other) in made.handle(Tick(4.2))


def test_a_claim_goes_down_with_its_node():
    made = two_cores()
    made.handle(Finished(11.0, 0, 1, 0, "done"))  # makes way, so that node a is claimed
    made.handle(NodeDown(12.0, "a"))
    commands = made.handle(NodeUp(13.0, "b", 8, 0, GB))
    assert StartWorker(3, "b", TWO) in commands


def test_a_claim_is_dropped_when_its_trial_needs_no_worker_any_more():
    made = two_cores()
    made.handle(Finished(11.0, 0, 1, 0, "done"))
    assert made.handle(WorkerDied(11.1, 0, "exited")) == []
    commands = made.handle(StopTrial(12.0, 50))
    assert commands[1:] == [StartWorker(2, "a", ONE)]  # the room goes back to the narrow shape


def test_a_claim_is_dropped_when_its_trial_finds_room_elsewhere():
    made = two_cores()
    made.handle(Finished(11.0, 0, 1, 0, "done"))
    made.handle(WorkerDied(11.1, 0, "exited"))
    commands = made.handle(NodeUp(12.0, "b", 60, 0, GB))
    assert {command.node for command in commands} == {"b"}
    assert StartWorker(2, "b", TWO) not in commands  # room for it is being cleared on a


@pytest.mark.parametrize("cpus", [3, 4])
def test_a_shape_with_its_fair_share_does_not_take_more(cpus):
    nodes = [NodeUp(0, "a", cpus, 0, GB)]
    shapes = ONE, Shape(1, memory=1)
    made, commands = scheduler(*shapes, trials=[99, 99], nodes=nodes, patience=1)
    assert [command.shape.memory for command in commands] == [0, 1, 0, 1][:cpus]
    trials = [made.handle(WorkerReady(1.0, worker))[0].trial for worker in range(cpus)]
    for now in range(2, 20):
        for worker in range(cpus):
            _, dispatch = made.handle(Finished(float(now), trials[worker], 1, worker, "done"))
            assert isinstance(dispatch, Dispatch)
            trials[worker] = dispatch.trial


def test_a_shape_that_fits_no_node_is_reported_and_a_larger_node_rescues_it():
    made, commands = scheduler(
        ONE, Shape(8), trials=[1, 1], nodes=[NodeUp(0, "a", 2, 0, GB)], placement_timeout=30
    )
    assert kinds(commands) == ["StartWorker"]
    assert made.unplaceable() == []
    assert made.next_deadline() == 30.0
    made.handle(Tick(30.0))
    assert made.unplaceable() == [1]
    assert made.next_deadline() is None
    assert not made.finished
    assert made.handle(NodeUp(31.0, "b", 8, 0, GB)) == [StartWorker(1, "b", Shape(8))]
    assert made.unplaceable() == []


def test_a_node_whose_workers_die_while_starting_rests_ever_longer():
    made, _ = scheduler(ONE, trials=[1], nodes=[NodeUp(0, "a", 1, 0, GB)])
    now, rests = 0.0, []
    for worker in range(8):
        assert made.handle(WorkerDied(now, worker, "cannot start")) == []
        rests.append(made.next_deadline() - now)
        assert made.handle(Tick(now + rests[-1] - 0.01)) == []
        now += rests[-1]
        assert made.handle(Tick(now)) == [StartWorker(worker + 1, "a", ONE)]
    assert rests == [1, 2, 4, 8, 16, 32, 60, 60]
    assert kinds(made.handle(WorkerReady(now, 8))) == ["Dispatch"]
    made.handle(WorkerDied(now, 8, "oom"))
    made.handle(WorkerDied(now, 9, "cannot start"))
    assert made.next_deadline() - now == 1  # a worker that came up has cleared the count


def test_a_resting_node_does_not_keep_others_from_being_used():
    nodes = [NodeUp(0, "a", 1, 0, GB), NodeUp(0, "b", 1, 0, GB)]
    made, _ = scheduler(ONE, trials=[1], nodes=nodes)
    assert made.handle(WorkerDied(0.0, 0, "cannot start")) == [StartWorker(1, "b", ONE)]


def test_a_node_that_went_down_is_not_used_until_it_is_back():
    made, _ = scheduler(ONE, trials=[2], nodes=[NodeUp(0, "a", 1, 0, GB)])
    assert made.handle(NodeDown(1.0, "a")) == []
    assert made.add(2.0, [0]) == []
    assert made.handle(NodeUp(3.0, "a", 2, 0, GB)) == [
        StartWorker(1, "a", ONE),
        StartWorker(2, "a", ONE),
    ]
