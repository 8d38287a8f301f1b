"""Plays the points of a sweep, some at a time, and tells how far it is."""

from __future__ import annotations

import shutil
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Protocol, Self

from flock_ray.errors import FlockRayError, RunDirectoryError, SweepError
from flock_ray.sweeps.point import INTERRUPTED, PointFolder, State
from flock_ray.telemetry import text


class Running(Protocol):
    """A run that was started."""

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""

    def interrupt(self) -> None:
        """Ask it to end, as Ctrl-C does."""

    def kill(self) -> None:
        """End it at once."""


class Runner(Protocol):
    """Starts runs: as processes here, or as jobs of a Ray cluster."""

    @property
    def pause(self) -> float:
        """Seconds between two looks at the runs."""

    def start(self, folder: PointFolder, slot: int) -> Running | None:
        """Start a point's run, or resume it.

        Args:
            folder: of the point; it exists.
            slot: number of the run's place in the window.

        Returns:
            None while a process of an earlier sweep still ends there.
        """


class StopSignals:
    """Counts Ctrl-C and SIGTERM for the length of a block, instead of raising: no run gets lost between two lines."""

    def __init__(self) -> None:
        """None has come yet."""
        self.count = 0

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.count += 1


@dataclass(frozen=True)
class _Slot:
    """A place in the window, and what runs there; `log_start` is where its lines begin in the point's log."""

    folder: PointFolder
    running: Running
    began: float
    log_start: int


class Window:
    """So many runs at a time, until no point is left."""

    def __init__(
        self,
        runner: Runner,
        size: int,
        tell: Callable[[str], None],
        ended: Callable[[PointFolder], str],
        *,
        fail_fast: bool = False,
        largest: int = 0,
        unchanged: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], None] = time.sleep,
        free_bytes: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free,
    ) -> None:
        """Nothing runs yet.

        Args:
            runner: starts runs.
            size: how many there are at a time.
            tell: prints a line.
            ended: is called when a point's run has ended; returns what it came to, in a few words.
            fail_fast: start none after one has failed. Those that run come to their end.
            largest: bytes of the largest point so far.
            unchanged: whether the code is still that of which the points have their names.
            clock: seconds.
            wait: sleeps so many seconds.
            free_bytes: on the disk of a folder.
        """
        self._num_failed = 0
        self._blocked: FlockRayError | None = None
        self._runner, self._size, self._tell, self._ended = runner, size, tell, ended
        self._fail_fast, self._largest, self._unchanged = fail_fast, largest, unchanged
        self._clock, self._wait, self._free_bytes = clock, wait, free_bytes
        self._slots: dict[int, _Slot] = {}
        self._waiting: deque[PointFolder] = deque()
        self._seconds: list[float] = []
        self._held, self._killed = set[str](), False
        self._num_done = self._num_points = 0

    def play(self, folders: Sequence[PointFolder]) -> None:
        """Play these points, the first ones first.

        Raises:
            KeyboardInterrupt: Ctrl-C or SIGTERM came. All runs were interrupted, and have ended.
            RunDirectoryError: the disk has no room for a further point. Those that ran came to their end.
            SweepError: the code was changed. Those that ran came to their end.
        """
        self._waiting.extend(folders)
        self._num_points = len(folders)
        with StopSignals() as signals:
            heeded = 0
            while self._waiting or self._slots:
                if signals.count or self._blocked or (self._num_failed and self._fail_fast):
                    self._waiting.clear()
                self._fill()
                if signals.count > heeded:
                    heeded = signals.count
                    self._stop(at_once=heeded > 1)
                if self._waiting or self._slots:
                    self._wait(self._runner.pause)
                self._look()
            stopped = signals.count > 0
        if stopped:
            raise KeyboardInterrupt
        if self._blocked:
            raise self._blocked

    def _fill(self) -> None:
        """Start what has a place; a point whose earlier process still ends is tried again later."""
        for _ in range(len(self._waiting)):
            if len(self._slots) == self._size or not self._may_start(self._waiting[0]):
                return
            folder = self._waiting.popleft()
            slot = min(set(range(self._size)) - self._slots.keys())
            resumed = folder.run is not None
            log_start = folder.log.stat().st_size if folder.log.is_file() else 0
            running = self._runner.start(folder, slot)
            if running is None:
                self._waiting.append(folder)
                if folder.point.id not in self._held:
                    self._held.add(folder.point.id)
                    self._tell(f"waiting  {folder.point.label}: a process of an earlier sweep still ends there")
                continue
            self._slots[slot] = _Slot(folder, running, self._clock(), log_start)
            self._tell(f"{'resumed' if resumed else 'started':<8} {folder.point.label}")

    def _may_start(self, folder: PointFolder) -> bool:
        """Whether the code is the same, and the disk takes as much for each run, and one more, as the largest has."""
        need, free = self._largest * (len(self._slots) + 1), self._free_bytes(folder.path.parent)
        if not self._unchanged():
            self._blocked = SweepError(
                "the code was changed since the sweep began, and points are named by it: no further one was started;"
                " the same command plays all points with the new code"
            )
        elif free < need:
            self._blocked = RunDirectoryError(
                f"{folder.path.parent}: {free / 1e6:,.0f} MB are free, and a point of this sweep takes"
                f" {self._largest / 1e6:,.0f} MB; free some, or set store.keep=adapter, and give the same command again"
            )
        return self._blocked is None

    def _stop(self, at_once: bool) -> None:
        self._killed = at_once
        for slot in self._slots.values():
            if at_once:
                slot.running.kill()
            else:
                slot.running.interrupt()
        if self._slots and not at_once:
            self._tell(f"stopping {len(self._slots)} run(s); the same command resumes them; Ctrl-C again kills them")

    def _look(self) -> None:
        for number, slot in list(self._slots.items()):
            code = slot.running.poll()
            if code is None:
                continue
            if self._killed and code:
                code = INTERRUPTED  # by us, which says nothing about the point
            del self._slots[number]
            seconds = self._clock() - slot.began
            state = slot.folder.ended(code, seconds, slot.log_start)
            outcome = slot.folder.outcome
            assert outcome
            self._largest = max(self._largest, outcome.bytes)
            self._num_done += 1
            self._num_failed += state is State.failed
            if state is State.whole:
                self._seconds.append(seconds)
            told = {State.whole: "whole", State.failed: f"FAILED with exit code {code}"}.get(state, "stopped")
            words = filter(None, (self._ended(slot.folder), f"{text.seconds(seconds)}{self._left()}"))
            self._tell(f"{told:<8} {slot.folder.point.label}: {'; '.join(words)}")

    def _left(self) -> str:
        """How many points have ended, failed and run, and how long the others may take."""
        told = f"; {self._num_done} of {self._num_points} ended"
        told += f" ({self._num_failed} failed)" if self._num_failed else ""
        told += f", {len(self._slots)} running" if self._slots else ""
        left = len(self._waiting) + len(self._slots)
        if left and self._seconds:
            each = sum(self._seconds) / len(self._seconds)
            told += f", about {text.seconds(each * -(-left // self._size))} left"
        return told
