"""The searches of a running sweep, in a thread of their own: no dispatch waits for Optuna."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from sensweep.orchestrator.executor_events import ExecutorEvent, Grown
from sensweep.orchestrator.growth import Growth, Outcome
from sensweep.orchestrator.search_values import Row

if TYPE_CHECKING:
    from sensweep.orchestrator.searches import Searches


class Searching:
    """Runs the calls of `Searches` one after another; each answer arrives as a `Grown` event.

    Attributes:
        pending: calls whose answer has not been taken.
    """

    def __init__(self, searches: Searches, put: Callable[[ExecutorEvent], None]) -> None:
        self.searches = searches
        self.pending = 0
        self._put = put
        self._thread = ThreadPoolExecutor(1, "sensweep-search")

    @property
    def over(self) -> bool:
        """Whether nothing more will come of itself."""
        return self.pending == 0 and self.searches.finished

    def ask(self) -> None:
        """Have the search that is furthest behind propose a point, unless a call is under way."""
        if self.pending == 0 and self.searches.can_ask():
            self._submit(self.searches.next)

    def ended(self, trial_id: str, outcome: Outcome, rows: Sequence[Row] = ()) -> None:
        """Tell of a trial's end."""
        self._submit(lambda: self.searches.ended(trial_id, outcome, rows))

    def measured(self, trial_id: str, rows: Sequence[Row]) -> None:
        """Tell of rows that a running trial has."""
        self._submit(lambda: self.searches.measured(trial_id, rows))

    def taken(self, event: Grown) -> Growth:
        """Take an answer.

        Raises:
            Exception: whatever the call raised.
        """
        self.pending -= 1
        if event.error is not None:
            raise event.error
        return event.growth

    def close(self) -> None:
        """Let the thread end."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _submit(self, call: Callable[[], Growth]) -> None:
        self.pending += 1

        def run() -> None:
            try:
                self._put(Grown(call()))
            except Exception as error:  # raised where the answer is taken
                self._put(Grown(Growth(), error))

        self._thread.submit(run)
