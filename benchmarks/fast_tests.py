"""How long `make test-fast` takes: wall and CPU seconds of the whole command, several times."""

from __future__ import annotations

import resource
import subprocess
import time
from collections.abc import Sequence

from benchmarks.common import ROOT, environment, store, tell
from benchmarks.orchestration import spread

TIMES = 5


def run(quick: bool, overrides: Sequence[str]) -> None:
    """Run it and store the spread; a quick run runs it once."""
    if overrides:
        raise SystemExit("error: fast_tests takes no overrides")
    wall, cpu = list[float](), list[float]()
    for number in range(1 if quick else TIMES):
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        ended = subprocess.run(["make", "test-fast"], cwd=ROOT, capture_output=True, text=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if ended.returncode:
            raise SystemExit("error: make test-fast fails: " + " ".join(ended.stdout.strip().splitlines()[-1:]))
        wall.append(time.perf_counter() - began)
        cpu.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        tell(f"run {number + 1}: {wall[-1]:.1f} s, {cpu[-1]:.1f} s of CPU")
    headline = {"test_fast_seconds": sorted(wall)[len(wall) // 2], "test_fast_cpu_seconds": sorted(cpu)[len(cpu) // 2]}
    result = {
        "environment": environment(),
        "wall": spread(wall),
        "cpu": spread(cpu),
        "target": 60,
        "headline": headline,
    }
    store("fast_tests", result, quick)
