"""When the audit benchmark calls a finding closed, and that the page names tests that are there."""

from __future__ import annotations

import json
import re

import pytest

from benchmarks.audit import PARTS, TARGETS, chosen, findings, forge_results, held
from benchmarks.common import ROOT


def sources() -> dict[str, dict[str, bool]]:
    """Every test of the contracts by its contract, as if all had passed."""
    found: dict[str, dict[str, bool]] = {}
    for path in (ROOT / "contracts" / "test").glob("*.sol"):
        for name, body in re.findall(r"^contract (\w+)(.*?)^}", path.read_text(), re.DOTALL | re.MULTILINE):
            found[name] = dict.fromkeys(re.findall(r"function ((?:test|invariant)\w*)", body), True)
    return found


def test_every_test_that_the_page_names_is_there() -> None:
    results = sources()
    assert sorted(findings()) == list(range(1, TARGETS["audit_findings_closed"] + 1))
    for number, names in findings().items():
        assert names, number
        for name in names:
            assert (ROOT / name).is_file() if name.endswith(".py") else held(name, results), (number, name)


def test_one_failure_or_no_test_leaves_a_finding_open() -> None:
    results = {"FirstTest": {"test_7_A": True, "test_7_B": False}, "SecondTest": {"test_8_A": True}, "Empty": {}}
    assert held("SecondTest", results) and held("test_8_*", results) and held("test_7_A", results)
    for name in ("FirstTest", "test_7_*", "test_7_B", "Empty", "ThirdTest", "test_9_*", "test_"):
        assert not held(name, results), name


def test_results_are_read_without_arguments_and_paths() -> None:
    suite = {"test/A.t.sol:ATest": {"test_results": {
        "test_X()": {"status": "Success"}, "testFuzz_Y(uint256,bytes)": {"status": "Failure"}}}}  # fmt: skip
    assert forge_results("a line\n" + json.dumps(suite)) == {"ATest": {"test_X": True, "testFuzz_Y": False}}


def test_unknown_parts_are_refused() -> None:
    assert chosen(True, []) == ["tests"] and chosen(False, []) == list(PARTS)
    assert chosen(False, ["parts=proofs,deep"]) == ["proofs", "deep"]
    for override in ("parts=proof", "part=deep"):
        with pytest.raises(SystemExit, match="audit knows no"):
            chosen(False, [override])
