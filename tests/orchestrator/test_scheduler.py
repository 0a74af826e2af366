"""One short history of events for each rule of the scheduler."""

from __future__ import annotations

import numpy as np
import pytest

from sensweep.orchestrator.events import (
    Cancel,
    Dispatch,
    Ended,
    Finished,
    KillWorker,
    NodeDown,
    NodeUp,
    RetireWorker,
    Skipped,
    StartWorker,
    StopAll,
    StopTrial,
    Tick,
    WorkerDied,
    WorkerReady,
)
from sensweep.orchestrator.moves import MOVES, IllegalMove, State, Trials
from sensweep.orchestrator.nodes import Shape
from sensweep.orchestrator.policy import Group, Policy
from sensweep.orchestrator.scheduler import Scheduler

GB = 10**9
ONE, TWO = Shape(1), Shape(2)


def scheduler(*groups: Group, **policy: float) -> Scheduler:
    made = Scheduler(Policy(**policy))
    for group in groups or (Group("train", ONE),):
        made.add_group(group)
    return made


def running(cpus: int = 1, trials: int = 1, group: Group | None = None, **policy) -> Scheduler:
    """A scheduler with `cpus` workers of one cpu, ready at 0 s, and trial i on worker i."""
    made = scheduler(group or Group("train", ONE), **policy)
    made.add(0.0, [0] * trials)
    made.handle(NodeUp(0.0, "a", cpus, 0, GB))
    for worker in range(min(cpus, trials)):
        made.handle(WorkerReady(0.0, worker))
    return made


def states(made: Scheduler) -> list[str]:
    return [State(state).name.lower() for state in made.states()]


def kinds_of(commands):
    return [type(command).__name__ for command in commands]


def of(kind, commands):
    return [command for command in commands if isinstance(command, kind)]


# ---- trials and their dependants


def test_a_dependant_runs_on_the_same_worker_once_all_its_parents_are_done():
    made = scheduler()
    made.add(0.0, [0, 0, 0], parents=[(), (), (0, 1, 1)])
    made.handle(NodeUp(0.0, "a", 1, 0, GB))
    assert made.handle(WorkerReady(1.0, 0)) == [Dispatch(0, 1, 0)]
    assert made.handle(Finished(2.0, 0, 1, 0, "done")) == [
        Ended(0, 1, "done", True, ""),
        Dispatch(1, 1, 0),
    ]
    assert states(made) == ["done", "running", "waiting"]
    assert made.handle(Finished(3.0, 1, 1, 0, "done"))[1:] == [Dispatch(2, 1, 0)]
    assert not made.finished
    made.handle(Finished(4.0, 2, 1, 0, "done"))
    assert made.finished


def test_dependants_of_a_failed_trial_are_skipped_to_the_last():
    made = scheduler()
    chain = 5000
    made.add(0.0, [0] * chain, parents=[()] + [(i,) for i in range(chain - 2)] + [()])
    made.handle(NodeUp(0.0, "a", 1, 0, GB))
    made.handle(WorkerReady(0.0, 0))
    commands = made.handle(Finished(1.0, 0, 1, 0, "failed"))
    assert commands[0] == Ended(0, 1, "failed", True, "")
    assert commands[1] == Skipped(tuple(range(1, chain - 1)), because=0)
    assert commands[2] == Dispatch(chain - 1, 1, 0)


def test_priority_goes_before_plan_order():
    made = scheduler()
    made.add(0.0, [0] * 4, priority=[0, -3, 7, 7])
    made.handle(NodeUp(0.0, "a", 1, 0, GB))
    order = [made.handle(WorkerReady(0.0, 0))[-1].trial]
    for _ in range(3):
        order.append(made.handle(Finished(1.0, order[-1], 1, 0, "done"))[-1].trial)
    assert order == [2, 3, 0, 1]


def test_dependants_with_priority_go_before_trials_that_were_ready_earlier():
    made = scheduler()
    made.add(0.0, [0] * 5, parents=[(), (), (0,), (0,), (1,)], priority=[0, 0, -1, 1, 1])
    made.handle(NodeUp(0.0, "a", 1, 0, GB))
    order = [made.handle(WorkerReady(0.0, 0))[-1].trial]
    for _ in range(4):
        order.append(made.handle(Finished(1.0, order[-1], 1, 0, "done"))[-1].trial)
    assert order == [0, 3, 1, 4, 2]


def test_trials_that_are_settled_already_are_not_run_and_count_for_their_dependants():
    made = scheduler()
    commands = made.add(
        0.0,
        [0] * 5,
        parents=[(), (), (0,), (1,), (3,)],
        state=[State.DONE, State.FAILED, State.WAITING, State.WAITING, State.WAITING],
        attempts=[1, 2, 4, 0, 0],
    )
    assert commands == [Skipped((3, 4), because=1)]
    assert states(made) == ["done", "failed", "ready", "skipped", "skipped"]
    made.handle(NodeUp(0.0, "a", 1, 0, GB))
    assert made.handle(WorkerReady(0.0, 0)) == [Dispatch(2, attempt=5, worker=0)]


def test_trials_added_during_the_run_go_to_idle_workers_and_wait_for_old_parents():
    made = running(cpus=2, trials=2)
    made.handle(Finished(1.0, 0, 1, 0, "done"))
    commands = made.add(2.0, [0, 0, 0], parents=[(0,), (1,), (0, 1)])
    assert commands == [Dispatch(2, 1, 0)]
    assert states(made) == ["done", "running", "running", "waiting", "waiting"]
    assert of(Dispatch, made.handle(Finished(3.0, 1, 1, 1, "done"))) == [Dispatch(3, 1, 1)]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"group": [0, 1]}, "groups span 0..1; 1 are known"),
        ({"group": [0], "parents": [(0,)]}, "trial 0 names parent 0; a parent comes before"),
        ({"group": [0], "parents": [(-1,)]}, "names parent -1"),
        ({"group": [0, 0], "parents": [()]}, "parents are given for 1 trials; 2 are added"),
        ({"group": [0, 0], "priority": [1]}, "priority has 1 values; 2 trials are added"),
        ({"group": [0], "priority": [0.5]}, "priority must be whole numbers of 32 bits"),
        ({"group": [0], "priority": 2**31}, "priority must be whole numbers of 32 bits"),
        ({"group": [0], "state": State.READY}, "enters as waiting or in a final state"),
    ],
)
def test_a_bad_plan_is_refused_whole(columns, message):
    made = scheduler()
    with pytest.raises(ValueError, match=message):
        made.add(0.0, **columns)
    assert len(made.states()) == 0
    assert made.counts().sum() == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"timeout_s": 0}, "timeout_s of group train is 0; give seconds > 0, or None for never"),
        ({"max_lost": 0}, "max_lost of group train is 0; give 1 or more"),
        ({"retries": -1}, "retries of group train is -1; give 0 or more"),
    ],
)
def test_a_group_out_of_range_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        Group("train", ONE, **given)


def test_parents_may_be_csr_arrays():
    made = scheduler()
    made.add(0.0, [0, 0, 0], parents=(np.array([0, 0, 1, 3]), np.array([0, 0, 1])))
    assert states(made) == ["ready", "waiting", "waiting"]


def test_counts_are_by_group_and_state():
    made = scheduler(Group("train", ONE), Group("score", ONE))
    made.add(0.0, [0, 0, 1, 1], parents=[(), (), (0,), (1,)])
    made.handle(NodeUp(0.0, "a", 1, 0, GB))
    made.handle(WorkerReady(0.0, 0))
    made.handle(Finished(1.0, 0, 1, 0, "failed"))
    counts = made.counts()
    assert counts[0, [State.FAILED, State.RUNNING]].tolist() == [1, 1]
    assert counts[1, [State.SKIPPED, State.WAITING]].tolist() == [1, 1]
    assert counts.sum() == 4


def test_every_move_not_in_the_table_is_refused():
    for start in State:
        for to in State:
            trials = Trials()
            trials.add_group()
            trials.add([0], None, 0, State.WAITING, 0)
            trials.state[0] = start
            if to in MOVES[start]:
                trials.move(0, to)
                assert trials.state[0] == to
            else:
                with pytest.raises(IllegalMove, match=f"from {start.name.lower()} to"):
                    trials.move(0, to)


def test_an_illegal_move_tells_the_story_of_the_trial():
    made = running()
    made.handle(WorkerDied(1.5, 0, "segfault"))
    made.handle(WorkerReady(4.0, 1))
    with pytest.raises(IllegalMove) as caught:
        made._move(0, State.SKIPPED)
    assert str(caught.value) == (
        "trial 0 cannot go from running to skipped; story of trial 0: "
        "0.000 s running (attempt 1, worker 0), 1.500 s lost, 1.500 s ready, "
        "4.000 s running (attempt 2, worker 1)"
    )


# ---- attempts: losses, stops, deadlines, fencing


def test_a_lost_attempt_is_repeated_until_too_many_were_lost():
    made = running(group=Group("train", ONE, max_lost=2))
    made.add(0.0, [0], parents=[(0,)])
    assert made.handle(WorkerDied(1.0, 0, "oom")) == [
        Ended(0, 1, "lost", False, "worker died: oom (attempt lost 1 of 2)"),
        StartWorker(1, "a", ONE),
    ]
    assert made.handle(WorkerReady(2.0, 1)) == [Dispatch(0, 2, 1)]
    assert made.handle(WorkerDied(3.0, 1, "oom")) == [
        Ended(0, 2, "lost", True, "worker died: oom (attempt lost 2 of 2)"),
        Skipped((1,), because=0),
    ]
    assert states(made) == ["failed", "skipped"]


def test_an_attempt_that_raised_is_repeated_as_often_as_the_group_allows():
    made = running(group=Group("train", ONE, retries=1))
    again = made.handle(Finished(1.0, 0, 1, 0, "failed"))
    assert again == [Ended(0, 1, "failed", False, ""), Dispatch(0, 2, 0)]
    assert of(Ended, made.handle(Finished(2.0, 0, 2, 0, "failed"))) == [
        Ended(0, 2, "failed", True, "")
    ]
    assert states(made) == ["failed"]
    overrun = running(group=Group("train", ONE, timeout_s=5, retries=1), grace=1.0)
    overrun.handle(Tick(5.0))
    overrun.handle(Tick(6.0))
    assert states(overrun) == ["failed"]  # a timeout is no exception of the task


def test_a_node_takes_its_workers_and_their_trials_with_it():
    made = running(cpus=2, trials=2)
    lost = made.handle(NodeDown(1.0, "a"))
    assert [(end.trial, end.outcome, end.final) for end in lost] == [
        (0, "lost", False),
        (1, "lost", False),
    ]
    assert made.handle(WorkerDied(1.1, 0, "node")) == []
    assert made.stale == 1
    assert len(of(StartWorker, made.handle(NodeUp(2.0, "a", 2, 0, GB)))) == 2


@pytest.mark.parametrize(
    "late",
    [
        Finished(2.0, 0, 1, 0, "done"),  # attempt 1 was lost with worker 0
        Finished(2.0, 0, 2, 0, "done"),  # the right attempt from the wrong worker
        Finished(2.0, 1, 1, 1, "done"),  # never dispatched
        Finished(2.0, 99, 1, 1, "done"),
        WorkerReady(2.0, 1),  # it is ready already
        WorkerReady(2.0, 99),
        WorkerDied(2.0, 0, "again"),
        NodeUp(2.0, "a", 64, 8, GB),
        NodeDown(2.0, "b"),
        StopTrial(2.0, 99),
        StopTrial(2.0, -1),
    ],
)
def test_stale_events_change_nothing(late):
    made = running(cpus=1, trials=2)
    made.handle(WorkerDied(1.0, 0, "oom"))
    made.handle(WorkerReady(2.0, 1))
    before = states(made), made.next_deadline(), made.counts().tolist()
    assert made.handle(late) == []
    assert made.stale == 1
    assert (states(made), made.next_deadline(), made.counts().tolist()) == before
    assert made.handle(Finished(3.0, 0, 2, 1, "done"))[0] == Ended(0, 2, "done", True, "")


def test_a_worker_that_was_left_changed_is_replaced():
    made = running(trials=2)
    commands = made.handle(Finished(1.0, 0, 1, 0, "done", worker_ok=False))
    assert commands == [Ended(0, 1, "done", True, ""), RetireWorker(0)]
    assert made.handle(WorkerDied(2.0, 0, "exited")) == [StartWorker(1, "a", ONE)]


def test_an_attempt_past_its_deadline_is_cancelled_then_killed_and_the_trial_failed():
    made = running(group=Group("train", ONE, timeout_s=60), grace=5)
    made.add(0.0, [0], parents=[(0,)])
    assert made.next_deadline() == 60.0
    why = "timeout: ran longer than 60 s"
    assert made.handle(Tick(60.0)) == [Cancel(0, 1, 0, why)]
    assert made.next_deadline() == 65.0
    assert made.handle(Tick(64.9)) == []
    assert made.handle(Tick(65.0)) == [
        KillWorker(0, why),
        Ended(0, 1, "failed", True, f"{why}; killed 5 s later"),
        Skipped((1,), because=0),
    ]
    assert made.handle(WorkerDied(65.1, 0, "killed")) == []
    assert made.stale == 0


@pytest.mark.parametrize(
    ("outcome", "ending"),
    [("stopped", "failed"), ("done", "done"), ("failed", "failed")],
)
def test_a_cancelled_attempt_that_comes_back_in_time_keeps_its_worker(outcome, ending):
    made = running(group=Group("train", ONE, timeout_s=60), trials=2)
    made.handle(Tick(60.0))
    end, dispatch = made.handle(Finished(61.0, 0, 1, 0, outcome))
    assert (end.outcome, end.final) == (ending, True)
    assert dispatch == Dispatch(1, 1, 0)
    assert made.next_deadline() == 121.0


def test_stopping_one_trial_in_each_state():
    made = scheduler(grace=5)
    made.add(0.0, [0] * 4, parents=[(), (), (0,), (1,)])
    made.handle(NodeUp(0.0, "a", 1, 0, GB))
    made.handle(WorkerReady(0.0, 0))
    why = "stopped on request"
    assert made.handle(StopTrial(1.0, 2)) == [Ended(2, 0, "stopped", True, why)]  # waiting
    assert made.handle(StopTrial(1.0, 1)) == [  # ready
        Ended(1, 0, "stopped", True, why),
        Skipped((3,), because=1),
    ]
    assert made.handle(StopTrial(1.0, 0)) == [Cancel(0, 1, 0, why)]  # running
    assert made.handle(StopTrial(2.0, 0)) == []  # asked already
    assert made.handle(Finished(3.0, 0, 1, 0, "stopped"))[0].outcome == "stopped"
    assert made.handle(StopTrial(4.0, 0)) == []  # settled
    assert made.stale == 1
    assert states(made) == ["stopped", "stopped", "stopped", "skipped"]
    assert made.finished


def test_a_trial_that_was_stopped_before_its_parent_was_done_stays_stopped():
    made = running()
    made.add(0.0, [0, 0], parents=[(0,), (0,)])
    made.handle(StopTrial(1.0, 1))
    assert of(Dispatch, made.handle(Finished(2.0, 0, 1, 0, "done"))) == [Dispatch(2, 1, 0)]
    assert states(made) == ["done", "stopped", "running"]


def test_an_event_that_was_overtaken_does_not_turn_time_back():
    made = running(group=Group("train", ONE, timeout_s=60), trials=2)
    made.handle(Tick(10.0))
    made.handle(Finished(9.0, 0, 1, 0, "done"))
    assert made.next_deadline() == 70.0


def test_a_killed_worker_takes_no_more_trials_and_is_replaced_when_it_is_gone():
    made = running(group=Group("train", ONE, timeout_s=60), trials=2, grace=0)
    assert kinds_of(made.handle(Tick(60.0))) == ["Cancel", "KillWorker", "Ended"]
    assert made.handle(Finished(60.1, 0, 1, 0, "done")) == []  # it was too late
    assert made.handle(WorkerDied(60.2, 0, "killed")) == [StartWorker(1, "a", ONE)]
    assert made.stale == 1


def test_a_stopped_trial_whose_worker_dies_is_not_repeated():
    made = running()
    made.handle(StopTrial(1.0, 0, "pruned"))
    assert made.handle(WorkerDied(2.0, 0, "exit"))[0] == Ended(0, 1, "stopped", True, "pruned")


def test_stop_all_cancels_then_kills_and_gives_nothing_up():
    made = running(cpus=2, trials=3, grace=5)
    made.add(0.0, [0], parents=[(0,)])
    commands = made.handle(StopAll(1.0, "ctrl-c"))
    assert commands == [Cancel(0, 1, 0, "ctrl-c"), Cancel(1, 1, 1, "ctrl-c")]
    assert made.handle(Finished(2.0, 1, 1, 1, "done")) == [Ended(1, 1, "done", True, "")]
    assert not made.finished
    assert made.next_deadline() == 6.0
    assert made.handle(Tick(6.0)) == [
        KillWorker(0, "ctrl-c"),
        Ended(0, 1, "stopped", True, "ctrl-c; killed 5 s later"),
    ]
    assert made.finished
    # What had not begun is left for a later run, dependants of the stopped trial included.
    assert states(made) == ["stopped", "done", "ready", "waiting"]
    assert made.handle(WorkerDied(6.1, 0, "killed")) == []
