"""What is waited for of one node group, step by step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from flock_ray.cluster.deadlines import Liveness
from flock_ray.cluster.vitals import Vitals

PLACE = "place"
"""A step that waits for the placement group."""

Step = tuple[str, tuple[Any, ...]]
LOADING_STEPS: tuple[Step, ...] = ((PLACE, ()), ("open_rendezvous", ()), ("load", ()))


@dataclass
class WaitingGroup:
    """What is waited for of one group: the first of its steps runs.

    Attributes:
        asked: what the group is asked in the end: (method, arguments).
        steps: what is still to do, up to the last of what is asked.
        refs: {reference: rank} of the running step.
        answer: of rank 0.
        errors: of ranks, as they came.
        ask_at: when the step is to be asked (again).
    """

    asked: list[Step]
    steps: list[Step]
    ask_at: float = 0.0
    since: float = 0.0
    refs: dict[Any, int] = field(default_factory=dict)
    answer: Any = None
    errors: list[Exception] = field(default_factory=list)
    failed_at: float = 0.0
    health: dict[Any, int] = field(default_factory=dict)
    health_asked: float = 0.0
    liveness: dict[int, Liveness] = field(default_factory=dict)
    vitals: dict[int, Vitals] = field(default_factory=dict)
    late: bool = False

    @property
    def method(self) -> str:
        """The running step's."""
        return self.steps[0][0]

    def restart(self, steps: list[Step], ask_at: float = 0.0) -> None:
        """Begin with other steps, at a time."""
        self.__init__(self.asked, steps, ask_at)  # type: ignore[misc]
