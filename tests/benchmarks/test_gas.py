"""The gas benchmark on a real anvil: its quick run, and what it says where there is none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import gas
from benchmarks.common import ROOT
from tests.waiting import PATIENCE

COMMITTED = ROOT / "benchmarks" / "results" / "gas.json"


@pytest.mark.anvil
def test_a_quick_run_measures_what_is_committed(tmp_path: Path) -> None:
    before = COMMITTED.read_bytes()
    command = [sys.executable, str(ROOT / "benchmarks" / "run.py"), "gas", "--quick"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert ended.returncode == 0, ended.stderr
    result = json.loads((tmp_path / "outputs" / "gas.json").read_text())
    committed = json.loads(before)
    assert COMMITTED.read_bytes() == before
    for name, used in result["headline"].items():
        assert used == pytest.approx(committed["headline"][name], rel=0.02), name
        assert name in ended.stdout
    settled = result["settlements"]["1000"]
    assert sum(used for part, used in settled["parts"].items() if part != "total") == settled["parts"]["total"]
    assert all(used > 0 for used in settled["parts"].values())
    assert result["headline"]["gas_per_member_1000"] < result["headline"]["per_tx_baseline_gas"] / 100


def test_without_anvil_it_says_so_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gas, "find_anvil", lambda: None)
    gas.run(True, [])
    assert capsys.readouterr().out.splitlines() == [
        "skipped: no anvil binary (npm ci in contracts/ brings anvil; the baselines are compiled by node)"
    ]
    assert list(tmp_path.iterdir()) == []
