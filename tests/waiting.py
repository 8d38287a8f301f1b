"""How long tests wait: a machine that does other work too makes them slow, and fails none."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable

PATIENCE = 3_000.0
"""Seconds for whatever takes a few on a quiet machine; only what never comes takes so long. A test has longer."""


def wait_until(
    condition: Callable[[], bool], seconds: float = PATIENCE, process: subprocess.Popen[bytes] | None = None
) -> None:
    """Poll until something holds; fail when time is up, or when `process` ends before."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, "the process ended too early"
        assert time.monotonic() < deadline, f"not so within {seconds:g} s"
        time.sleep(0.02)
