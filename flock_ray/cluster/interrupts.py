"""What ends a run from outside its loop: Ctrl-C and SIGTERM, even where a library swallows them, and a watchdog."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import NoReturn

_interrupted = threading.Event()
_pending: list[BaseException] = []
_stuck = threading.Event()


def stop_on_signals() -> None:
    """Have Ctrl-C and SIGTERM, as `ray job stop` sends it, raise KeyboardInterrupt in the main thread."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)


def _stop(*_: object) -> NoReturn:
    _interrupted.set()
    raise KeyboardInterrupt


def raise_in_waiting(error: BaseException) -> None:
    """From another thread: have the loop that waits raise an error."""
    _pending.append(error)


def check_interrupted() -> None:
    """For loops that wait: raise what came before and got lost, as an exception in a library's callback does.

    Raises:
        KeyboardInterrupt: a signal came.
        BaseException: what another thread handed to `raise_in_waiting`.
    """
    if _pending:
        raise _pending.pop()
    if _interrupted.is_set():
        raise KeyboardInterrupt


def is_pending() -> bool:
    """Whether what was handed to `raise_in_waiting` has not been raised yet."""
    return bool(_pending)


def forget_pending() -> None:
    """The run that other threads had something to raise in is over."""
    _pending.clear()


def teardown_is_stuck() -> None:
    """What a run started cannot be ended: the process has to end without waiting for it, see `end_process`."""
    _stuck.set()


def end_process(exit_code: int) -> NoReturn:
    """End the process with this code, whatever of its libraries does not want to end."""
    if _stuck.is_set():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)
    sys.exit(exit_code)
