"""A new user's first minutes: set-up in a fresh clone, the demonstration, the tiny run; with and without bfloat16.

Times are those of the commands that README names, as their lines appear. `make setup` takes what pip has in its cache.
`--quick` runs the tiny experiment in this checkout.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, environment, step, store, tell

TARGETS = {"first_settled_epoch_seconds": 180, "demo_seconds": 360, "tiny_seconds": 60, "estimate_ratio": [0.7, 1.3]}
DTYPES = {"": "auto", "_float32": "float32"}
"""Ending of a figure -> `model.dtype`: as the machine has it, and as one without instructions for bfloat16 has it."""
_ESTIMATE = re.compile(r"Estimated time for (\d+) epochs?: ([\d.]+) min")


def make(folder: Path, target: str, arguments: str = "", **env: str) -> list[tuple[float, str]]:
    """The lines that `make target ARGS=arguments` prints, each after its seconds.

    Raises:
        SystemExit: it failed.
    """
    lines, began = list[tuple[float, str]](), time.perf_counter()
    command = ["make", target, *([f"ARGS={arguments}"] if arguments else [])]
    with subprocess.Popen(
        command, cwd=folder, env={**os.environ, **env}, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        lines = [(time.perf_counter() - began, line.rstrip()) for line in process.stdout]
    lines.append((time.perf_counter() - began, ""))
    if process.returncode:
        raise SystemExit(f"error: {' '.join(command)} ended with {process.returncode}: {lines[-2][1][:300]}")
    return lines


def moment(lines: Sequence[tuple[float, str]], start: str) -> float:
    """Seconds after which the first line that begins so came."""
    return next(seconds for seconds, line in lines if line.startswith(start))


def estimate_ratio(lines: Sequence[tuple[float, str]]) -> float:
    """The first estimate of what is left over what it took: until the last epoch was settled."""
    told, minutes = next((at, float(found[2])) for at, line in lines if (found := _ESTIMATE.match(line)))
    ended = max(at for at, line in lines if re.match(r"epoch \d+ settled", line))
    return 60 * minutes / (ended - told)


def demonstration(folder: Path, dtype: str, env: dict[str, str]) -> dict[str, float | str]:
    """`make demo` and the tiny run."""
    with step(f"make demo with model.dtype={dtype}"):
        lines = make(folder, "demo", f"model.dtype={dtype}", **env)
    chosen = next(line for _, line in lines if "experiment=" in line)
    tell(chosen)
    with step(f"the tiny run with model.dtype={dtype}"):
        tiny = make(folder, "demo", f"experiment=tiny model.dtype={dtype}", **env)
    return {
        "first_settled_epoch_seconds": moment(lines, "epoch 1 settled"),
        "demo_seconds": lines[-1][0],
        "estimate_ratio": estimate_ratio(lines),
        "tiny_seconds": tiny[-1][0],
        "chosen": chosen,
    }


def run(quick: bool, overrides: Sequence[str]) -> None:
    """Measure and store. Takes no overrides."""
    if overrides:
        raise SystemExit("error: first_minutes takes no overrides")
    before, figures = environment(), dict[str, Any]()
    if quick:
        figures["tiny_seconds"] = make(ROOT, "demo", "experiment=tiny")[-1][0]
    else:
        with tempfile.TemporaryDirectory() as name:
            folder, env = Path(name) / "clone", {"FLOCK_RAY_CACHE": str(Path(name) / "cache")}
            subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
            with step("make setup in a fresh clone"):
                figures["setup_seconds"] = make(folder, "setup", **env)[-1][0]
            for ending, dtype in DTYPES.items():
                found = demonstration(folder, dtype, env)
                figures |= {f"{figure}{ending}": value for figure, value in found.items()}
    headline = {figure: value for figure, value in figures.items() if not isinstance(value, str)}
    result = {"environment": before, "figures": figures, "targets": TARGETS, "headline": headline}
    store("first_minutes", result, quick)
    for figure, value in headline.items():
        tell(f"{figure}: {value:.3g}")
