"""What a look at one thing found, before anything is started."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flock_ray.errors import FlockRayError


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: its name.
        told: what was seen.
        error: what is wrong; None if nothing is.
    """

    what: str
    told: str
    error: FlockRayError | None = None

    def line(self) -> str:
        """The finding for people."""
        if self.error is None:
            return f"ok     {self.what}: {self.told}"
        return f"WRONG  {self.what}: {' '.join(str(self.error).split())} (exit code {self.error.exit_code})"


def look(what: str, at: Callable[[], str]) -> Finding:
    """Look at one thing.

    Args:
        what: its name.
        at: tells what is there; raises a FlockRayError where something is wrong.
    """
    try:
        return Finding(what, at())
    except FlockRayError as error:
        return Finding(what, "", error)
