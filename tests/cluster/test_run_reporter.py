from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from flock_ray.cluster.run_reporter import MAX_SILO_LINES, RunReporter, _rate
from flock_ray.cluster.spec import SiloFacts
from flock_ray.config import Config
from flock_ray.telemetry.events import EventLog
from flock_ray.telemetry.table import Console
from flock_ray.training.data import RowCounts

pytestmark = pytest.mark.model


def noted(tokens: int, flops: float, seconds: float, rate: float) -> dict[str, float]:
    return {"tokens": tokens, "flops": flops, "seconds": seconds, "flops_per_second": rate}


def test_nobody_trained() -> None:
    assert _rate([]) is None


def test_rate_of_one_node() -> None:
    rate = _rate([noted(1_000, 3e9, 2.0, 5e9)])
    assert rate is not None
    assert (rate.tokens_per_second, rate.mfu) == pytest.approx((500.0, 0.3))


def test_a_fast_node_that_trained_less_weighs_less() -> None:
    """Tokens over the slowest node's time; operations over what each could have done in its own."""
    rate = _rate([noted(1_000, 3e9, 2.0, 5e9), noted(100, 1e9, 0.5, 10e9)])
    assert rate is not None
    assert rate.tokens_per_second == pytest.approx(1_100 / 2.0)
    assert rate.mfu == pytest.approx(4e9 / (2.0 * 5e9 + 0.5 * 10e9))


def facts(silo: int, rows: RowCounts) -> SiloFacts:
    return SiloFacts(silo, f"owner-{silo}", 900, 10, 4, 60, 200, rows)


def told(folder: Path, *opened: SiloFacts) -> tuple[list[str], list[dict[str, object]]]:
    """Lines of the console, and events."""
    text = io.StringIO()
    with EventLog(folder / "events.jsonl") as events:
        reporter = RunReporter(Config(), {}, Console(text), events)
        reporter.opened(opened)
        reporter.opened(opened)  # by another rank, or a worker that was rebuilt
    return text.getvalue().splitlines(), [json.loads(line) for line in (folder / "events.jsonl").open()]


def test_what_was_left_out_of_a_silo_is_told_once(tmp_path: Path) -> None:
    rows = RowCounts(read=1_200, bad=3, dropped=42, cut=1_080, rewritten=7, target_tokens=40_331)
    lines, events = told(tmp_path, facts(0, RowCounts(read=60, target_tokens=900)), facts(1, rows))
    assert lines == [
        "silo owner-1: 1,200 rows read, 1,080 cut to 128 tokens, 42 dropped (no token to learn), 3 skipped (they cannot"
        " be read), 7 rewritten (the chat template leaves out white space or earlier thoughts); 40,331 tokens to learn"
    ]
    assert [(event["kind"], event["silo"]) for event in events] == [("silo_opened", 0), ("silo_opened", 1)]
    assert events[1]["rows"] == {
        "read": 1_200, "bad": 3, "dropped": 42, "cut": 1_080, "rewritten": 7, "target_tokens": 40_331
    }  # fmt: skip


def test_a_thousand_silos_do_not_fill_the_console(tmp_path: Path) -> None:
    lines, events = told(tmp_path, *(facts(silo, RowCounts(read=9, cut=1)) for silo in range(1_000)))
    assert len(lines) == MAX_SILO_LINES + 1 and lines[-1].startswith(f"and {1_000 - MAX_SILO_LINES} more silos")
    assert len(events) == 1_000
