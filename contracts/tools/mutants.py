"""Mutation testing: breaks the contracts on purpose, one small change at a time, and counts what the tests notice.

The changes are those of slither-mutate. Its own loop cannot sample, runs one mutant at a time and compiles each twice,
which would take days here; this one tries a seeded sample of them, several at once. A mutant that does not compile
counts for nothing. One that survives misses a test, or changes nothing that can be seen.
"""

import argparse
import inspect
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue

from slither import Slither
from slither.tools.mutator.mutators import all_mutators
from slither.tools.mutator.mutators.abstract_mutator import AbstractMutator

ROOT = Path(__file__).resolve().parent.parent
FORGE = ROOT / "node_modules" / ".bin" / "forge"
# Visibility and mutability keywords: what compiles with another one behaves the same.
LEFT_OUT = {"FHR"}
TIMEOUT = 1800  # seconds of a test run; gas ends every loop long before, unless the machine is far too busy

KILLED, SURVIVED, INVALID, UNKNOWN = "killed", "survived", "does not compile", "timed out"


@dataclass(frozen=True, order=True)
class Mutant:
    """A change: bytes `start` to `end` of the file `path` become `new`."""

    path: str
    start: int
    end: int
    old: str
    new: str
    line: int
    kind: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line} [{self.kind}] {_squeeze(self.old)} ==> {_squeeze(self.new)}"


def _squeeze(text: str) -> str:
    return re.sub(r"\s+", " ", text)[:200]


def mutants() -> list[Mutant]:
    """Returns every change that slither-mutate knows for the files in src/, without repetitions, in a fixed order."""
    classes = [
        found
        for _, found in inspect.getmembers(all_mutators, inspect.isclass)
        if issubclass(found, AbstractMutator) and found is not AbstractMutator and found.NAME not in LEFT_OUT
    ]
    found: dict[tuple[str, int, int, str], Mutant] = {}
    for unit in Slither(str(ROOT), compile_force_framework="foundry").compilation_units:
        for contract in unit.contracts:
            file = Path(contract.source_mapping.filename.absolute)
            if not file.is_relative_to(ROOT / "src"):
                continue
            path = str(file.relative_to(ROOT))
            for mutator in classes:
                for patch in _patches(mutator, unit, contract):
                    old, new = patch["old_string"], patch["new_string"]
                    key = (path, patch["start"], patch["end"], new)
                    found.setdefault(key, Mutant(*key[:3], old, new, patch["line_number"], mutator.NAME))
    return sorted(found.values())


def _patches(mutator, unit, contract) -> list[dict]:
    """Returns the changes of one kind in one contract; none where slither-mutate itself fails, which happens in Yul."""
    try:
        made = mutator(unit, 0, "", "", contract, None, False, ROOT, [])._mutate()
    except Exception as error:
        print(f"slither-mutate: {mutator.NAME} fails in {contract.name}: {error}", file=sys.stderr)
        return []
    return [patch for patches in made.get("patches", {}).values() for patch in patches]


def workshop(folder: Path) -> Path:
    """Returns a copy of the contracts in `folder`, compiled and tested.

    Raises:
        RuntimeError: a test fails without a mutant.
    """
    for name in ("src", "test", "tools"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / "foundry.toml", folder)
    (folder / "node_modules").symlink_to((ROOT / "node_modules").resolve())
    if forge_test(folder) != SURVIVED:
        raise RuntimeError("a test fails without a mutant, or takes too long")
    return folder


def forge_test(folder: Path) -> str:
    """Runs the tests in `folder`, profile mutation, up to the first that fails.

    Raises:
        RuntimeError: forge failed for another reason than the mutant.
    """
    for kind in ("fuzz", "invariant"):  # counterexamples that forge saved for another mutant would fail this one
        shutil.rmtree(folder / "cache" / kind, ignore_errors=True)
    command = [str(FORGE), "test", "--fail-fast"]
    environment = {**os.environ, "FOUNDRY_PROFILE": "mutation"}
    try:
        run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        return UNKNOWN
    if run.returncode == 0:
        return SURVIVED
    if "[FAIL" in run.stdout:
        return KILLED
    if "Compiler run failed" in run.stdout + run.stderr:
        return INVALID
    raise RuntimeError(run.stdout + run.stderr)


def judge(mutant: Mutant, workshops: "SimpleQueue[Path]") -> str:
    """Tries one mutant in a free workshop and puts the source back."""
    folder = workshops.get()
    file = folder / mutant.path
    source = file.read_bytes()
    try:
        file.write_bytes(source[: mutant.start] + mutant.new.encode() + source[mutant.end :])
        verdict = forge_test(folder)
    finally:
        file.write_bytes(source)
        workshops.put(folder)
    print(f"{verdict}: {mutant}", flush=True)
    return verdict


def report(sample: list[Mutant], verdicts: list[str]) -> float:
    """Prints a line for each file and returns the share of the valid mutants that were killed."""
    count = Counter((mutant.path, verdict) for mutant, verdict in zip(sample, verdicts, strict=True))
    columns = (KILLED, SURVIVED, INVALID, UNKNOWN)
    print(f"{'file':<36}" + "".join(f"{verdict:>18}" for verdict in columns))
    for path in sorted({mutant.path for mutant in sample}):
        print(f"{path:<36}" + "".join(f"{count[path, verdict]:>18}" for verdict in columns))
    killed, survived = verdicts.count(KILLED), verdicts.count(SURVIVED)
    share = killed / max(killed + survived, 1)
    print(f"{killed} of {killed + survived} mutants killed: {share:.1%}")
    return share


def main() -> int:
    """Returns 0 when enough mutants were killed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sample", type=int, default=400, help="mutants to try, those that do not compile included")
    parser.add_argument("--seed", type=int, default=1, help="of the sample")
    parser.add_argument("--floor", type=float, default=0.9, help="least share that must be killed")
    parser.add_argument("--workers", type=int, default=min(os.cpu_count() or 1, 8), help="mutants tried at once")
    parser.add_argument("--only", nargs="+", default=[], help="files to mutate, for example src/FlockToken.sol; all")
    options = parser.parse_args()

    known = [mutant for mutant in mutants() if not options.only or mutant.path in options.only]
    sample = random.Random(options.seed).sample(known, min(options.sample, len(known)))
    print(f"{len(known)} mutants, sample of {len(sample)}, seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(options.workers) as pool:
        workshops: SimpleQueue[Path] = SimpleQueue()
        for place in pool.map(workshop, [Path(folder) / str(number) for number in range(options.workers)]):
            workshops.put(place)
        verdicts = list(pool.map(partial(judge, workshops=workshops), sample))
        if any(forge_test(workshops.get()) != SURVIVED for _ in range(options.workers)):
            raise RuntimeError("a test fails without a mutant, after the mutants")
    return 0 if report(sample, verdicts) >= options.floor else 1


if __name__ == "__main__":
    sys.exit(main())
