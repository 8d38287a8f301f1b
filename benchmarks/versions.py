"""Rounds of this commit and of an earlier one, in turn: whether a change made them dearer.

    python benchmarks/run.py versions base=COMMIT [--quick]

Both play `benchmarks/peers/flock_ray_rounds.py` of their own checkout: everything real but training and scoring, which
are simulated. CPU-seconds are of the whole process tree; the ratios are of medians, this commit over the earlier one.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common import ROOT, environment, store, tell
from benchmarks.orchestration import MEMORY, NODES, Side, Size, spread

SIZES = (Size(100, 0.2, 11, voters=22), Size(1_000, 0.2, 5, voters=22), Size(20, 6.5, 7, voters=7))
QUICK = (Size(100, 0.2, 3, voters=22),)
KEYS = ("seconds", "tree_cpu_seconds", "driver_cpu_seconds")


@contextmanager
def checkout(commit: str, folder: Path) -> Iterator[Path]:
    """A worktree of a commit, for the length of a block."""
    git = ["git", "-C", str(ROOT), "worktree"]
    made = subprocess.run([*git, "add", "--detach", str(folder), commit], capture_output=True, text=True, check=False)
    if made.returncode:
        raise SystemExit(f"error: base={commit}: {made.stderr.strip().splitlines()[-1]}")
    try:
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], capture_output=True, check=False)


def measure(size: Size, base: Path, voting: bool) -> dict[str, Any]:
    """Both versions at one size, round by round in turn; the first round of each is dropped."""
    case = {
        "proposers": size.members, "voters": size.voters if voting else 1, "voting": voting, "width": size.width,
        "nodes": NODES, "chain": "none",
    }  # fmt: skip
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder, ExitStack() as stack:
        sides = [
            stack.enter_context(
                Side(name, [sys.executable, "-m", "benchmarks.peers.flock_ray_rounds", json.dumps(case),
                            f"{folder}/{name}"], root)
            )
            for name, root in (("ours_before", base), ("ours_now", ROOT))
        ]  # fmt: skip
        for turn in range(size.rounds + 1):
            for side in sides if turn % 2 else reversed(sides):
                seconds = side.play()["seconds"]
                tell(f"{size.name}{' voting' * voting}, round {turn} of {size.rounds}: {side.name} {seconds:.2f} s")
        before, now = ({key: spread([one[key] for one in side.rounds[1:]]) for key in KEYS} for side in sides)
    return {"before": before, "now": now, "ratio": {key: now[key]["median"] / before[key]["median"] for key in KEYS}}


def run(quick: bool, overrides: Sequence[str]) -> None:
    """Measure every size without votes and with them."""
    named = dict(override.partition("=")[::2] for override in overrides)
    if set(named) != {"base"}:
        raise SystemExit("error: versions takes one override, base=COMMIT, the commit to compare with")
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, checkout(named["base"], Path(folder) / "base") as base:
        for size in QUICK if quick else SIZES:
            for voting in (False, True):
                found[size.name + "_voting" * voting] = measure(size, base, voting)
    ratios = [one["ratio"]["tree_cpu_seconds"] for one in found.values()]
    headline = {f"cpu_ratio_{name}": one["ratio"]["tree_cpu_seconds"] for name, one in found.items()}
    headline |= {f"wall_ratio_{name}": one["ratio"]["seconds"] for name, one in found.items()}
    headline |= {"cpu_ratio_median": median(ratios), "cpu_ratio_worst": max(ratios)}
    result = {"environment": environment(), "base": named["base"], "sizes": found, "headline": headline}
    store("versions", result, quick)
    for name, value in headline.items():
        tell(f"{name}: {value:.3f}")
