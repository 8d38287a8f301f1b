"""What every result file says about where and with what it was measured, and the lines that tell how far it is."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flock_ray.store.files import write_json

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "ray", "deepspeed", "peft", "transformers", "web3")
REMINDER = 10.0  # seconds between two lines about the same step
_BEGAN = time.perf_counter()


def tell(what: str) -> None:
    """A line of progress, after the seconds since the benchmark began."""
    print(f"{time.perf_counter() - _BEGAN:6.1f} s  {what}", flush=True)


@contextmanager
def step(what: str) -> Iterator[None]:
    """Tell that a step begins, every ten seconds that it goes on, and what it took."""
    tell(what)
    began, ended = time.perf_counter(), threading.Event()

    def remind() -> None:
        while not ended.wait(REMINDER):
            tell(f"{what}: for {time.perf_counter() - began:.0f} s now")

    reminder = threading.Thread(target=remind, daemon=True)
    reminder.start()
    try:
        yield
    finally:
        ended.set()
        reminder.join()
    tell(f"{what}: took {time.perf_counter() - began:.1f} s")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _version(package: str) -> str | None:
    """None where it is not installed: some benchmarks need few of the packages."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def environment() -> dict[str, Any]:
    """Commit, versions, device, cores and load."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "commit": commit,
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
        "python": platform.python_version(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg(),
    }


def result_path(name: str, quick: bool) -> Path:
    """Where the result of a benchmark lies: with the committed ones unless it is of a quick run."""
    folder = Path("outputs") if quick else ROOT / "benchmarks" / "results"
    return folder / f"{name}.json"


def earlier_result(name: str, quick: bool) -> dict[str, Any]:
    """What a benchmark stored last; ends the process if there is nothing."""
    path = result_path(name, quick)
    if not path.exists():
        raise SystemExit(f"error: {path} is not there; run {name} whole first")
    return dict(json.loads(path.read_text()))


def store(name: str, result: dict[str, Any], quick: bool) -> None:
    """Write a result file."""
    path = result_path(name, quick)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, result)
    print(f"wrote {path}")
