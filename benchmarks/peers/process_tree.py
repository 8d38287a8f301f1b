"""Runs a command and watches what it and everything that it starts use: CPU seconds and memory, from /proc."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_TICKS, _PAGE = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Usage:
    """What a tree of processes had used at a time.

    Attributes:
        time: seconds since 1970.
        cpu: user and system seconds of the living processes and of those that they have waited for.
        memory: MB resident and not shared, over all of them.
    """

    time: float
    cpu: float
    memory: float


def usage(root: int) -> Usage:
    """What the process `root` and its descendants use now."""
    children: dict[int, list[int]] = {}
    found: dict[int, tuple[float, float]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                state = (folder / "stat").read_text().rpartition(")")[2].split()
                resident, shared = (folder / "statm").read_text().split()[1:3]
            except OSError:  # it has ended
                continue
            children.setdefault(int(state[1]), []).append(int(folder.name))
            cpu = sum(map(int, state[11:15])) / _TICKS
            found[int(folder.name)] = cpu, (int(resident) - int(shared)) * _PAGE / 1e6
    cpu = memory = 0.0
    ahead = [root]
    while ahead:
        process = ahead.pop()
        ahead += children.get(process, [])
        one = found.get(process, (0.0, 0.0))
        cpu, memory = cpu + one[0], memory + one[1]
    return Usage(time.time(), cpu, memory)


@dataclass(frozen=True)
class Watched:
    """A command that has ended well: what it printed, and its usage over time."""

    stdout: str
    samples: Sequence[Usage]

    def cpu_between(self, start: float, end: float) -> float:
        """CPU seconds of the tree between two times, seconds since 1970; from the samples that enclose them."""
        return self._cpu_at(end) - self._cpu_at(start)

    def peak_memory(self) -> float:
        """Largest memory of the tree in a sample, MB."""
        return max(sample.memory for sample in self.samples)

    def _cpu_at(self, moment: float) -> float:
        index = min(max(1, bisect_left(self.samples, moment, key=lambda one: one.time)), len(self.samples) - 1)
        before, after = self.samples[index - 1], self.samples[index]
        share = (moment - before.time) / (after.time - before.time)
        return before.cpu + min(max(share, 0.0), 1.0) * (after.cpu - before.cpu)


def watch(
    command: Sequence[str], cwd: Path, environment: Mapping[str, str] | None = None, every: float = 0.25
) -> Watched:
    """Run a command to its end, sampling its tree `every` seconds.

    Raises:
        SystemExit: it failed; the line names the command and the last that it said.
    """
    with subprocess.Popen(
        command,
        cwd=cwd,
        env={**os.environ, **(environment or {})},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        samples = [usage(process.pid)]
        ended = threading.Event()

        def sample() -> None:
            while not ended.wait(every):
                taken = usage(process.pid)
                if taken.cpu >= samples[-1].cpu:  # less is what is left of a tree that has just ended
                    samples.append(taken)

        sampler = threading.Thread(target=sample, daemon=True)
        sampler.start()
        try:
            stdout, stderr = process.communicate()
        finally:
            ended.set()
            sampler.join()
    if process.returncode:
        said = (stderr.strip() or stdout.strip()).splitlines()[-1:]
        raise SystemExit(f"error: {Path(command[1]).name} ended with {process.returncode}: {' '.join(said)}")
    return Watched(stdout, samples)
