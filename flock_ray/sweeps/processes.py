"""Runs of a sweep as processes of this machine, each with its own Ray and its own share of the cores and GPUs."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import site
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import flock_ray
from flock_ray.errors import RunDirectoryError
from flock_ray.store.failures import run_folder_errors
from flock_ray.sweeps.point import PointFolder

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)
_PARENT = Path(str(flock_ray.__file__)).resolve().parents[1]


@dataclass(frozen=True)
class Share:
    """What one place of the window may use.

    Attributes:
        cpus: numbers of cores.
        gpus: names of GPUs, as CUDA_VISIBLE_DEVICES has them; none where runs need none.
    """

    cpus: frozenset[int]
    gpus: tuple[str, ...]


def shares(window: int, cpus: int, gpus: int, devices: Sequence[str]) -> list[Share]:
    """Deal this machine's cores and GPUs to the places of a window.

    Args:
        window: how many places there are.
        cpus: that the largest run needs.
        gpus: that it needs.
        devices: the GPUs of this machine, enough for all places.

    Returns:
        Shares that have nothing in common; where the cores are too few for that, all get all cores.
    """
    cores = sorted(os.sched_getaffinity(0))
    each = len(cores) // window
    own = each >= max(cpus, 1)
    return [
        Share(
            frozenset(cores[place * each : (place + 1) * each] if own else cores),
            tuple(devices[place * gpus : (place + 1) * gpus]),
        )
        for place in range(window)
    ]


def visible_gpus() -> tuple[str, ...]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return tuple(name.strip() for name in named.split(",") if name.strip() not in ("", "-1"))
    import torch  # takes seconds, and most sweeps on one machine use no GPU

    return tuple(map(str, range(torch.cuda.device_count())))


class Process:
    """A run in a process of its own; it holds the lock of its point's folder as long as it lives."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        """Of a process that was started."""
        self._process = process

    def poll(self) -> int | None:
        """Its exit code, as shells tell it: 128 + n after signal n; None while it runs."""
        code = self._process.poll()
        return code if code is None or code >= 0 else 128 - code

    def interrupt(self) -> None:
        """Ask it to end, as Ctrl-C does."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """End it at once; the process that it guards ends with it."""
        self._process.kill()


class ProcessRunner:
    """Starts `flock-ray` as a process for each run."""

    pause = 0.2

    def __init__(self, places: Sequence[Share]) -> None:
        """One share for each place of the window."""
        self._places = places

    def start(self, folder: PointFolder, slot: int) -> Process | None:
        """See `Runner`.

        Raises:
            RunDirectoryError: the folder cannot be written.
        """
        with run_folder_errors(folder.path), folder.lock.open("ab") as lock, folder.log.open("ab") as log:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return None
            folder.begins()
            return Process(self._spawn(folder.command(), self._places[slot], lock, log))

    def _spawn(self, words: Sequence[str], share: Share, lock: IO[bytes], log: IO[bytes]) -> subprocess.Popen[bytes]:
        parent = os.getpid()

        def in_child() -> None:
            # SIGTERM when this process is gone, so that a run never outlives the sweep that would collect it.
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:
                os._exit(1)
            os.sched_setaffinity(0, share.cpus)

        return subprocess.Popen(
            [sys.executable, "-P", "-m", "flock_ray", *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | _paths() | ({"CUDA_VISIBLE_DEVICES": ",".join(share.gpus)} if share.gpus else {}),
            pass_fds=[lock.fileno()],
            process_group=0,  # the terminal's Ctrl-C comes once: through the sweep
            preexec_fn=in_child,
        )


def _paths() -> dict[str, str]:
    """Where a child finds this very package, wherever the sweep was started."""
    if str(_PARENT) in site.getsitepackages():
        return {}
    return {"PYTHONPATH": os.pathsep.join(filter(None, (str(_PARENT), os.environ.get("PYTHONPATH"))))}


@contextmanager
def only_sweep(folder: Path) -> Iterator[None]:
    """Hold a folder for one sweep on this machine, for the length of a block.

    Raises:
        RunDirectoryError: another one plays there, or it cannot be written.
    """
    with run_folder_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("ab")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunDirectoryError(
                f"another sweep plays in {folder}; wait for its end, or name another folder with sweep.folder=…"
            ) from None
        yield
