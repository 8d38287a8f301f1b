"""What an actor says of itself while a phase runs, by which slowness is told from a hang."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Vitals:
    """A moment of an actor's process.

    Attributes:
        phase, done, total: where it is.
        cpu_seconds: CPU time of all its threads so far.
        peak_bytes: most memory that it ever held.
    """

    phase: str
    done: int
    total: int
    cpu_seconds: float
    peak_bytes: int

    @classmethod
    def of_this_process(cls, progress: tuple[str, int, int]) -> Vitals:
        """Those of the process that asks, which is at `progress`: phase, done, total."""
        return cls(*progress, time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10)
