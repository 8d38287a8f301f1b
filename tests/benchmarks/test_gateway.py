"""The benchmark of the gateway: its sections with a few requests, and clients that behave badly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import gateway
from benchmarks.gateway_load import Seen, difficult
from benchmarks.gateway_process import ledger_of, make, new_key, running
from benchmarks.gateway_suites import _lines
from benchmarks.tables import GATEWAY


def test_speed_is_measured_against_the_engine_itself(tmp_path: Path) -> None:
    make(tmp_path)
    measured, headline = gateway.speed(tmp_path, replace(gateway.QUICK, requests=8, seconds=0.2))
    assert headline.keys() == {"gateway_overhead_ms", "gateway_overhead_ms_stream", "requests_per_s_gateway"}
    assert headline["gateway_overhead_ms"] == measured["ms"]["whole"] - measured["ms"]["engine"]
    assert headline["requests_per_s_gateway"] > 0
    assert {row.metric for row in GATEWAY} >= headline.keys()


def test_clients_that_behave_badly_leave_the_books_in_order(tmp_path: Path) -> None:
    make(tmp_path)
    key, secret = new_key(tmp_path)
    seen = Seen()
    with running(tmp_path) as process:
        for seed in range(3):
            difficult(process.port, secret, 0.5, seen, seed)
        assert process.memory_mb() > 10
    assert not seen.odd and seen.statuses[200]
    with ledger_of(tmp_path) as ledger:
        (one,) = [each for each in ledger.keys.find() if each.id == key]
        assert one.spent == sum(day.cost for day in ledger.usage(one.terms.account)) >= sum(seen.receipts.values()) > 0
        assert ledger.balance(one.terms.account).reserved == 0


@pytest.mark.parametrize(
    ("script", "passed"), [("print('passed a')", True), ("print('passed a'); 1/0", False), ("", False)]
)
def test_a_suite_passes_only_whole(script: str, passed: bool) -> None:
    import sys

    found = _lines([sys.executable, "-c", script])
    assert found["passed"] is passed and ("ZeroDivisionError" in str(found.get("why"))) is ("1/0" in script)


def test_overrides_are_sections() -> None:
    with pytest.raises(SystemExit, match="only=speed"):
        gateway.run(True, ["only=everything"])
