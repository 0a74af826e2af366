"""From a study to its results: plan against a home, run what is new, hand out what is there.

    from sensweep.orchestrator import Study, run

    sweep = run(Study(study="bowl", axes={"x": [0.0, 1.0]}, stages={"toy": {"task": "toy"}}))
    sweep.rows().to_pandas()

`sensweep run` does the same; both show progress, and both may be interrupted and run again.
"""

from __future__ import annotations

import signal
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from sensweep.clusters.attach import AttachedCluster
from sensweep.clusters.job import ClusterError
from sensweep.clusters.local import LocalCluster, usable_cpus
from sensweep.orchestrator.errors import InputError
from sensweep.orchestrator.plan import Plan, make_plan, status_of
from sensweep.orchestrator.provenance import provenance
from sensweep.orchestrator.recorded import Recorded
from sensweep.orchestrator.study import Study, load_study
from sensweep.orchestrator.trial import Trial, trial_columns

if TYPE_CHECKING:
    import pyarrow as pa

    from sensweep.orchestrator.roll import Orders
    from sensweep.results.store import Home

REFRESH = 0.25  # seconds between looks at a running sweep


@dataclass(frozen=True)
class Sweep:
    """A sweep of a home, to be read: what `run` returns.

    Attributes:
        home: its home's folder.
        name: its id, such as `quickstart.cpu`.
        executed: trials that this run executed.
        counts: the sweep's trials by stage and state.
        stopped: why it ended before its plan was done, or None.
    """

    home: Path
    name: str
    executed: int
    counts: dict[str, dict[str, int]]
    stopped: str | None = None

    @property
    def failed(self) -> int:
        """The number of trials that failed."""
        return sum(states.get("failed", 0) for states in self.counts.values())

    def rows(self) -> pa.Table:
        """Return every measurement of the sweep with its trial's columns, as an Arrow table."""
        return self._select("rows")

    def trials(self) -> pa.Table:
        """Return a line per trial: its point, status, attempts and seconds."""
        return self._select("trials")

    def cells(self) -> pa.Table:
        """Return a line per cell and measurement: mean, interval and number of seeds."""
        return self._select("cells")

    def claims(self) -> list[dict[str, object]]:
        """Evaluate the study's claims; one mapping per verdict."""
        from sensweep.results.queries import claims_of

        return claims_of(_home(self.home), self.name)

    def report(self) -> Path:
        """Write the report, and return the path of its page."""
        from sensweep.orchestrator.reporting import report_sweep

        return report_sweep(_home(self.home), self.name)

    def _select(self, view: str) -> pa.Table:
        from sensweep.results.queries import select_sweep

        return select_sweep(_home(self.home), view, self.name)


def run(
    study: Study | str | Path,
    home: str | Path = "runs",
    *,
    profile: str = "cpu",
    cpus: int | None = None,
    gpus: int = 0,
    address: str | None = None,
    retry_failed: bool = False,
    progress: Callable[[Home, str, Plan], Any] | None = None,
) -> Sweep:
    """Run what of a study is not done in the home yet, and return the sweep.

    Ray is started on this machine for the time of the sweep, unless `address` names a cluster, or
    this process is connected to one already, which is then used.

    Args:
        study: a `Study`, or the name or file of one.
        home: the folder of results; made if it is not there.
        profile: the profile, where `study` is a name or a file.
        cpus: cores to use on this machine; all that the process may use by default.
        gpus: GPUs to use on this machine.
        address: HOST:PORT of a Ray cluster to use instead; this machine is one of its nodes, and
            all of them see the home at the same path.
        retry_failed: run again what raised before.
        progress: a context manager that shows the sweep while it runs; see `progress.py`.

    Raises:
        InputError: the study cannot be run as it is.
        SweepBusy: another driver runs this sweep.
    """
    if not isinstance(study, Study):
        study = load_study(study, profile)
    cluster = _cluster(address, cpus, gpus)
    if isinstance(cluster, AttachedCluster):
        home = Path(home).absolute()  # the driver runs on any node, in a folder of Ray's
        sizes: dict[str, object] = {"address": cluster.address}
    else:
        check_room(study, cluster)  # a cluster may grow: there, what is too large waits
        sizes = {"cpus": cluster.cpus, "gpus": cluster.gpus}
    prepared = prepare(study, home, retry_failed)
    plan = prepared.plan
    record: dict[str, object] = {
        "study": study.to_dict(),
        "profile": study.profile,
        "provenance": provenance(study.folders[0], sizes),
    }
    orders = prepared.orders(record)
    refuse_busy(orders.home, study.sweep)
    grown = None if plan.to_run else prepared.search_trials()
    if grown is not None:
        _record_plan(orders, grown)
        counts = {stage: _states(counted) for stage, counted in plan.counts().items()}
        return Sweep(Path(home), study.sweep, 0, counts)
    result = _drive(orders, cluster, progress)
    return Sweep(Path(home), study.sweep, result["executed"], result["stages"], result["stopped"])


@dataclass(frozen=True)
class Prepared:
    """A plan, with what the home has recorded of it."""

    home: Path
    plan: Plan
    recorded: Recorded
    attempts: dict[str, int]
    retry_failed: bool = False

    def orders(self, record: dict[str, object]) -> Orders:
        """Put together what a driver needs."""
        from sensweep.orchestrator.roll import Orders

        done, failed = self.recorded.done, self.recorded.failed
        if self.plan.study.search is None:  # else a search may come upon any of them
            planned = {trial.trial_id for trial in self.plan.trials}
            done = {trial_id: saved for trial_id, saved in done.items() if trial_id in planned}
        return Orders(
            str(self.home),
            self.plan.study.sweep,
            self.plan,
            record,
            Recorded(done, failed, self.recorded.stopped),
            self.retry_failed,
            self.attempts,
        )

    def search_trials(self) -> tuple[Trial, ...] | None:
        """Return the trials of the searches if these are over; None if there is more to do."""
        study = self.plan.study
        if study.search is None:
            return ()
        from sensweep.orchestrator.search_resume import continued  # and Optuna with it

        searches = continued(study, _home(self.home))
        settled, growth = searches.begin()
        status = status_of(growth.add, self.recorded, self.retry_failed)
        left = "new" in status or "rebuild" in status or growth.asks
        over = searches.finished and not left
        return (*settled, *growth.add) if over else None


def prepare(study: Study, home: str | Path, retry_failed: bool = False) -> Prepared:
    """Plan a study against what a home has."""
    store = _home(home)
    tables = store.results()
    attempts = tables["attempts"]
    recorded = Recorded.from_rows(
        tables["trials"].to_pylist(),
        attempts.select(["sweep", "trial_id", "status", "artifacts", "seconds"]).to_pylist(),
        exists=lambda path: (Path(home) / path).is_file(),
        sweep=study.sweep,
    )
    made: Counter[str] = Counter()
    ours = attempts.select(["sweep", "trial_id", "attempt"]).to_pylist()
    for row in ours:
        if row["sweep"] == study.sweep:
            made[row["trial_id"]] = max(made[row["trial_id"]], row["attempt"])
    plan = make_plan(study, recorded, retry_failed)
    return Prepared(Path(home), plan, recorded, dict(made), retry_failed)


def _cluster(address: str | None, cpus: int | None, gpus: int) -> LocalCluster | AttachedCluster:
    if address is None:
        return LocalCluster(usable_cpus() if cpus is None else cpus, gpus)
    if cpus is not None or gpus:
        raise InputError("cpus and gpus size a Ray on this machine: leave them out with an address")
    try:
        return AttachedCluster(address)
    except ClusterError as error:
        raise InputError(str(error)) from None


def check_room(study: Study, cluster: LocalCluster) -> None:
    """Refuse a stage that could never run on this machine.

    Raises:
        InputError: with what it asks for and what there is.
    """
    for name, stage in study.stages.items():
        for what, wanted, there in (
            ("cpus", stage.resources.cpus, cluster.cpus),
            ("gpus", stage.resources.gpus, cluster.gpus),
        ):
            if wanted > there:
                raise InputError(
                    f"{study.study}: stages.{name}.resources.{what}: {wanted:g} wanted, and this "
                    f"sweep has {there}; lower it, or give more with --{what}"
                )


def refuse_busy(home: str, sweep: str) -> None:
    """Refuse at once, before Ray is started, what the store would refuse later.

    Raises:
        InputError: a driver of the sweep is known to be alive on this machine.
    """
    store = _home(home)
    owner = store.manifest(sweep).owner if sweep in store.sweeps() else None
    if owner is not None and store.alive(sweep):
        raise InputError(
            f"sweep {sweep} is being run by {owner.name} (pid {owner.pid}, since {owner.since}): "
            f"follow it with `sensweep watch`, or end it with `sensweep stop`, --home {home}"
        )


def _home(home: str | Path) -> Home:
    from sensweep.results.store import Home

    return Home(home)


def _states(counted: Counter[Any]) -> dict[str, int]:
    return {"done" if status == "rebuild" else status: n for status, n in counted.items()}


def _record_plan(orders: Orders, grown: Sequence[Trial]) -> None:
    """Record that the sweep's plan or study changed though there is nothing to run.

    `grown` are the trials of its searches.
    """
    home = _home(orders.home)
    trials = [*orders.plan.trials, *grown]
    if orders.sweep in home.sweeps():
        epoch = home.manifest(orders.sweep).epoch
        rows = home.read("trials", [orders.sweep], ["trial_id", "epoch"]).to_pylist()
        planned = {row["trial_id"] for row in rows if row["epoch"] == epoch}
        same_trials = planned == {trial.trial_id for trial in trials}
        if home.study(orders.sweep)["study"] == orders.study["study"] and same_trials:
            return
    with home.open_sweep(orders.sweep, study=orders.study) as writer:
        writer.commit({"trials": trial_columns(trials, orders.plan.code)})


def _drive(
    orders: Orders,
    cluster: LocalCluster | AttachedCluster,
    progress: Callable[[Home, str, Plan], Any] | None,
) -> dict[str, Any]:
    """Start Ray and a driver in it, and wait for the driver while showing what it does."""
    from sensweep.orchestrator.ray_driver import connected, running

    home = _home(orders.home)
    shown = progress(home, orders.sweep, orders.plan) if progress else nullcontext()
    with (
        connected(cluster),
        _StopOnSignal() as signals,
        running(orders) as finished,
        shown as display,
    ):
        while True:
            if signals.caught and not signals.passed_on:
                signals.passed_on = _ask_to_stop(home, orders.sweep, signals.caught)
            if display is not None:
                display.update()
            try:
                return finished.result(timeout=REFRESH)
            except TimeoutError:
                continue


def _ask_to_stop(home: Home, sweep: str, reason: str) -> bool:
    """Ask the sweep's driver to stop; False if it has not opened the sweep yet."""
    return sweep in home.sweeps() and home.request_stop(sweep, reason)


class _StopOnSignal:
    """Turns the first Ctrl-C or SIGTERM into a request to stop; a second Ctrl-C interrupts."""

    def __init__(self) -> None:
        self.caught: str | None = None
        self.passed_on = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _StopOnSignal:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._catch)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _catch(self, number: int, frame: FrameType | None) -> None:
        if self.caught is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.caught = "stopped by the user" if number == signal.SIGINT else "terminated (SIGTERM)"
