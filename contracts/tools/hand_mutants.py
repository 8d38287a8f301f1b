"""Mutants written by hand: each takes back, or weakens, one rule of the contracts, and some test must notice.

`hand_mutants.json` holds them: a file, a snippet that stands there once, what takes its place, and the test contracts that
are to notice. A mutant that survives, or does not compile, fails the run.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FORGE = ROOT / "node_modules" / ".bin" / "forge"
MUTANTS = Path(__file__).with_name("hand_mutants.json")
TIMEOUT = 900  # seconds of a test run

KILLED, SURVIVED, INVALID, UNKNOWN = "killed", "survived", "does not compile", "timed out"


def workshop(folder: Path) -> Path:
    """Returns a copy of the contracts in `folder`."""
    for name in ("src", "test", "tools"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / "foundry.toml", folder)
    (folder / "node_modules").symlink_to((ROOT / "node_modules").resolve())
    return folder


def forge_test(folder: Path, tests: str) -> str:
    """Runs some test contracts in `folder`, profile mutation, up to the first test that fails.

    Raises:
        RuntimeError: forge failed for another reason than the mutant.
    """
    for kind in ("fuzz", "invariant"):  # counterexamples that forge saved for another mutant would fail this one
        shutil.rmtree(folder / "cache" / kind, ignore_errors=True)
    command = [str(FORGE), "test", "--fail-fast", "--match-contract", tests]
    environment = {**os.environ, "FOUNDRY_PROFILE": "mutation"}
    try:
        run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        return UNKNOWN
    if run.returncode == 0:
        if "[PASS]" not in run.stdout:
            raise RuntimeError(f"no test matches {tests}")
        return SURVIVED
    if "[FAIL" in run.stdout:
        return KILLED
    if "Compiler run failed" in run.stdout + run.stderr:
        return INVALID
    raise RuntimeError(run.stdout + run.stderr)


def judge(mutant: dict[str, str], folder: Path) -> str:
    """Tries one mutant and puts the source back."""
    file = folder / mutant["file"]
    source = file.read_text()
    try:
        file.write_text(source.replace(mutant["old"], mutant["new"]))
        return forge_test(folder, mutant["tests"])
    finally:
        file.write_text(source)


def main() -> int:
    """Returns 0 when every mutant was killed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", type=int, default=[], help="numbers of mutants to try, from 1; all")
    parser.add_argument("--check", action="store_true", help="only see whether every snippet stands where it should")
    options = parser.parse_args()

    known = list(enumerate(json.loads(MUTANTS.read_text()), start=1))
    chosen = [(number, mutant) for number, mutant in known if not options.only or number in options.only]
    lost = 0
    for number, mutant in chosen:
        count = (ROOT / mutant["file"]).read_text().count(mutant["old"])
        if count != 1:
            lost += 1
            print(f"{number}: {count} times in {mutant['file']}: {mutant['old']}", file=sys.stderr)
    if lost or options.check:
        print(f"{len(chosen)} mutants")
        return 1 if lost else 0
    verdicts = []
    with tempfile.TemporaryDirectory() as place:
        folder = workshop(Path(place) / "contracts")
        if forge_test(folder, "|".join(sorted({mutant["tests"] for _, mutant in chosen}))) != SURVIVED:
            raise RuntimeError("a test fails without a mutant")
        for number, mutant in chosen:
            verdicts.append(judge(mutant, folder))
            print(f"{number} {verdicts[-1]}: {mutant['file']}: {mutant['old']} ==> {mutant['new']}", flush=True)
    killed = verdicts.count(KILLED)
    print(f"{killed} of {len(verdicts)} mutants killed")
    return 0 if killed == len(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
