"""Calls that are made again when what failed may pass by itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")

DELAYS = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds before each further attempt: a store that restarts answers again by then."""


def retried(
    call: Callable[[], T],
    on: type[Exception] | tuple[type[Exception], ...],
    delays: Iterable[float] = DELAYS,
    sleep: Callable[[float], object] = time.sleep,
) -> T:
    """What `call` gives, made again after each delay while it raises one of `on`.

    Args:
        call: may be made any number of times.
        on: what may pass by itself; the last attempt's goes to the caller.
        delays: seconds to wait before the second attempt, the third, ...
        sleep: waits so many seconds.
    """
    for delay in delays:
        try:
            return call()
        except on:
            sleep(delay)
    return call()
