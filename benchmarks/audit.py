"""What holds of docs/audit.md and how thoroughly the contracts were tested: counted from the checks themselves.

    python benchmarks/run.py audit [parts=tests,hand_mutants,deep,proofs,slither,coverage,mutants] [--quick]

A finding is closed when every test that its row of docs/audit.md names is there and passes. Each part says at which
commit it ran; a run of some parts keeps what the result has of the others. All take hours on two cores; `--quick` runs
the tests alone.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, environment, result_path, step, store, tell

PAGE = ROOT / "docs" / "audit.md"
CONTRACTS = ROOT / "contracts"
FORGE = CONTRACTS / "node_modules" / ".bin" / "forge"
SAMPLE = 400  # mutants that a tool made
TARGETS = {"audit_findings_closed": 13, "hand_mutants_killed": 40, "invariants": 16}
_ROW = re.compile(r"^\| (\d+) \|.*\|(.*)\|$", re.MULTILINE)
_NAME = re.compile(r"`([^`]+)`")

Results = Mapping[str, Mapping[str, bool]]
"""Test contract or Python file -> test -> whether it passed."""


def findings() -> dict[int, list[str]]:
    """Number of each finding of docs/audit.md -> the names in its last column: tests, contracts of tests, files."""
    return {int(number): _NAME.findall(tests) for number, tests in _ROW.findall(PAGE.read_text())}


def held(name: str, results: Results) -> bool:
    """Whether there are tests of a name that docs/audit.md uses, and all of them passed.

    A name is that of a test, of a contract of tests, of a file, or `test_7_*`: all tests that begin so.
    """
    if name in results:
        outcomes = list(results[name].values())
    else:
        named = re.compile(re.escape(name).replace(r"\*", ".*"))
        outcomes = [passed for tests in results.values() for test, passed in tests.items() if named.fullmatch(test)]
    return bool(outcomes) and all(outcomes)


def _command(command: Sequence[str], folder: Path = CONTRACTS, env: Mapping[str, str] | None = None) -> str:
    """What a command prints; its lines are told as they come, unless they are JSON.

    Raises:
        SystemExit: it failed.
    """
    lines = list[str]()
    with subprocess.Popen(
        command, cwd=folder, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if not line.startswith("{"):
                tell(line.rstrip()[:160])
    if process.returncode:
        raise SystemExit(f"error: {' '.join(command)[:100]} ended with {process.returncode}: {lines[-1].strip()[:300]}")
    return "".join(lines)


def forge_results(output: str) -> dict[str, dict[str, bool]]:
    """The tests of `forge test --json`, without their arguments and paths."""
    suites = json.loads(next(line for line in output.splitlines() if line.startswith("{")))
    return {
        suite.rpartition(":")[2]: {
            test.partition("(")[0]: outcome["status"] == "Success" for test, outcome in found["test_results"].items()
        }
        for suite, found in suites.items()
    }


def tests() -> dict[str, Any]:
    """The contract tests and those of the client that the page names; the findings that they close."""
    _command(["npm", "run", "--silent", "clean"])
    results = forge_results(_command([str(FORGE), "test", "--json"]))
    files = sorted({name for names in findings().values() for name in names if name.endswith(".py")})
    for file in files:
        _command([sys.executable, "-m", "pytest", "-q", "-m", "", file], ROOT)
        results[file] = {file: True}
    named = findings()
    lost = {number: [name for name in names if not held(name, results)] for number, names in named.items()}
    left_open = {number: names for number, names in lost.items() if names}
    invariants = [test for suite in results.values() for test in suite if test.startswith("invariant_")]
    return {
        "contract_tests": sum(len(suite) for suite in results.values()) - len(files),
        "invariants": len(set(invariants)),
        "findings": len(named),
        "closed": len(named) - len(left_open),
        "open": left_open,
    }


def _make(target: str, arguments: str = "") -> str:
    return _command(["make", "--no-print-directory", target, *([f"ARGS={arguments}"] if arguments else [])], ROOT)


def _numbers(pattern: str, output: str) -> list[float]:
    found = re.findall(pattern, output)
    assert found, f"no {pattern!r} in the output"
    return [float(number) for number in (found[-1] if isinstance(found[-1], tuple) else found[-1:])]


def hand_mutants() -> dict[str, Any]:
    """Mutants that were written for these contracts."""
    output = _command([sys.executable, str(CONTRACTS / "tools" / "hand_mutants.py")])
    killed, tried = _numbers(r"(\d+) of (\d+) mutants killed", output)
    return {"killed": killed, "tried": tried}


def deep() -> dict[str, Any]:
    """All contract tests with 128,000 calls of each invariant and 5,000 runs of each fuzz test."""
    passed, failed = _numbers(r"(\d+) tests passed, (\d+) failed", _make("contracts-invariants"))
    return {"passed": passed, "failed": failed}


def proofs() -> dict[str, Any]:
    """halmos: what holds for every value of the arguments."""
    output = _make("contracts-proofs")
    counts = [(int(passed), int(failed)) for passed, failed in re.findall(r"(\d+) passed; (\d+) failed", output)]
    return {"proved": sum(passed for passed, _ in counts), "failed": sum(failed for _, failed in counts)}


def slither() -> dict[str, Any]:
    """slither fails on every finding, so that it ends well only with none."""
    detectors, found = _numbers(
        r"analyzed \(\d+ contracts with (\d+) detectors\), (\d+) result", _make("contracts-slither")
    )
    return {"detectors": detectors, "findings": found}


def coverage() -> dict[str, Any]:
    """Share of the contracts' lines that unit and fuzz tests reach."""
    percent, lines = _numbers(r"([\d.]+) % of (\d+) lines", _make("contracts-coverage"))
    return {"share": percent / 100, "lines": lines}


def mutants() -> dict[str, Any]:
    """A sample of the mutants that slither-mutate makes."""
    killed, tried = _numbers(r"(\d+) of (\d+) mutants killed", _make("contracts-mutants", f"--sample {SAMPLE}"))
    return {"killed": killed, "tried": tried}


PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    part.__name__: part for part in (tests, hand_mutants, deep, proofs, slither, coverage, mutants)
}
HEADLINE = {
    "audit_findings_closed": ("tests", "closed"),
    "invariants": ("tests", "invariants"),
    "contract_tests": ("tests", "contract_tests"),
    "hand_mutants": ("hand_mutants", "tried"),
    "hand_mutants_killed": ("hand_mutants", "killed"),
    "deep_tests_passed": ("deep", "passed"),
    "deep_tests_failed": ("deep", "failed"),
    "proofs": ("proofs", "proved"),
    "slither_findings": ("slither", "findings"),
    "line_coverage": ("coverage", "share"),
    "sampled_mutants": ("mutants", "tried"),
    "sampled_mutants_killed": ("mutants", "killed"),
}  # fmt: skip


def chosen(quick: bool, overrides: Sequence[str]) -> list[str]:
    """The parts to run."""
    named = dict(override.partition("=")[::2] for override in overrides)
    parts = named.pop("parts", "tests" if quick else ",".join(PARTS)).split(",")
    if named or (unknown := set(parts) - set(PARTS)):
        wrong = ", ".join(sorted(named or unknown))
        raise SystemExit(f"error: audit knows no {wrong}; parts= takes {', '.join(PARTS)}")
    return parts


def run(quick: bool, overrides: Sequence[str]) -> None:
    """Run the chosen parts and store the result after each."""
    path = result_path("audit", quick)
    parts: dict[str, Any] = json.loads(path.read_text())["parts"] if path.exists() else {}
    for name in chosen(quick, overrides):
        with step(name):
            began, found = time.perf_counter(), PARTS[name]()
        parts[name] = {**found, "seconds": time.perf_counter() - began, "commit": environment()["commit"]}
        headline = {key: parts[part][figure] for key, (part, figure) in HEADLINE.items() if part in parts}
        store("audit", {"environment": environment(), "parts": parts, "targets": TARGETS, "headline": headline}, quick)
    for figure, value in headline.items():
        tell(f"{figure}: {value:g}")
