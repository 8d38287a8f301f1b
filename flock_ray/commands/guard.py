"""A process that outlives the one that leads a run: where Ray's raylet dies, Ray ends that one on the spot.

The leading process is a child of the one that the user started. It tells by a pipe where its run is, and that it came
to its own end; if it is gone without that, the parent says in one line what happened and how to go on.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NoReturn

from flock_ray.commands.outcome import explained, fail
from flock_ray.errors import FlockRayError, RayLostError, WorkerMemoryError

_PR_SET_PDEATHSIG = 1
_ENDED = "ended"
_LONGEST = 1 << 16
_RAY_GAVE_UP = 1
"""Exit code of a process that Ray ends because its raylet is gone."""
_channel: list[int] = []


def guarded(act: Callable[[], int], end: Callable[[int], NoReturn]) -> int:
    """Do `act` in a child of this process, which `end` ends with its exit code; returns the exit code for this one.

    Ctrl-C and SIGTERM are passed on to the child, which is killed when this process is.
    """
    read, write = os.pipe()
    parent = os.getpid()
    if not (child := os.fork()):
        os.close(read)
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(FlockRayError.exit_code)
        os.setpgid(0, 0)  # the terminal's Ctrl-C comes once: through the parent
        _channel.append(write)
        try:
            code = act()
        finally:
            _tell(_ENDED)
        end(code)
    os.close(write)

    def pass_on(number: int, _: FrameType | None) -> None:
        os.kill(child, number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, pass_on)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.set_blocking(read, False)  # a process that the child had started may still hold the other end
    told = os.read(read, _LONGEST).decode().splitlines() if select.select([read], [], [], 0)[0] else []
    if told[-1:] == [_ENDED] or status not in (_RAY_GAVE_UP, *range(-signal.NSIG, 0)):
        return status  # by itself, or by our own watchdog, which has told why
    return _ended_by_others(status, Path(told[-1]) if told else None)


def lead(run: Path) -> None:
    """In the process that leads a run: tell where its folder is, which goes if the process is gone before the task."""
    _tell(str(run))


def _tell(line: str) -> None:
    for channel in _channel:
        os.write(channel, f"{line}\n".encode())


def _ended_by_others(status: int, run: Path | None) -> int:
    """Tell how the leading process was ended; returns the exit code."""
    error: FlockRayError = RayLostError("Ray ended this run, because its raylet on this machine died")
    if status == -signal.SIGKILL:
        error = WorkerMemoryError("the process that leads the run was killed (SIGKILL): by the kernel for memory, say")
    elif status < 0:
        error = FlockRayError(f"the process that leads the run was ended by {signal.Signals(-status).name}")
    sys.stdout.flush()
    if run and not (run / "task.json").is_file():
        from flock_ray.cluster.run_directory import RunDirectory  # slow to import

        RunDirectory(run).discard()
        run = None
    return fail(f"error: {explained(error, run)}", error.exit_code)
