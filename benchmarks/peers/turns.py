"""One side of a comparison in turn: a process that plays a round when a line comes in, and answers with a line of JSON.

Standard library only: it runs in every peer's environment as well as in ours.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

if __package__:
    from benchmarks.peers.process_tree import usage
else:  # a script of a peer's environment
    from process_tree import usage


class Turns:
    """Waits for its turn and tells what the round took.

    The answers go to the standard output that the process began with; whatever libraries print goes to standard error.
    """

    def __init__(self) -> None:
        """Take over standard output."""
        self._answers = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)
        self._began: tuple[float, float, float] | None = None

    def ready(self, **facts: Any) -> None:
        """Tell that everything is loaded, with facts about the set-up."""
        self._answers.write(json.dumps(facts) + "\n")

    def begin(self) -> None:
        """Wait for the go of a round and begin to measure; the end of the input ends the process."""
        if not sys.stdin.readline():
            self._answers.close()
            os._exit(0)
        self._began = (time.perf_counter(), time.process_time(), usage(os.getpid()).cpu)

    @property
    def running(self) -> bool:
        """Whether a round is being measured."""
        return self._began is not None

    def end(self, **facts: Any) -> None:
        """Answer with what the round took: wall, the CPU seconds of this process and of its tree, peak memory so far.

        Memory is what this process, the driver, had resident at most, in MB.
        """
        assert self._began is not None
        wall, cpu, tree = self._began
        took = {
            "seconds": time.perf_counter() - wall,
            "driver_cpu_seconds": time.process_time() - cpu,
            "tree_cpu_seconds": usage(os.getpid()).cpu - tree,
            "driver_peak_mb": peak_mb(),
        }
        self._began = None
        self._answers.write(json.dumps({**took, **facts}) + "\n")


def peak_mb() -> float:
    """Most memory that this process alone has had resident, MB of 10^6 bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
