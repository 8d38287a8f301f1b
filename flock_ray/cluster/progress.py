"""Where a worker stands in a phase, and what its time went into."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Progress:
    """Counts the units and the seconds of a phase, for whoever asks while it runs or once it is over.

    Attributes:
        now: the phase, its units that are done, and all of them.
    """

    def __init__(self, phase: str = "") -> None:
        """No unit of a phase yet, and before any begins none at all."""
        self.now = (phase, 0, 0)
        self._seconds: dict[str, float] = {}
        self._inside = 0.0  # seconds counted so far inside the block that runs

    def begin(self, phase: str, total: int) -> None:
        """Tell that `total` units of a phase are ahead."""
        self.now = (phase, 0, total)

    def step(self) -> None:
        """Tell that one more unit of the phase is done."""
        phase, done, total = self.now
        self.now = (phase, min(done + 1, total), total)

    @contextmanager
    def timed(self, kind: str) -> Iterator[None]:
        """Count the wall time of a block under `kind`, but for the time that is counted inside it."""
        outside, self._inside = self._inside, 0.0
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self._seconds[kind] = self._seconds.get(kind, 0.0) + spent - self._inside
            self._inside = outside + spent

    def take_seconds(self) -> dict[str, float]:
        """The seconds counted since the last call, by kind."""
        taken, self._seconds = self._seconds, {}
        return taken
