"""Run one benchmark: `python benchmarks/run.py NAME [--quick] [overrides]`; results go to benchmarks/results.

The tables of the documentation are written anew from them. `--quick` runs the same code with fewer points and writes
nothing into the repository: within five minutes on two cores, besides the peers' environments that the first run makes.
Every run tells what it is at, and after how many seconds.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT.parent))


def main() -> None:
    """Dispatch to the script of that name."""
    shared = ("run", "common", "contest", "delegation", "simulated", "tables")
    parts = ("arena_", "gateway_", "robustness_", "serving_")  # of `arena`, `gateway`, `robustness` and `serving`
    names = sorted(
        path.stem for path in ROOT.glob("*.py") if path.stem not in shared and not path.stem.startswith(parts)
    )
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=names)
    parser.add_argument("--quick", action="store_true", help="fewer points, not stored in the repository")
    parser.add_argument("overrides", nargs="*", help="Hydra overrides for the runs")
    arguments = parser.parse_intermixed_args()
    if arguments.quick:  # on a busy machine two threads wait for each other in every one of thousands of products
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    from benchmarks.common import step

    with step(f"{arguments.name}: importing"):
        benchmark = importlib.import_module(f"benchmarks.{arguments.name}")
    benchmark.run(arguments.quick, arguments.overrides)
    if not arguments.quick:
        importlib.import_module("benchmarks.tables").main()


if __name__ == "__main__":
    main()
