"""A round of the real system against rounds of Flower and pfl, with nothing but local training and scoring simulated.

Ours: Ray actors, signed messages, journals, payloads hashed and decoded, ballots, records, the chain where voting is
on. Each side is a process that plays a round when asked (`benchmarks/peers/*_rounds.py`); they take turns. All sides
work in memory: the folder of our runs is on a memory filesystem where there is one, since the peers touch no disk.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Self

from benchmarks.common import ROOT, earlier_result, environment, step, store
from benchmarks.peers.environments import python_of
from flock_ray.chain.anvil import find_anvil

PEERS = ROOT / "benchmarks" / "peers"
MEMORY = Path("/dev/shm")
VOTERS, NODES = 22, 2
RANK = 8
BYTES_A_UNIT_OF_WIDTH = 2 * 2 * RANK * 4  # two layers of two float32 factors
TARGETS = {
    "driver_ms_per_member_1000": 1.0,
    "round_seconds_1000x0.2MB": 1.5,
    "round_seconds_1000x0.2MB_voting": 4.0,
    "round_seconds_20x26MB": 1.0,
    "driver_peak_mb_100x6.5MB": 500.0,
}


@dataclass(frozen=True)
class Size:
    """A point of the comparison.

    Attributes:
        members: that send an update.
        megabytes: of each update.
        rounds: measured of every side but those in `fewer`; one more before them is dropped.
        peers: that take part.
        fewer: {side: rounds} of sides whose rounds take long.
        voting: whether ours is measured with voting too; ten thousand members would stake for half an hour first.
        voters: of ours with voting.
    """

    members: int
    megabytes: float
    rounds: int
    peers: tuple[str, ...] = ("flower", "pfl")
    fewer: Mapping[str, int] | None = None
    voting: bool = True
    voters: int = VOTERS

    @property
    def name(self) -> str:
        """Such as `1000x0.2MB`."""
        return f"{self.members}x{self.megabytes:g}MB"

    @property
    def width(self) -> int:
        """Inputs and outputs of each layer."""
        return round(self.megabytes * 1e6 / BYTES_A_UNIT_OF_WIDTH)

    @property
    def shapes(self) -> list[list[int]]:
        """The factors that a peer sends: ours."""
        return [[RANK, self.width], [self.width, RANK]] * 2

    def rounds_of(self, side: str) -> int:
        """Rounds that a side plays after the one that is dropped."""
        return (self.fewer or {}).get(side, self.rounds)


SIZES = (
    Size(20, 26.0, 5),
    Size(100, 6.5, 5, fewer={"flower": 3}),
    Size(1_000, 0.2, 5, fewer={"flower": 2}),
    Size(10_000, 0.2, 3, peers=(), voting=False),
    Size(100, 0.2, 7),
    Size(20, 51.0, 3, voting=False),  # runs keep a gigabyte of payloads a round: with a second one memory is full
)
QUICK = (Size(8, 0.2, 1, voters=4),)  # to start four sides is what takes long


class Side:
    """A process that plays rounds."""

    def __init__(self, name: str, command: Sequence[str], checkout: Path = ROOT) -> None:
        """Start it and wait until it is loaded.

        Args:
            name: of the side; those that begin with `ours` are of this project.
            command: that starts it.
            checkout: of the project that it is of.
        """
        self.name = name
        self.rounds: list[dict[str, Any]] = []
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the process
        path = {"PYTHONPATH": str(checkout) if name.startswith("ours") else ""}
        self._process = subprocess.Popen(
            command, cwd=checkout, text=True, env={**os.environ, **path},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
        )  # fmt: skip
        self.facts = self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            sys.exit(f"error: {self.name} ended: " + " ".join(self._errors.read().strip().splitlines()[-3:]))
        return dict(json.loads(line))

    def play(self) -> dict[str, Any]:
        """One round."""
        assert self._process.stdin
        self._process.stdin.write("round\n")
        self._process.stdin.flush()
        found = self._answer()
        self.rounds.append(found)
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End it; what it starts ends with it."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()


def commands(size: Size, folder: Path) -> dict[str, list[str]]:
    """What starts each side."""
    found = {}
    for side, voting in (("ours", False), ("ours_voting", True))[: 1 + size.voting]:
        case = {
            "proposers": size.members,
            "voters": size.voters if voting else 1,
            "voting": voting,
            "width": size.width,
            "nodes": NODES,
            "chain": ("anvil" if find_anvil() else "eth_tester") if voting else "none",
        }
        found[side] = [
            sys.executable, "-m", "benchmarks.peers.flock_ray_rounds", json.dumps(case), str(folder / side)
        ]  # fmt: skip
    case = {"clients": size.members, "shapes": size.shapes}
    for peer in size.peers:
        found[peer] = [str(python_of(peer)), str(PEERS / f"{peer}_rounds.py"), json.dumps(case)]
    return found


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median, least, most and all of some measurements."""
    return {"median": median(values), "min": min(values), "max": max(values), "all": list(values)}


def summarise(size: Size, side: Side) -> dict[str, Any]:
    """What the rounds of a side come to; the first is dropped."""
    measured = side.rounds[1:]
    assert all(one["accepted"] == size.members for one in measured), f"{side.name} lost updates"
    keys = ("seconds", "driver_cpu_seconds", "tree_cpu_seconds")
    found: dict[str, Any] = {key: spread([one[key] for one in measured]) for key in keys}
    parts = {kind: median(one["parts"].get(kind, 0.0) for one in measured) for kind in measured[-1].get("parts", {})}
    return {
        **side.facts,
        "rounds": len(measured),
        **found,
        "driver_ms_per_member": found["driver_cpu_seconds"]["median"] / size.members * 1e3,
        "driver_peak_mb": side.rounds[-1]["driver_peak_mb"],
        **({"parts": parts} if parts else {}),
    }


def measure(size: Size) -> dict[str, Any]:
    """Start all sides of a size and let them play in turn."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as name, ExitStack() as stack:
        sides = []
        for side, command in commands(size, Path(name)).items():
            with step(f"{size.name}: starting {side}"):
                sides.append(stack.enter_context(Side(side, command)))
        for turn in range(size.rounds + 1):
            for side in sides:
                rounds = size.rounds_of(side.name)
                if turn <= rounds:
                    with step(f"{size.name}: {side.name}, round {turn} of {rounds} after a first one"):
                        side.play()
        return {side.name: summarise(size, side) for side in sides}


def headline(found: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """The figures that count, as far as they were measured."""
    figures: dict[str, float] = {}

    def note(name: str, size: str, side: str, value: str) -> None:
        if one := found.get(size, {}).get(side):
            figures[name] = one[value]["median"] if isinstance(one[value], dict) else one[value]

    note("driver_ms_per_member_1000", "1000x0.2MB", "ours", "driver_ms_per_member")
    note("round_seconds_1000x0.2MB_voting", "1000x0.2MB", "ours_voting", "seconds")
    note("driver_peak_mb_100x6.5MB", "100x6.5MB", "ours", "driver_peak_mb")
    for size in found:
        note(f"round_seconds_{size}", size, "ours", "seconds")
        for peer in ("flower", "pfl"):
            note(f"{peer}_round_seconds_{size}", size, peer, "seconds")
    small, large = (figures.get(f"round_seconds_{n}x0.2MB") for n in (1_000, 10_000))
    if small and large:
        figures["growth_exponent_1000_to_10000"] = math.log10(large / small)
    return figures


def run(quick: bool, overrides: Sequence[str]) -> None:
    """Measure size by size; the file is written after each. `only=SIZE` keeps the others of the file."""
    before, found = environment(), dict[str, Any]()
    sizes = {size.name: size for size in (QUICK if quick else SIZES)}
    if overrides:
        named = overrides[0].removeprefix("only=")
        if len(overrides) > 1 or named not in sizes:
            raise SystemExit(f"error: orchestration takes one override, only=SIZE with SIZE of {', '.join(sizes)}")
        kept = earlier_result("orchestration", quick)
        before, found, sizes = kept["environment"], kept["sizes"], {named: sizes[named]}
    for size in sizes.values():
        found[size.name] = {"environment": environment(), **measure(size)}
        result = {
            "environment": before,
            "voters": {"ours": 1, "ours_voting": (QUICK if quick else SIZES)[0].voters},
            "folder": "memory" if MEMORY.is_dir() else "disk",
            "sizes": found,
            "targets": TARGETS,
            "headline": headline(found),
        }
        store("orchestration", result, quick)
    for name, value in headline(found).items():
        print(f"{name}: {value:.3f}" + (f" (target {TARGETS[name]:g})" if name in TARGETS else ""))
