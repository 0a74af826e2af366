"""What a study may say about scheduling: a `Group` for each stage, one `Policy` for all."""

from __future__ import annotations

from dataclasses import dataclass

from sensweep.orchestrator.nodes import Shape


@dataclass(frozen=True, slots=True)
class Policy:
    """How long to wait before what, in seconds.

    Attributes:
        patience: a shape without room waits this long before it takes a busy shape's workers,
            and a worker serves this long before it can be taken from a shape that needs it.
        grace: from `Cancel` to `KillWorker`.
        placement_timeout: until a shape that fits no node is reported as unplaceable.
    """

    patience: float = 10.0
    grace: float = 10.0
    placement_timeout: float = 30.0


@dataclass(frozen=True, slots=True)
class Group:
    """Trials that are counted together and run alike; usually a stage.

    Attributes:
        name: for messages.
        shape: of the workers that run them. Groups of one shape share workers.
        timeout_s: an attempt that runs longer is cancelled and its trial failed; None for never.
        max_lost: a trial has failed once this many of its attempts lost their worker, >= 1.
        retries: attempts that may raise before the trial has failed, beyond the first, >= 0.

    Raises:
        ValueError: a number is out of range.
    """

    name: str
    shape: Shape
    timeout_s: float | None = None
    max_lost: int = 3
    retries: int = 0

    def __post_init__(self) -> None:
        if self.timeout_s is not None and self.timeout_s <= 0:
            raise ValueError(
                f"timeout_s of group {self.name} is {self.timeout_s!r}; give seconds > 0, or None"
                " for never"
            )
        if self.max_lost < 1:
            raise ValueError(f"max_lost of group {self.name} is {self.max_lost!r}; give 1 or more")
        if self.retries < 0:
            raise ValueError(f"retries of group {self.name} is {self.retries!r}; give 0 or more")
