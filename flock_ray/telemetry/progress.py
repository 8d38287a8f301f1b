"""Where a long phase is: a bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

from flock_ray.telemetry import text

INTERVAL = 15.0
"""Seconds between two lines of one phase."""


class Progress(Protocol):
    """The first update of a phase opens it; `done == total`, another phase or `close` ends it."""

    def update(self, phase: str, done: int, total: int) -> None:
        """Tell that `done` of `total` parts of a phase are finished."""

    def close(self) -> None:
        """End the phase that is open, if one is."""


class ProgressBar:
    """A bar that vanishes when its phase ends."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: RichProgress | None = None
        self._phase = ""

    def update(self, phase: str, done: int, total: int) -> None:
        """See `Progress`."""
        if phase != self._phase:
            self.close()
        if done == total:
            self.close()
            return
        if self._bar is None:
            self._phase = phase
            self._bar = RichProgress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                console=self._console,
                transient=True,
            )
            self._bar.start()
            self._bar.add_task(phase, total=total)
        self._bar.update(self._bar.task_ids[0], completed=done, total=total)

    def close(self) -> None:
        """See `Progress`."""
        if self._bar is not None:
            self._bar.stop()
        self._bar, self._phase = None, ""


class ProgressLines:
    """A line when a phase begins, one every `INTERVAL` seconds at most, and one when it is done."""

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float]) -> None:
        self._write = write
        self._clock = clock
        self._phase = ""
        self._began = self._last = 0.0

    def update(self, phase: str, done: int, total: int) -> None:
        """See `Progress`."""
        now = self._clock()
        opens = phase != self._phase
        if opens:
            self._phase, self._began = phase, now
        if opens or done == total or now - self._last >= INTERVAL:
            took = f", {text.seconds(now - self._began)}" if not opens else ""
            self._write(f"{phase}: {done} of {total}{took}")
            self._last = now
        if done == total:
            self.close()

    def close(self) -> None:
        """See `Progress`."""
        self._phase = ""
