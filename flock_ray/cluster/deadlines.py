"""How long a phase may take before it is called late, and when waiting for it is a hang. No Ray and no clock here."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from statistics import median

from flock_ray.cluster.vitals import Vitals

KEPT = 20
"""Phases of one kind whose durations are remembered."""

AWAY = 10.0
"""Seconds between two looks at an actor after which whoever waits was not there to hear its answer."""

_IDLE = 0.05  # of a core: a process that hangs still answers questions


class Deadlines:
    """Budgets from what phases of the same kind took before: the median and five median absolute deviations.

    Seconds are counted for each unit of work (a step, a score), since groups have different numbers of them.
    """

    def __init__(self, floor: float) -> None:
        """No phase seen yet.

        Args:
            floor: least budget, seconds.
        """
        self._floor = floor
        self._seconds: dict[str, deque[float]] = {}
        self._counted: set[str] = set()
        self.estimate = 0.0
        """Seconds that an epoch is estimated to take: what a phase may take that was not seen before, ten times."""

    def note(self, phase: str, seconds: float, units: int) -> None:
        """A phase with so many units of work (0: it has none to count) took so long.

        Groups that had nothing to do in a phase that counts its work say nothing about it.
        """
        if units and phase not in self._counted:
            self._counted.add(phase)
            self._seconds.pop(phase, None)
        elif not units and phase in self._counted:
            return
        self._seconds.setdefault(phase, deque(maxlen=KEPT)).append(seconds / max(units, 1))

    def budget(self, phase: str, units: int) -> float:
        """Seconds after which a phase with so many units of work is late."""
        known = self._seconds.get(phase)
        if not known:
            return max(self._floor, 10 * self.estimate)
        return max(self._floor, usual(known) * max(units, 1))


def usual(seconds: Sequence[float]) -> float:
    """Median + 5 median absolute deviations."""
    middle = median(seconds)
    return middle + 5 * median(abs(value - middle) for value in seconds)


class Liveness:
    """Whether an actor that is waited for still works, from its vitals.

    It hangs when a question about them stays unanswered, or when neither its progress nor its CPU time moves on, for
    two budgets. Slowness alone is no hang.
    """

    def __init__(self, now: float, may_idle: bool = False) -> None:
        """The wait begins.

        Args:
            now: seconds of a clock that never goes back.
            may_idle: the actor waits for others too, so that only silence is a hang.
        """
        self._may_idle = may_idle
        self._answered = self._moved = now
        self._last: Vitals | None = None

    def not_looked_at(self, seconds: float) -> None:
        """Nobody looked for so long: the driver was suspended, or busy with something else."""
        self._answered += seconds
        self._moved += seconds

    def answered(self, now: float, vitals: Vitals) -> None:
        """The actor told its vitals."""
        last, self._answered = self._last, now
        if last is not None:
            idle = vitals.cpu_seconds - last.cpu_seconds < _IDLE * (now - self._moved)
            if idle and (vitals.phase, vitals.done) == (last.phase, last.done):
                return
        self._last, self._moved = vitals, now

    def hang(self, now: float, budget: float) -> str | None:
        """Why the actor is taken to hang; None while it is not."""
        if now - self._answered > 2 * budget:
            return f"no answer to a health check for {now - self._answered:.0f} s"
        if not self._may_idle and now - self._moved > 2 * budget:
            return f"neither progress nor CPU time for {now - self._moved:.0f} s"
        return None
