from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from flock_ray.cluster.data_table import COLUMNS
from flock_ray.cluster.run_reporter import RunReporter, _rate
from flock_ray.cluster.spec import SiloFacts
from flock_ray.config import Config, DataConfig
from flock_ray.telemetry.events import EventLog
from flock_ray.telemetry.table import MAX_ROWS, Console
from flock_ray.training.counts import RowCounts

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


def told(folder: Path, kind: str, *opened: SiloFacts) -> tuple[list[str], list[dict[str, object]]]:
    """Lines of the console, and events."""
    text = io.StringIO()
    with EventLog(folder / "events.jsonl") as events:
        reporter = RunReporter(Config(data=DataConfig(kind=kind)), {}, Console(text), events)
        reporter.opened(opened)
        reporter.opened(opened)  # by another rank, or a worker that was rebuilt
    lines = [line.strip() for line in text.getvalue().splitlines() if line.strip()]
    return lines, [json.loads(line) for line in (folder / "events.jsonl").open()]


ROWS = RowCounts(read=1_200, bad=3, dropped=42, cut=1_080, rewritten=7, target_tokens=40_331)


def test_what_became_of_the_rows_is_told_once(tmp_path: Path) -> None:
    title, head, _, *rows, legend = told(
        tmp_path, "jsonl", facts(1, ROWS), facts(0, RowCounts(read=60, target_tokens=900))
    )[0]
    assert (title, head.split()) == ("data", " ".join(COLUMNS).split())
    assert [row.split() for row in rows] == [
        ["0", "owner-0", "60", "0", "0", "0", "0", "900"],
        ["1", "owner-1", "1200", "1080", "42", "3", "7", "40331"],
    ]
    assert legend.startswith("(cut: to 128 tokens; dropped: no token to learn; bad: cannot be read;")


def test_what_became_of_the_rows_is_an_event(tmp_path: Path) -> None:
    _, [event] = told(tmp_path, "stdlib_code", facts(1, ROWS))
    assert (event["kind"], event["silo"], event["name"]) == ("silo_opened", 1, "owner-1")
    assert event["rows"] == {
        "read": 1_200, "bad": 3, "dropped": 42, "cut": 1_080, "rewritten": 7, "target_tokens": 40_331
    }  # fmt: skip


def test_a_thousand_silos_do_not_fill_the_console(tmp_path: Path) -> None:
    lines, events = told(tmp_path, "jsonl", *(facts(silo, RowCounts(read=9, cut=1)) for silo in range(1_000)))
    assert len(lines) == 3 + MAX_ROWS + 2 and lines[-2] == f"and {1_000 - MAX_ROWS} more silos"
    assert len(events) == 1_000
