"""Ctrl-C and SIGTERM end a run, also where a library swallows the exception that they raise."""

from __future__ import annotations

import signal
import threading
from typing import NoReturn

_interrupted = threading.Event()


def stop_on_signals() -> None:
    """Have Ctrl-C and SIGTERM, as `ray job stop` sends it, raise KeyboardInterrupt in the main thread."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)


def _stop(*_: object) -> NoReturn:
    _interrupted.set()
    raise KeyboardInterrupt


def check_interrupted() -> None:
    """For loops that wait: raise what came before and got lost, as an exception in a library's callback does.

    Raises:
        KeyboardInterrupt: a signal came.
    """
    if _interrupted.is_set():
        raise KeyboardInterrupt
