"""What of the arena's benchmark needs a chain or a cluster: gas of a contest's days, and the demonstration."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks import contest, gas
from benchmarks.common import ROOT, step, tell
from flock_ray.chain.anvil import find_anvil

LIMIT = 3_600  # seconds of a command


def gas_of_days(quick: bool) -> tuple[dict[str, Any], dict[str, float]]:
    """Gas of days on a real anvil: (everything, the figures that count); nothing where there is none."""
    if find_anvil() is None:
        tell("gas: no anvil binary (npm ci in contracts/ brings it), so no gas is measured")
        return {}, {}
    with tempfile.TemporaryDirectory() as folder, closing(gas.Chain(Path(folder))) as chain:
        found = gas.contests(chain, quick)
    figures = contest.headline(found)
    return found, {name: value for name, value in figures.items() if name.startswith("gas_per_day")}


def _timed(what: str, *words: str) -> tuple[str, float]:
    """(Output, wall seconds) of a command of `flock-ray`.

    Raises:
        RuntimeError: it failed; the text has its last lines.
    """
    with step(what):
        began = time.perf_counter()
        command = [sys.executable, "-m", "flock_ray", *words]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT, check=False)
        seconds = time.perf_counter() - began
    if ended.returncode:
        raise RuntimeError(f"{' '.join(command)} exited with {ended.returncode}: {ended.stderr[-2_000:]}")
    return ended.stdout, seconds


def demonstration(quick: bool, overrides: Sequence[str] = ()) -> dict[str, float]:
    """Wall seconds of `make arena-demo` after its set-up, and of a stranger who derives all its days again.

    A quick run has the contest of `arena_tiny`, on the demonstration's rows.
    """
    chosen = ["experiment=arena_demo"]
    if quick:
        scored, train = (
            ",".join(str(ROOT / "tests" / "data" / "text2sql" / f"{name}.jsonl") for name in names)
            for names in (("singer", "course_teach"), ("flight_2",))
        )
        chosen = ["experiment=arena_tiny", f"contest.data=[{scored}]", f"contest.train=[{train}]",
                  "contest.max_row_tokens=150", "training.steps=2", "training.batch_size=1"]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        output, seconds = _timed("the demonstration", "arena", *chosen, f"output_dir={folder}", *overrides)
        run = next(line for line in output.splitlines() if line.startswith("Run folder: "))
        _, replay = _timed("a stranger's replay", "verify", run.removeprefix("Run folder: "))
    return {"arena_demo_seconds": seconds, "stranger_replay_seconds": replay}
