"""What settling survives and what it costs: random schedules of faults, kills, the tree of rewards, a cold start.

The schedules are those of `tests/chaos/schedule.py`: each settles the same epochs on a real anvil behind a proxy that
loses, doubles, holds back and falsifies, with a relayer that crashes, and must end as if nothing had happened.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.common import ROOT, environment, step, store, tell
from flock_ray.chain.anvil import find_anvil
from flock_ray.chain.eip712 import Domain
from flock_ray.chain.merkle import MerkleTree, reward_leaf
from flock_ray.protocol.hashing import keccak
from tests.chaos.schedule import FAULTS, NUM_EPOCHS, Stage, crash_everywhere, draw, hurried, kill_everywhere, play

NUM_SCHEDULES = 220
PER_STAGE = 20  # schedules, after which a new chain begins
NUM_LEAVES = 10_000
COLD_STARTS = 5
HARD = [[("stuck", 1)], [("nonce_theft", 0)], [("reorged", 3)]]
"""Faults under which the relayer crashes at each of its steps in turn."""

_COLD_START = """
import sys
from pathlib import Path
from tests.chain.world import World, spec
world = World(spec(sys.argv[1]), Path(sys.argv[2]))
world.deploy()
world.client.close()
"""


@contextmanager
def fresh_stage(folder: Path) -> Iterator[Stage]:
    """A stage whose settlers hurry."""
    stage = Stage(folder, os.environ.__setitem__)
    try:
        with hurried():
            yield stage
    finally:
        stage.close()


def random_schedules(number: int, folder: Path) -> tuple[Counter[str], list[str]]:
    """Play schedules; returns how often each fault took place, and what went wrong."""
    fired: Counter[str] = Counter()
    failures: list[str] = []
    began = time.perf_counter()
    for first in range(0, number, PER_STAGE):
        last = min(first + PER_STAGE, number)
        with step(f"schedules {first + 1} to {last} of {number}"), fresh_stage(folder / f"stage-{first}") as stage:
            for seed in range(first, last):
                try:
                    fired += play(stage, folder / str(seed), draw(seed)).fired
                except Exception as error:
                    failures.append(f"schedule {seed}: {error}")
        pace = (time.perf_counter() - began) / last
        tell(f"{last} of {number} schedules, {pace:.2f} s each, {len(failures)} failed")
    return fired, failures


def schedules(number: int, folder: Path) -> dict[str, Any]:
    """Play random schedules, and kill and crash the settling process at each step."""
    began = time.perf_counter()
    fired, failures = random_schedules(number, folder)
    with fresh_stage(folder / "stage") as stage:
        with step("a kill at every step of the journal"):
            kills = kill_everywhere(stage, folder)
        with step("a crash at every step under faults"):
            crashes = 0 if number < NUM_SCHEDULES else crash_everywhere(stage, folder, HARD)
    return {
        "run": number,
        "exactly_once": number - len(failures),
        "failures": failures,
        "epochs_each": NUM_EPOCHS,
        "faults": {name: fired[name] for name in FAULTS},
        "steps_killed_at": kills,
        "steps_crashed_at_under_faults": crashes,
        "seconds": time.perf_counter() - began,
    }


def tree() -> dict[str, float]:
    """CPU seconds of a tree of rewards: its leaves, its root, and the proof of every leaf."""
    domain, task = Domain(31_337, "0x" + "11" * 20, "0x" + "22" * 20), keccak(b"task")
    accounts = ["0x" + keccak(b"%d" % number)[:20].hex() for number in range(NUM_LEAVES)]
    marks = [time.process_time()]
    leaves = [reward_leaf(domain, task, account, 10**18 + number) for number, account in enumerate(accounts)]
    marks.append(time.process_time())
    built = MerkleTree(leaves)
    marks.append(time.process_time())
    for leaf in leaves:
        built.proof(leaf)
    marks.append(time.process_time())
    parts = [later - earlier for earlier, later in pairwise(marks)]
    return {**dict(zip(("leaves", "root", "proofs"), parts, strict=True)), "all": sum(parts)}


def cold_start(backend: str, folder: Path, times: int) -> list[float]:
    """Wall seconds of fresh processes that import web3, start an embedded chain and deploy all contracts."""
    seconds = []
    for number in range(times):
        command = [sys.executable, "-c", _COLD_START, backend, str(folder / f"{backend}-{number}")]
        began = time.perf_counter()
        subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
        seconds.append(time.perf_counter() - began)
    return seconds


def run(quick: bool, overrides: Sequence[str]) -> None:
    """Run, measure, store. Takes no overrides."""
    if find_anvil() is None:
        sys.exit("the schedules need anvil: npm install in contracts/ brings one")
    before = environment()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        starts = {}
        for backend in ("anvil", "eth_tester"):
            with step(f"cold starts on {backend}"):
                starts[backend] = cold_start(backend, folder, 1 if quick else COLD_STARTS)
        with step(f"a tree of {NUM_LEAVES:,} rewards"):
            leaves = min((tree() for _ in range(1 if quick else 3)), key=lambda one: one["all"])
        faults = schedules(10 if quick else NUM_SCHEDULES, folder)
    result = {
        "environment": before,
        "schedules": faults,
        "tree": {"leaves": NUM_LEAVES, "cpu_seconds": leaves},
        "cold_deploy_wall_seconds": starts,
        "headline": {
            "fault_schedules_run": faults["run"],
            "fault_schedules_exactly_once": faults["exactly_once"],
            "least_often_fault": min(faults["faults"].values()),
            "tree_10000_seconds": leaves["all"],
            "cold_deploy_seconds": median(starts["anvil"]),
            "cold_deploy_seconds_eth_tester": median(starts["eth_tester"]),
        },
    }
    store("settlement", result, quick)
    for name, value in result["headline"].items():
        print(f"{name}: {value}")
    if faults["failures"]:
        sys.exit("\n".join(faults["failures"]))
