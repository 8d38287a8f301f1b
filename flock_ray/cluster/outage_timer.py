"""A run that cannot go on without its chain: it says what it waits for, and gives up after a while."""

from __future__ import annotations

import time
from collections.abc import Callable

from flock_ray.errors import ChainUnreachableError


def _tell_nobody(phase: str, done: int, total: int) -> None:
    pass


class OutageTimer:
    """Counts how long an outage has kept the run waiting.

    Attributes:
        progress: is told (phase, done, total) as long as the wait lasts; a phase says what for and since when.
    """

    def __init__(self, seconds: float) -> None:
        """Bear an outage of at most so many seconds from when the run has to wait for its end."""
        self._seconds = seconds
        self._since: float | None = None
        self._phase = ""
        self._told: bool | None = None
        self.progress: Callable[[str, int, int], None] = _tell_nobody

    def wait(self, reason: str, unreachable: bool, since: float | None = None) -> None:
        """Tell that the run still waits.

        Args:
            reason: what for, one line.
            unreachable: the chain does not answer; only this wears the patience out.
            since: when that began, seconds since 1970, if before this wait.

        Raises:
            ChainUnreachableError: for longer than patience lasts.
        """
        now = time.monotonic()
        if not unreachable:
            self._since = None
        elif self._since is None:
            self._since = now
        elif now - self._since > self._seconds:
            raise ChainUnreachableError(
                f"{reason}; waited for {self._seconds:g} s (chain.outage_patience); nothing is lost, go on with"
                " resume=RUN_DIR"
            )
        if self._told is not unreachable:
            self._told = unreachable
            clock = time.strftime("%H:%M:%S", time.localtime(since))
            self._phase = f"wait since {clock} for {reason}" if unreachable else f"wait for {reason}"
        self.progress(self._phase, 0, 1)

    def over(self) -> None:
        """The wait is over, if there was one."""
        if self._phase:
            self.progress(self._phase, 1, 1)
        self._phase, self._told, self._since = "", None, None
